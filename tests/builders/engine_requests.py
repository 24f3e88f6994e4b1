"""Recording requests for the engine, with prompts and drafts for them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from bot.errors import MynaError
from bot.generation.engine.batch import Batch
from bot.generation.engine.drafts import PromptLookup
from bot.generation.engine.grammar import Grammar
from bot.generation.engine.lora import LoraVersion
from bot.generation.engine.sequence import Sequence as Tokens
from bot.generation.port import Finish, Piece, Sampling


class Wanted:
    """A `Request` that records its events."""

    def __init__(
        self,
        prompt_ids: Sequence[int],
        max_tokens: int = 20,
        *,
        sampling: Sampling | None = None,
        version: LoraVersion | None = None,
        priority: int = 0,
        grammar: Grammar | None = None,
    ) -> None:
        self.prompt_ids = tuple(prompt_ids)
        self.max_tokens = max_tokens
        self.sampling = sampling or Sampling()
        self.version = version
        self.priority = priority
        self.grammar = grammar
        self.aborted = False
        self.events: list[Piece | Finish | MynaError] = []
        self.num_ends = 0
        self.tokens: Tokens | None = None

    def deliver(self, event: Piece | Finish | MynaError) -> None:
        self.events.append(event)

    def end(self) -> None:
        self.num_ends += 1

    @property
    def new_ids(self) -> list[int]:
        """Return the generated tokens."""
        assert self.tokens is not None
        return self.tokens.token_ids[self.tokens.num_prompt :]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Piece))


def add(batch: Batch, *wanted: Wanted) -> None:
    for one in wanted:
        batch.add(one)
        one.tokens = next((tokens for tokens, reply in batch._replies.items() if reply.request is one), None)


def finish(batch: Batch, *wanted: Wanted) -> list[list[int]]:
    """Add these requests to the batch, run until it is empty, and return their tokens."""
    add(batch, *wanted)
    while len(batch):
        batch.step()
    assert all(one.num_ends == 1 for one in wanted)
    return [one.new_ids for one in wanted]


def fortune_teller(wanted: Sequence[Wanted], said_later: Sequence[list[int]]) -> Any:
    """Return a replacement of `PromptLookup.propose` that drafts the coming tokens, and a wrong one now and then."""
    source = random.Random(17)
    replies = {tuple(one.prompt_ids): reply for one, reply in zip(wanted, said_later, strict=True)}

    def propose(lookup: PromptLookup, most: int) -> tuple[int, ...]:
        said = tuple(lookup._token_ids)
        prompt = next(prompt for prompt in replies if said[: len(prompt)] == prompt)
        told = replies[prompt][len(said) - len(prompt) :][: source.randint(0, most)]
        if told and source.random() < 0.4:
            told[source.randrange(len(told))] = 99
        return tuple(told)

    return propose


def prompts(*lengths: int, seed: int = 0) -> list[list[int]]:
    source = random.Random(seed)
    return [[source.randrange(100, 40_000) for _ in range(length)] for length in lengths]


def count_computed(batch: Batch) -> dict[str, int]:
    counted = {"prompt": 0, "steps": 0}
    schedule = batch._scheduler.schedule

    def counting() -> Any:
        chunks = schedule()
        counted["prompt"] += sum(chunk.count for chunk in chunks if chunk.start < chunk.sequence.num_prompt)
        counted["steps"] += 1
        return chunks

    batch._scheduler.schedule = counting  # type: ignore[method-assign]
    return counted
