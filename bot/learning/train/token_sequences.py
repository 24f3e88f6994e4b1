"""Examples as token ids, and batches of them.

Knows: how a row is rendered, exactly as the engine would read and write it, which of its tokens are learnt, how rows
are put together so that little is filled up. Does not know: weights, losses.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from bot.generation.engine.chat_tokenizer import ChatTokenizer
from bot.generation.port import ChatMessage
from bot.learning.train.network import Batch

# What is filled up is computed, too: rows that are shorter than this share of the longest go into a group of their own.
LEAST_FILLED = 0.8


@dataclass(frozen=True, slots=True)
class Row:
    """A conversation in tokens; `learnt` are the places, ascending, of the tokens that the assistant should write.

    `name` says where it came from, for messages.
    """

    token_ids: tuple[int, ...]
    learnt: tuple[int, ...]
    name: str = field(default="", compare=False)

    def __len__(self) -> int:
        return len(self.token_ids)


def render(
    messages: Sequence[ChatMessage], answer: str, tokenizer: ChatTokenizer, end_of_turn: int, name: str = ""
) -> Row:
    """What the model reads before its answer, and the answer with the token that ends its turn."""
    prompt = tokenizer.encode(messages)
    token_ids = (*prompt, *tokenizer.encode_answer(answer), end_of_turn)
    return Row(token_ids, tuple(range(len(prompt), len(token_ids))), name)


def join_turns(rows: Sequence[Row]) -> list[Row]:
    """Rows of which one goes on where another ends become one that learns the answers of both, in the order given.

    The turns of one conversation are computed once so, and not once for each answer.
    """
    kept: list[Row] = []
    for row in sorted(rows, key=lambda one: one.token_ids, reverse=True):
        last = kept[-1] if kept else None
        if last is not None and last.token_ids[: len(row)] == row.token_ids:
            kept[-1] = Row(last.token_ids, tuple(sorted({*last.learnt, *row.learnt})), last.name)
        else:
            kept.append(row)
    places = {row.token_ids: number for number, row in reversed(list(enumerate(rows)))}
    return sorted(kept, key=lambda one: places[one.token_ids])


def make_batch(rows: Sequence[Row]) -> Batch:
    """Rows side by side. Their order is kept, and that of each row's targets."""
    length = max(len(row) for row in rows)
    token_ids = torch.zeros(len(rows), length, dtype=torch.long)
    for number, row in enumerate(rows):
        token_ids[number, : len(row)] = torch.tensor(row.token_ids)
    wanted = [(number, place) for number, row in enumerate(rows) for place in row.learnt]
    numbers = torch.tensor([number for number, _ in wanted], dtype=torch.long)
    places = torch.tensor([place for _, place in wanted], dtype=torch.long)
    return Batch(token_ids, numbers, places - 1, token_ids[numbers, places])


def by_length(rows: Sequence[Row], most_tokens: int) -> Iterator[list[int]]:
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
