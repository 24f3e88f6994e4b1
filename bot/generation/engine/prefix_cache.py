"""Prefix cache: keys and values of ended replies, for prompts that begin alike.

Prefixes are looked up by version, so those of different versions never mix.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Content = TypeVar("Content")


@dataclass(frozen=True, slots=True, eq=False)
class CachedPrefix(Generic[Content]):
    """Token ids and the content (keys and values) that a version computed for them."""

    version: Hashable
    token_ids: tuple[int, ...]
    content: Content


class PrefixCache(Generic[Content]):
    """Least recently used cache of prefixes that hold at most `max_tokens` together. `Content` is opaque."""

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self._prefixes: OrderedDict[CachedPrefix[Content], None] = OrderedDict()
        self.num_tokens = 0

    def __len__(self) -> int:
        return len(self._prefixes)

    def find(self, version: Hashable, token_ids: Sequence[int]) -> tuple[CachedPrefix[Content] | None, int]:
        """Return the prefix that shares the most leading tokens with `token_ids`, and how many it shares."""
        wanted, best, longest = tuple(token_ids), None, 0
        for prefix in self._prefixes:
            if prefix.version == version and (common := common_length(prefix.token_ids, wanted)) > longest:
                best, longest = prefix, common
        if best is not None:
            self._prefixes.move_to_end(best)
        return best, longest

    def take(self, prefix: CachedPrefix[Content]) -> None:
        """Drop a prefix that a generation continues: its longer form is kept when that ends."""
        self._drop(prefix)

    def keep(self, version: Hashable, token_ids: Sequence[int], content: Content) -> None:
        """Keep a prefix in place of all that it continues; do nothing if it begins another that is kept."""
        if len(token_ids) > self.max_tokens:
            return
        new = CachedPrefix(version, tuple(token_ids), content)
        for prefix in [prefix for prefix in self._prefixes if prefix.version == version]:
            common = common_length(prefix.token_ids, new.token_ids)
            if common == len(new.token_ids):
                self._prefixes.move_to_end(prefix)
                return
            if common == len(prefix.token_ids):
                self._drop(prefix)
        self._prefixes[new] = None
        self.num_tokens += len(new.token_ids)
        while self.num_tokens > self.max_tokens:
            self._drop(next(iter(self._prefixes)))

    def forget(self, version: Hashable) -> None:
        """Drop all prefixes of a version."""
        for prefix in list(self._prefixes):
            if prefix.version == version:
                self._drop(prefix)

    def clear(self) -> None:
        """Drop all prefixes."""
        self._prefixes.clear()
        self.num_tokens = 0

    def _drop(self, prefix: CachedPrefix[Content]) -> None:
        del self._prefixes[prefix]
        self.num_tokens -= len(prefix.token_ids)


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many leading tokens both share, by bisection: slices compare much faster than single tokens."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
