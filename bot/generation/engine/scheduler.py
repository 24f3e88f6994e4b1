"""What is computed in each step: which sequences run, and how much of each prompt.

Knows: priority and order of arrival, rows of the cache, how many tokens a step and the cache may take. Does not know:
torch, text, who asked. A step takes one token of every running sequence, with its draft, and, within its budget, pieces
of unfinished prompts.
"""

from __future__ import annotations

import operator
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass

from bot.generation.engine.sequence import Chunk, Sequence


@dataclass(frozen=True, slots=True)
class Limits:
    """`step_tokens` bounds how long a step can keep the others waiting; `cache_tokens` what all rows may take."""

    rows: int = 32
    step_tokens: int = 256
    cache_tokens: int = 32_768


@dataclass(frozen=True, slots=True)
class Move:
    """The last row's content takes a free place, so that the rows in use have no gap."""

    source: int
    target: int


class Scheduler:
    """Rows `0` to `len(running) - 1` are in use, without a gap; a sequence's row is its place in `running`.

    `cache_size` says what so many rows of so many tokens take in truth.
    """

    def __init__(self, limits: Limits, cache_size: Callable[[int, int], int] = operator.mul) -> None:
        self.limits = limits
        self._cache_size = cache_size
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self._ranks: dict[Sequence, tuple[int, int]] = {}
        self._num_arrived = 0

    def __len__(self) -> int:
        return len(self._ranks)

    def add(self, sequence: Sequence) -> None:
        """Let a sequence wait for its turn: after all of its priority, before those of a later one."""
        self._ranks[sequence] = (sequence.priority, self._num_arrived)
        self._num_arrived += 1
        insort(self.waiting, sequence, key=self._ranks.__getitem__)

    def has_room_for(self, sequence: Sequence) -> bool:
        """Whether there is a row, and the cache would hold all. One alone is always let in."""
        if len(self.running) >= self.limits.rows:
            return False
        return not self.running or self._fits([*self.running, sequence])

    def admit(self, sequence: Sequence) -> None:
        """Give a row to one of `waiting`."""
        self.waiting.remove(sequence)
        sequence.row = len(self.running)
        self.running.append(sequence)

    def overflowing(self) -> Sequence | None:
        """Who must make room if the next step could overfill the cache: the least urgent. The caller preempts it."""
        if len(self.running) > 1 and not self._fits(self.running):
            return max(self.running, key=lambda one: (one.priority, not one.alone, self._ranks[one]))
        return None

    def has_room_for_drafts(self, length: int) -> bool:
        """Whether all could go on by so many tokens. Nobody should be preempted for what may turn out wrong."""
        return bool(self.running) and self._fits(self.running, 1 + length)

    def schedule(self) -> list[Chunk]:
        """The next step. Empty only if nothing runs."""
        chunks = [Chunk(one, 1, one.draft) for one in self.running if one.num_missing == 1]
        budget = full = max(self.limits.step_tokens - sum(chunk.length for chunk in chunks), 1)
        for one in sorted(self.running, key=self._ranks.__getitem__):
            if one.num_missing == 1 or budget <= 0 or (one.alone and budget < full):
                continue
            chunks.append(Chunk(one, self._alone_count(one) if one.alone else min(one.num_missing, budget)))
            budget -= chunks[-1].count
        return chunks

    def _alone_count(self, sequence: Sequence) -> int:
        """The same pieces each time, also when it was preempted: the prompt's, and then token by token."""
        return min(max(sequence.num_prompt - sequence.num_computed, 1), self.limits.step_tokens)

    def preempt(self, sequence: Sequence) -> Move | None:
        """Take the row away; the sequence waits again, before all who came later, and is computed anew."""
        move = self._free_row(sequence)
        sequence.num_computed = 0
        sequence.draft = ()
        insort(self.waiting, sequence, key=self._ranks.__getitem__)
        return move

    def remove(self, sequence: Sequence) -> Move | None:
        """End a sequence, wherever it stands. Removing it twice does nothing."""
        if self._ranks.pop(sequence, None) is None:
            return None
        if sequence.row is None:
            self.waiting.remove(sequence)
            return None
        return self._free_row(sequence)

    def _free_row(self, sequence: Sequence) -> Move | None:
        target, last = sequence.row, self.running.pop()
        assert target is not None
        sequence.row = None
        if last is sequence:
            return None
        move = Move(len(self.running), target)
        self.running[target], last.row = last, target
        return move

    @property
    def longest(self) -> int:
        """How many tokens the longest row will have after the next step."""
        return max((len(one.token_ids) + len(one.draft) for one in self.running), default=0)

    def _fits(self, sequences: list[Sequence], ahead: int = 1) -> bool:
        """Whether the cache holds so many tokens more of each: all rows are as long as the longest."""
        longest = max(len(one.token_ids) for one in sequences) + ahead
        return self._cache_size(len(sequences), longest) <= self.limits.cache_tokens
