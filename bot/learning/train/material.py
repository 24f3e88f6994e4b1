"""Training material: examples rendered as token rows, split and batched.

Rows are rendered exactly as the engine reads and writes a conversation.
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

# With fewer a training changes nothing, or memorises a few rows (design notes; tloen/alpaca-lora#324).
MIN_ANSWERS = 50
# Measuring the held-out loss should not take longer than the steps between two measurements.
WATCHED_SHARE, MIN_WATCHED, MOST_WATCHED = 0.1, 8, 48
_KINDS: tuple[ExampleKind, ...] = ("answer", "pair", "thumb")
MIN_PAIRS = 100
MIN_THUMBS = 150
MIN_THUMBS_OF_A_KIND = 30
# Padding costs computation, too: a row shorter than this share of the longest begins a new group.
LEAST_FILLED = 0.8


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A conversation as token ids, and the ascending positions (`learnt`) of the tokens that the assistant writes.

    `name` gives the row's origin in messages.
    """

    token_ids: tuple[int, ...]
    learnt: tuple[int, ...]
    name: str = field(default="", compare=False)

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class AnswerPair:
    """A better and a worse answer to one question."""

    chosen: TokenRow
    rejected: TokenRow


@dataclass(frozen=True, slots=True)
class Thumb:
    """An answer with a rating, and the answer to another question behind the same prompt (`elsewhere`)."""

    row: TokenRow
    good: bool
    elsewhere: TokenRow


@dataclass(slots=True)
class Side:
    """Rendered examples of all kinds."""

    answers: list[TokenRow] = field(default_factory=list)
    pairs: list[AnswerPair] = field(default_factory=list)
    thumbs: list[Thumb] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Material:
    """The examples of a training: `train` to learn from, `watched` as the validation set for early stopping.

    `num_answers` counts the answers of both; rows may be fewer, as a row holds all answers of a conversation.
    `num_held_out` counts the conversations that the evaluation will use; they are not in here.
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
    """Render the examples of the training split. Examples of more than `most_tokens` are dropped and counted."""
    learnt = [example for example in examples if example.split == "train"]
    kept_back = set[str]().union(
        *(_kept_back(example.conversation_id for example in learnt if example.kind == kind) for kind in _KINDS)
    )
    renderer = _Renderer(system_prompt, tokenizer, end_of_turn, most_tokens)
    train = renderer.side([example for example in learnt if example.conversation_id not in kept_back])
    watched = renderer.side([example for example in learnt if example.conversation_id in kept_back])
    held_out = {
        example.conversation_id for example in examples if example.split == "held_out" and example.kind == "answer"
    }
    return Material(train, watched, renderer.num_answers, len(held_out), renderer.num_too_long)


def _kept_back(conversation_ids: Iterable[str]) -> list[str]:
    """Choose the conversations to watch by the hashes of their ids, so that their order makes no difference."""
    known = sorted(set(conversation_ids), key=lambda conversation_id: hashlib.sha256(conversation_id.encode()).digest())
    return known[: min(max(MIN_WATCHED, round(WATCHED_SHARE * len(known))), MOST_WATCHED)]


def why_too_little(material: Material) -> str | None:
    """Say which examples a useful training lacks, and how to get them; None if there are enough."""
    if material.num_answers < MIN_ANSWERS:
        return (
            f"There are {material.num_answers} answers to learn from, and a training needs at least {MIN_ANSWERS}: "
            "approve or correct replies, or import conversations."
        )
    if material.num_held_out < MIN_ROWS or len(material.watched.answers) < MIN_WATCHED:
        return (
            f"Only {material.num_held_out} conversations are held out, and {MIN_ROWS} are needed to see "
            "whether a training helps. Import more conversations, or conversations of more people."
        )
    return None


def left_out_stages(material: Material) -> list[str]:
    """Say in a sentence each why existing pairs or thumbs were not learnt from."""
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
    return f"{count} are left for validation, and {MIN_WATCHED} are needed" if count < MIN_WATCHED else ""


class _Renderer:
    def __init__(self, system_prompt: str, tokenizer: ChatTokenizer, end_of_turn: int, most_tokens: int) -> None:
        self._system_prompt, self._most_tokens = system_prompt, most_tokens
        self._tokenizer, self._end_of_turn = tokenizer, end_of_turn
        self.num_answers = self.num_too_long = 0

    def side(self, examples: Sequence[Example]) -> Side:
        by_kind = {kind: [example for example in examples if example.kind == kind] for kind in _KINDS}
        answers = self.rows(by_kind["answer"])
        self.num_answers += len(answers)
        return Side(join_turns(answers), self.pairs(by_kind["pair"]), self.thumbs(by_kind["thumb"]))

    def rows(self, examples: Sequence[Example]) -> list[TokenRow]:
        return [row for example in examples if (row := self._row(example, example.chosen)) is not None]

    def pairs(self, examples: Sequence[Example]) -> list[AnswerPair]:
        found = []
        for example in examples:
            chosen, rejected = self._row(example, example.chosen), self._row(example, example.rejected or "")
            if chosen is not None and rejected is not None:
                found.append(AnswerPair(chosen, rejected))
        return found

    def thumbs(self, examples: Sequence[Example]) -> list[Thumb]:
        """Render each with the answer of the example before behind its own prompt, for KTO's divergence estimate."""
        found = []
        for number, example in enumerate(examples):
            row, elsewhere = self._row(example, example.chosen), self._row(example, examples[number - 1].chosen)
            if row is not None and elsewhere is not None and len(examples) > 1:
                found.append(Thumb(row, bool(example.good), elsewhere))
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
    """Put the system prompt in front, unless the conversation has its own."""
    turns = [ChatMessage(message["role"], message["content"]) for message in messages]  # type: ignore[arg-type]
    if turns and turns[0].role == "system":
        return turns
    return [ChatMessage("system", system_prompt), *turns] if system_prompt else turns


def render(
    messages: Sequence[ChatMessage], answer: str, tokenizer: ChatTokenizer, end_of_turn: int, name: str = ""
) -> TokenRow:
    """Tokenize a prompt and its answer, with the token that ends the turn; the row learns the answer and that token."""
    prompt = tokenizer.encode(messages)
    token_ids = (*prompt, *tokenizer.encode_answer(answer), end_of_turn)
    return TokenRow(token_ids, tuple(range(len(prompt), len(token_ids))), name)


def join_turns(rows: Sequence[TokenRow]) -> list[TokenRow]:
    """Merge each row that is a prefix of another into it; the merged row learns the answers of both. Keeps the order.

    The turns of a conversation are then computed once, and not once for each answer.
    """
    kept: list[TokenRow] = []
    for row in sorted(rows, key=lambda row: row.token_ids, reverse=True):
        last = kept[-1] if kept else None
        if last is not None and last.token_ids[: len(row)] == row.token_ids:
            kept[-1] = TokenRow(last.token_ids, tuple(sorted({*last.learnt, *row.learnt})), last.name)
        else:
            kept.append(row)
    places = {row.token_ids: number for number, row in reversed(list(enumerate(rows)))}
    return sorted(kept, key=lambda row: places[row.token_ids])


def make_batch(rows: Sequence[TokenRow]) -> TokenBatch:
    """Pad rows to one length. Keeps their order, and the order of the targets within each row."""
    length = max(len(row) for row in rows)
    token_ids = torch.zeros(len(rows), length, dtype=torch.long)
    for number, row in enumerate(rows):
        token_ids[number, : len(row)] = torch.tensor(row.token_ids)
    wanted = [(number, place) for number, row in enumerate(rows) for place in row.learnt]
    numbers = torch.tensor([number for number, _ in wanted], dtype=torch.long)
    places = torch.tensor([place for _, place in wanted], dtype=torch.long)
    return TokenBatch(token_ids, numbers, places - 1, token_ids[numbers, places])


def by_length(rows: Sequence[TokenRow], most_tokens: int) -> Iterator[list[int]]:
    """Yield groups of indices of rows of similar length, at most `most_tokens` with padding, but at least one row."""
    group: list[int] = []
    for place in sorted(range(len(rows)), key=lambda number: (-len(rows[number]), number)):
        longest = len(rows[group[0]]) if group else 0
        if group and (longest * (len(group) + 1) > most_tokens or len(rows[place]) < LEAST_FILLED * longest):
            yield group
            group = []
        group.append(place)
    if group:
        yield group


def epochs_of(count: int, rows_per_step: int, steps: int, seed: int) -> list[list[int]]:
    """Return the indices of each step's examples: shuffled anew in each epoch, the same for the same seed."""
    order: list[int] = []
    epoch = 0
    while len(order) < steps * rows_per_step:
        numbers = list(range(count))
        random.Random(f"{seed}-{epoch}").shuffle(numbers)
        order += numbers
        epoch += 1
    return [order[step * rows_per_step : (step + 1) * rows_per_step] for step in range(steps)]
