"""Examples as what the stages of a training learn from, or the reason why there is too little.

Knows: how many examples of each kind are worth a stage. Does not know: where examples come from, how a stage runs.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from bot.errors import InvalidInput
from bot.generation.engine.chat_tokenizer import ChatTokenizer
from bot.generation.port import ChatMessage
from bot.generation.prompt import with_passages
from bot.learning.judge.gate import MIN_ROWS
from bot.learning.train.network import TokenBatch
from storage.learning_values import Example, ExampleKind

# With fewer a training changes nothing, or learns a few rows by heart (design notes; tloen/alpaca-lora#324).
MIN_ANSWERS = 50
# A look at all that is watched should not take longer than what is learnt between two looks.
WATCHED_SHARE, MIN_WATCHED, MOST_WATCHED = 0.1, 8, 48
_KINDS: tuple[ExampleKind, ...] = ("answer", "pair", "thumb")
MIN_PAIRS = 100
MIN_THUMBS = 150
MIN_THUMBS_OF_A_KIND = 30
# What is filled up is computed, too: rows that are shorter than this share of the longest go into a group of their own.
LEAST_FILLED = 0.8


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A conversation in tokens; `learnt` are the places, ascending, of the tokens that the assistant should write.

    `name` says where it came from, for messages.
    """

    token_ids: tuple[int, ...]
    learnt: tuple[int, ...]
    name: str = field(default="", compare=False)

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class AnswerPair:
    """Two answers to one question."""

    chosen: TokenRow
    rejected: TokenRow


@dataclass(frozen=True, slots=True)
class Thumb:
    """An answer that somebody found good or bad, and the same answer to another question."""

    row: TokenRow
    good: bool
    elsewhere: TokenRow


@dataclass(slots=True)
class Side:
    """Examples of all kinds, rendered."""

    answers: list[TokenRow] = field(default_factory=list)
    pairs: list[AnswerPair] = field(default_factory=list)
    thumbs: list[Thumb] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Material:
    """What is learnt from, and what is only `watched` meanwhile, to end in time; what judges later is not here at all.

    `num_answers` counts the answers of both; rows may be fewer, as one row holds all answers of a conversation.
    `num_held_out` counts the conversations that will judge.
    """

    train: Side
    watched: Side
    num_answers: int
    num_held_out: int
    num_too_long: int

    @property
    def has_pairs(self) -> bool:
        return not _missing_pairs(self)

    @property
    def has_thumbs(self) -> bool:
        return not _missing_thumbs(self)


def prepare(
    examples: Sequence[Example], system_prompt: str, tokenizer: ChatTokenizer, end_of_turn: int, most_tokens: int
) -> Material:
    """Render what may be learnt from; examples with more than `most_tokens` are left out and counted, never cut."""
    learnt = [one for one in examples if one.split == "train"]
    kept_back = set[str]().union(
        *(_kept_back(one.conversation_id for one in learnt if one.kind == kind) for kind in _KINDS)
    )
    renderer = _Renderer(system_prompt, tokenizer, end_of_turn, most_tokens)
    train = renderer.side([one for one in learnt if one.conversation_id not in kept_back])
    watched = renderer.side([one for one in learnt if one.conversation_id in kept_back])
    held_out = {one.conversation_id for one in examples if one.split == "held_out" and one.kind == "answer"}
    return Material(train, watched, renderer.num_answers, len(held_out), renderer.num_too_long)


def _kept_back(conversation_ids: Iterable[str]) -> list[str]:
    """The conversations that are watched: always the same ones of the same, whatever order they come in."""
    known = sorted(set(conversation_ids), key=lambda one: hashlib.sha256(one.encode()).digest())
    return known[: min(max(MIN_WATCHED, round(WATCHED_SHARE * len(known))), MOST_WATCHED)]


def why_too_little(material: Material) -> str | None:
    """What is missing before a training makes sense, and what would help; None if there is enough."""
    if material.num_answers < MIN_ANSWERS:
        return (
            f"There are {material.num_answers} answers to learn from, and a training needs at least {MIN_ANSWERS}: "
            "approve or correct replies, or import conversations."
        )
    if material.num_held_out < MIN_ROWS or len(material.watched.answers) < MIN_WATCHED:
        return (
            f"Only {material.num_held_out} conversations are held out, and {MIN_ROWS} are needed to see "
            "whether a training helps. More conversations are needed, or ones of more people."
        )
    return None


def left_out_stages(material: Material) -> list[str]:
    """Why pairs or thumbs that there are were not learnt from, a sentence each."""
    found = []
    if material.train.pairs and (missing := _missing_pairs(material)):
        found.append(f"Pairs were not learnt from: {missing}.")
    if material.train.thumbs and (missing := _missing_thumbs(material)):
        found.append(f"Thumbs were not learnt from: {missing}.")
    return found


def _missing_pairs(material: Material) -> str:
    if (count := len(material.train.pairs)) < MIN_PAIRS:
        return f"there are {count}, and {MIN_PAIRS} are needed"
    return _missing_watched(len(material.watched.pairs))


def _missing_thumbs(material: Material) -> str:
    count, good = len(material.train.thumbs), sum(thumb.good for thumb in material.train.thumbs)
    if count < MIN_THUMBS:
        return f"there are {count}, and {MIN_THUMBS} are needed"
    if min(good, count - good) < MIN_THUMBS_OF_A_KIND:
        return f"{good} are up and {count - good} down, and {MIN_THUMBS_OF_A_KIND} of each are needed"
    return _missing_watched(len(material.watched.thumbs))


def _missing_watched(count: int) -> str:
    return f"{count} are there to watch, and {MIN_WATCHED} are needed" if count < MIN_WATCHED else ""


class _Renderer:
    def __init__(self, system_prompt: str, tokenizer: ChatTokenizer, end_of_turn: int, most_tokens: int) -> None:
        self._system_prompt, self._most_tokens = system_prompt, most_tokens
        self._tokenizer, self._end_of_turn = tokenizer, end_of_turn
        self.num_answers = self.num_too_long = 0

    def side(self, examples: Sequence[Example]) -> Side:
        by_kind = {kind: [one for one in examples if one.kind == kind] for kind in _KINDS}
        answers = self.rows(by_kind["answer"])
        self.num_answers += len(answers)
        return Side(join_turns(answers), self.pairs(by_kind["pair"]), self.thumbs(by_kind["thumb"]))

    def rows(self, examples: Sequence[Example]) -> list[TokenRow]:
        return [row for one in examples if (row := self._row(one, one.chosen)) is not None]

    def pairs(self, examples: Sequence[Example]) -> list[AnswerPair]:
        found = []
        for one in examples:
            chosen, rejected = self._row(one, one.chosen), self._row(one, one.rejected or "")
            if chosen is not None and rejected is not None:
                found.append(AnswerPair(chosen, rejected))
        return found

    def thumbs(self, examples: Sequence[Example]) -> list[Thumb]:
        """Each with the answer of the next one put after its own question, as KTO's estimate needs it."""
        found = []
        for number, one in enumerate(examples):
            row, elsewhere = self._row(one, one.chosen), self._row(one, examples[number - 1].chosen)
            if row is not None and elsewhere is not None and len(examples) > 1:
                found.append(Thumb(row, bool(one.good), elsewhere))
        return found

    def _row(self, example: Example, answer: str) -> TokenRow | None:
        try:
            messages = with_passages(with_system_prompt(example.messages, self._system_prompt), example.passages)
            row = render(messages, answer, self._tokenizer, self._end_of_turn, example.message_id)
        except InvalidInput:  # a template that can't take this conversation could not serve it either
            row = None
        if row is None or len(row) > self._most_tokens:
            self.num_too_long += 1
            return None
        return row


def with_system_prompt(messages: Sequence[Mapping[str, str]], system_prompt: str) -> list[ChatMessage]:
    """The house's instructions in front, unless the conversation had its own."""
    turns = [ChatMessage(one["role"], one["content"]) for one in messages]  # type: ignore[arg-type]
    if turns and turns[0].role == "system":
        return turns
    return [ChatMessage("system", system_prompt), *turns] if system_prompt else turns


def render(
    messages: Sequence[ChatMessage], answer: str, tokenizer: ChatTokenizer, end_of_turn: int, name: str = ""
) -> TokenRow:
    """What the model reads before its answer, and the answer with the token that ends its turn."""
    prompt = tokenizer.encode(messages)
    token_ids = (*prompt, *tokenizer.encode_answer(answer), end_of_turn)
    return TokenRow(token_ids, tuple(range(len(prompt), len(token_ids))), name)


def join_turns(rows: Sequence[TokenRow]) -> list[TokenRow]:
    """Rows of which one goes on where another ends become one that learns the answers of both, in the order given.

    The turns of one conversation are computed once so, and not once for each answer.
    """
    kept: list[TokenRow] = []
    for row in sorted(rows, key=lambda one: one.token_ids, reverse=True):
        last = kept[-1] if kept else None
        if last is not None and last.token_ids[: len(row)] == row.token_ids:
            kept[-1] = TokenRow(last.token_ids, tuple(sorted({*last.learnt, *row.learnt})), last.name)
        else:
            kept.append(row)
    places = {row.token_ids: number for number, row in reversed(list(enumerate(rows)))}
    return sorted(kept, key=lambda one: places[one.token_ids])


def make_batch(rows: Sequence[TokenRow]) -> TokenBatch:
    """Rows side by side. Their order is kept, and that of each row's targets."""
    length = max(len(row) for row in rows)
    token_ids = torch.zeros(len(rows), length, dtype=torch.long)
    for number, row in enumerate(rows):
        token_ids[number, : len(row)] = torch.tensor(row.token_ids)
    wanted = [(number, place) for number, row in enumerate(rows) for place in row.learnt]
    numbers = torch.tensor([number for number, _ in wanted], dtype=torch.long)
    places = torch.tensor([place for _, place in wanted], dtype=torch.long)
    return TokenBatch(token_ids, numbers, places - 1, token_ids[numbers, places])


def by_length(rows: Sequence[TokenRow], most_tokens: int) -> Iterator[list[int]]:
    """Places of rows of about the same length, in groups of at most `most_tokens` when filled up (or of one row)."""
    group: list[int] = []
    for place in sorted(range(len(rows)), key=lambda one: (-len(rows[one]), one)):
        longest = len(rows[group[0]]) if group else 0
        if group and (longest * (len(group) + 1) > most_tokens or len(rows[place]) < LEAST_FILLED * longest):
            yield group
            group = []
        group.append(place)
    if group:
        yield group


def epochs_of(count: int, rows_per_step: int, steps: int, seed: int) -> list[list[int]]:
    """Which rows each step learns from: all in an order of its own in each epoch, the same for the same seed."""
    order: list[int] = []
    epoch = 0
    while len(order) < steps * rows_per_step:
        numbers = list(range(count))
        random.Random(f"{seed}-{epoch}").shuffle(numbers)
        order += numbers
        epoch += 1
    return [order[step * rows_per_step : (step + 1) * rows_per_step] for step in range(steps)]
