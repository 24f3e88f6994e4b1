"""Continuous batching: choose what each step prefills and decodes.

A step decodes one token, with its draft, of every generation whose prompt is computed. The rest of the step's token
budget goes to prefill: pieces of unfinished prompts, by priority and order of arrival. Tokens are only counted here.
"""

from __future__ import annotations

import operator
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass

from bot.generation.engine.generation import Chunk, Generation


@dataclass(frozen=True, slots=True)
class StepLimits:
    """Limits of a step.

    rows: generations that run at once.
    step_tokens: tokens computed in a step, which bounds how long a prefill holds up the decodes beside it.
    cache_tokens: tokens that all rows together may reserve.
    """

    rows: int = 32
    step_tokens: int = 256
    cache_tokens: int = 32_768


@dataclass(frozen=True, slots=True)
class Move:
    """Move the last row's content to a row that became free, so that the rows in use have no gap."""

    source: int
    target: int


class Scheduler:
    """Queue of waiting generations and list of running ones.

    Rows `0` to `len(running) - 1` are in use, without a gap: a generation's row is its index in `running`.
    `cache_size(rows, tokens)` returns the tokens that the cache actually reserves for rows of that length.
    """

    def __init__(self, limits: StepLimits, cache_size: Callable[[int, int], int] = operator.mul) -> None:
        self.limits = limits
        self._cache_size = cache_size
        self.waiting: list[Generation] = []
        self.running: list[Generation] = []
        self._ranks: dict[Generation, tuple[int, int]] = {}
        self._num_arrived = 0

    def __len__(self) -> int:
        return len(self._ranks)

    def add(self, generation: Generation) -> None:
        """Queue a generation behind all of the same or a more urgent priority."""
        self._ranks[generation] = (generation.priority, self._num_arrived)
        self._num_arrived += 1
        insort(self.waiting, generation, key=self._ranks.__getitem__)

    def has_room_for(self, generation: Generation) -> bool:
        """Return True if a row is free and the cache would hold all. The first generation always has room."""
        if len(self.running) >= self.limits.rows:
            return False
        return not self.running or self._fits([*self.running, generation])

    def admit(self, generation: Generation) -> None:
        """Give a row to a generation of `waiting`."""
        self.waiting.remove(generation)
        generation.row = len(self.running)
        self.running.append(generation)

    def overflowing(self) -> Generation | None:
        """Return the least urgent generation if the next step could overfill the cache. The caller preempts it."""
        if len(self.running) > 1 and not self._fits(self.running):
            return max(self.running, key=lambda running: (running.priority, not running.alone, self._ranks[running]))
        return None

    def has_room_for_drafts(self, length: int) -> bool:
        """Return True if drafts of `length` tokens fit the cache: a draft may be wrong, so it must preempt nobody."""
        return bool(self.running) and self._fits(self.running, 1 + length)

    def schedule(self) -> list[Chunk]:
        """Return the chunks of the next step, decode before prefill. The list is empty only if nothing runs."""
        # Decode: all that have their prompt computed go on by one token and its draft.
        chunks = [Chunk(running, 1, running.draft) for running in self.running if running.is_decoding]

        # Prefill: pieces of unfinished prompts, with what is left of the budget.
        budget = full = max(self.limits.step_tokens - sum(chunk.length for chunk in chunks), 1)
        for running in sorted(self.running, key=self._ranks.__getitem__):
            if running.is_decoding or budget <= 0 or (running.alone and budget < full):
                continue
            count = self._alone_count(running) if running.alone else min(running.num_missing, budget)
            chunks.append(Chunk(running, count))
            budget -= count
        return chunks

    def _alone_count(self, generation: Generation) -> int:
        """Return the size of the next piece: the prompt's pieces, then single tokens, as before a preemption."""
        return min(max(generation.num_prompt - generation.num_computed, 1), self.limits.step_tokens)

    def preempt(self, generation: Generation) -> Move | None:
        """Take the row away. The generation waits at its old rank, and all its tokens are prefilled again."""
        move = self._free_row(generation)
        generation.num_computed = 0
        generation.draft = ()
        insort(self.waiting, generation, key=self._ranks.__getitem__)
        return move

    def remove(self, generation: Generation) -> Move | None:
        """End a generation, waiting or running. Removing it twice does nothing."""
        if self._ranks.pop(generation, None) is None:
            return None
        if generation.row is None:
            self.waiting.remove(generation)
            return None
        return self._free_row(generation)

    def _free_row(self, generation: Generation) -> Move | None:
        target, last = generation.row, self.running.pop()
        assert target is not None
        generation.row = None
        if last is generation:
            return None
        move = Move(len(self.running), target)
        self.running[target], last.row = last, target
        return move

    @property
    def longest(self) -> int:
        """Length in tokens of the longest row after the next step."""
        return max((len(running.token_ids) + len(running.draft) for running in self.running), default=0)

    def _fits(self, generations: list[Generation], ahead: int = 1) -> bool:
        """Return True if the cache holds `ahead` more tokens of each: all rows are as long as the longest."""
        longest = max(len(generation.token_ids) for generation in generations) + ahead
        return self._cache_size(len(generations), longest) <= self.limits.cache_tokens
