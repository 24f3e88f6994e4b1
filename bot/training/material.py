"""Examples as what the stages of a training learn from, or the reason why there is too little.

Knows: how many examples of each kind are worth a stage. Does not know: where examples come from, how a stage runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bot.engine.chat_tokenizer import ChatTokenizer
from bot.errors import InvalidInput
from bot.generator import ChatMessage
from bot.training.objectives import Pair, Thumb
from bot.training.sequences import Row, join_turns, render
from storage.learning_values import Example

# With fewer a training changes nothing, or learns a few rows by heart (design notes; tloen/alpaca-lora#324).
MIN_ANSWERS = 50
MIN_HELD_OUT = 8
MIN_PAIRS = 100
MIN_THUMBS = 150
MIN_THUMBS_OF_A_KIND = 30


@dataclass(slots=True)
class Side:
    """One side of the split."""

    answers: list[Row] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    thumbs: list[Thumb] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Material:
    """`num_answers` counts answers; rows may be fewer, as one row holds all answers of a conversation."""

    train: Side
    held_out: Side
    num_answers: int
    num_too_long: int

    @property
    def has_pairs(self) -> bool:
        return len(self.train.pairs) >= MIN_PAIRS and len(self.held_out.pairs) >= MIN_HELD_OUT

    @property
    def has_thumbs(self) -> bool:
        good = sum(thumb.good for thumb in self.train.thumbs)
        rarer = min(good, len(self.train.thumbs) - good)
        enough = len(self.train.thumbs) >= MIN_THUMBS and rarer >= MIN_THUMBS_OF_A_KIND
        return enough and len(self.held_out.thumbs) >= MIN_HELD_OUT


def prepare(
    examples: Sequence[Example], system_prompt: str, tokenizer: ChatTokenizer, end_of_turn: int, most_tokens: int
) -> Material:
    """Render all examples; those with more than `most_tokens` are left out and counted, never cut."""
    sides = {"train": Side(), "held_out": Side()}
    renderer = _Renderer(system_prompt, tokenizer, end_of_turn, most_tokens)
    for side_name, side in sides.items():
        theirs = [one for one in examples if one.split == side_name]
        side.answers = join_turns(renderer.rows([one for one in theirs if one.kind == "answer"]))
        side.pairs = renderer.pairs([one for one in theirs if one.kind == "pair"])
        side.thumbs = renderer.thumbs([one for one in theirs if one.kind == "thumb"])
    num_answers = sum(one.kind == "answer" and one.split == "train" for one in examples)
    return Material(sides["train"], sides["held_out"], num_answers, renderer.num_too_long)


def why_too_little(material: Material) -> str | None:
    """What is missing before a training makes sense, and what would help; None if there is enough."""
    if material.num_answers < MIN_ANSWERS:
        return (
            f"There are {material.num_answers} answers to learn from, and a training needs at least {MIN_ANSWERS}: "
            "approve or correct replies (`myna review`), or import conversations (`myna import FILE`)."
        )
    if len(material.held_out.answers) < MIN_HELD_OUT:
        return (
            f"Only {len(material.held_out.answers)} conversations are held out, and {MIN_HELD_OUT} are needed to see "
            "whether a training helps. More conversations are needed, or ones of more people."
        )
    return None


class _Renderer:
    def __init__(self, system_prompt: str, tokenizer: ChatTokenizer, end_of_turn: int, most_tokens: int) -> None:
        self._system_prompt, self._most_tokens = system_prompt, most_tokens
        self._tokenizer, self._end_of_turn = tokenizer, end_of_turn
        self.num_too_long = 0

    def rows(self, examples: Sequence[Example]) -> list[Row]:
        return [row for one in examples if (row := self._row(one, one.chosen)) is not None]

    def pairs(self, examples: Sequence[Example]) -> list[Pair]:
        found = []
        for one in examples:
            chosen, rejected = self._row(one, one.chosen), self._row(one, one.rejected or "")
            if chosen is not None and rejected is not None:
                found.append(Pair(chosen, rejected))
        return found

    def thumbs(self, examples: Sequence[Example]) -> list[Thumb]:
        """Each with the answer of the next one put after its own question, as KTO's estimate needs it."""
        found = []
        for number, one in enumerate(examples):
            row, elsewhere = self._row(one, one.chosen), self._row(one, examples[number - 1].chosen)
            if row is not None and elsewhere is not None and len(examples) > 1:
                found.append(Thumb(row, bool(one.good), elsewhere))
        return found

    def _row(self, example: Example, answer: str) -> Row | None:
        try:
            messages = with_system_prompt(example.messages, self._system_prompt)
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
