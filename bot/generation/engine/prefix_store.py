"""Keys and values of earlier conversations, kept for those that begin with the same tokens.

Knows: which tokens belong to what is kept, what was used last, how much may be kept. Does not know: torch; what is kept
is opaque. Contents of different versions never meet, as they are looked up by version.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Content = TypeVar("Content")


@dataclass(frozen=True, slots=True, eq=False)
class Kept(Generic[Content]):
    """Some tokens and what was computed for each of them."""

    version: Hashable
    token_ids: tuple[int, ...]
    content: Content


class PrefixStore(Generic[Content]):
    """Forgets what was used longest ago once there are more than `max_tokens`."""

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self._kept: OrderedDict[Kept[Content], None] = OrderedDict()
        self.num_tokens = 0

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, version: Hashable, token_ids: Sequence[int]) -> tuple[Kept[Content] | None, int]:
        """What begins with the most of these tokens, and how many that are."""
        wanted, best, longest = tuple(token_ids), None, 0
        for one in self._kept:
            if one.version == version and (common := common_length(one.token_ids, wanted)) > longest:
                best, longest = one, common
        if best is not None:
            self._kept.move_to_end(best)
        return best, longest

    def take(self, one: Kept[Content]) -> None:
        """Drop what somebody goes on from: it will be kept anew, and longer."""
        self._drop(one)

    def keep(self, version: Hashable, token_ids: Sequence[int], content: Content) -> None:
        """Keep this, in place of all that it continues; not if something that is kept continues it."""
        if len(token_ids) > self.max_tokens:
            return
        new = Kept(version, tuple(token_ids), content)
        for one in [one for one in self._kept if one.version == version]:
            common = common_length(one.token_ids, new.token_ids)
            if common == len(new.token_ids):
                self._kept.move_to_end(one)
                return
            if common == len(one.token_ids):
                self._drop(one)
        self._kept[new] = None
        self.num_tokens += len(new.token_ids)
        while self.num_tokens > self.max_tokens:
            self._drop(next(iter(self._kept)))

    def forget(self, version: Hashable) -> None:
        """Drop all that a version computed."""
        for one in list(self._kept):
            if one.version == version:
                self._drop(one)

    def clear(self) -> None:
        """Drop all."""
        self._kept.clear()
        self.num_tokens = 0

    def _drop(self, one: Kept[Content]) -> None:
        del self._kept[one]
        self.num_tokens -= len(one.token_ids)


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with; by halving, as comparing slices is much quicker than single tokens."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
