"""Recording requests for the engine, with prompts and drafts for them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from bot.errors import MynaError
from bot.generation.engine.batch import Batch
from bot.generation.engine.drafts import PromptLookup
from bot.generation.engine.generation import Generation
from bot.generation.engine.grammar import Grammar
from bot.generation.engine.lora import LoraVersion
from bot.generation.port import Finish, Piece, Sampling


class Wanted:
    """A `GenerationRequest` that records its events."""

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
        self.generation: Generation | None = None

    def deliver(self, event: Piece | Finish | MynaError) -> None:
        self.events.append(event)

    def end(self) -> None:
        self.num_ends += 1

    @property
    def new_ids(self) -> list[int]:
        """Generated token ids."""
        assert self.generation is not None
        return self.generation.token_ids[self.generation.num_prompt :]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Piece))


def add(batch: Batch, *wanted: Wanted) -> None:
    for request in wanted:
        batch.add(request)
        started = (generation for generation, reply in batch._replies.items() if reply.request is request)
        request.generation = next(started, None)


def finish(batch: Batch, *wanted: Wanted) -> list[list[int]]:
    """Add requests, run until nothing is left, and return their new token ids."""
    add(batch, *wanted)
    while len(batch):
        batch.step()
    assert all(request.num_ends == 1 for request in wanted)
    return [request.new_ids for request in wanted]


def scripted_drafts(wanted: Sequence[Wanted], expected: Sequence[list[int]]) -> Any:
    """Return a replacement of `PromptLookup.propose` that knows the expected replies, and is wrong now and then."""
    source = random.Random(17)
    replies = {tuple(request.prompt_ids): reply for request, reply in zip(wanted, expected, strict=True)}

    def propose(lookup: PromptLookup, most: int) -> tuple[int, ...]:
        token_ids = tuple(lookup._token_ids)
        prompt = next(prompt for prompt in replies if token_ids[: len(prompt)] == prompt)
        draft = replies[prompt][len(token_ids) - len(prompt) :][: source.randint(0, most)]
        if draft and source.random() < 0.4:
            draft[source.randrange(len(draft))] = 99
        return tuple(draft)

    return propose


def prompts(*lengths: int, seed: int = 0) -> list[list[int]]:
    source = random.Random(seed)
    return [[source.randrange(100, 8_000) for _ in range(length)] for length in lengths]


def count_computed(batch: Batch) -> dict[str, int]:
    counted = {"prompt": 0, "steps": 0}
    schedule = batch._scheduler.schedule

    def counting() -> Any:
        chunks = schedule()
        counted["prompt"] += sum(chunk.count for chunk in chunks if chunk.start < chunk.generation.num_prompt)
        counted["steps"] += 1
        return chunks

    batch._scheduler.schedule = counting  # type: ignore[method-assign]
    return counted
