"""Slows down those who guess passwords: after some failures each further try has to wait longer.

Knows: failures by name and address, in this process. Does not know: passwords. Whoever guesses from many addresses at
one name is slowed less than one alone, or they could keep its owner out.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from bot.errors import TooManyAttempts

FORGET_SECONDS = 3_600.0
MOST_KEYS = 20_000
FREE_FAILURES = 5
FIRST_WAIT_SECONDS = 2.0


@dataclass(slots=True)
class _Failures:
    count: int = 0
    last: float = 0.0


@dataclass(frozen=True, slots=True)
class _Limit:
    free: int
    longest_seconds: float

    def wait(self, failures: _Failures, now: float) -> float:
        """Seconds until the next try."""
        if failures.count < self.free:
            return 0.0
        seconds = min(FIRST_WAIT_SECONDS * 2.0 ** min(failures.count - self.free, 20), self.longest_seconds)
        return max(failures.last + seconds - now, 0.0)


_BY_BOTH = _Limit(FREE_FAILURES, 900.0)
_BY_ADDRESS = _Limit(20, 300.0)
_BY_NAME = _Limit(50, 30.0)


class Guesses:
    """Failures of a while. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: OrderedDict[tuple[str, str], _Failures] = OrderedDict()

    def begin(self, name: str, address: str) -> bool:
        """Count a try as failed until it succeeds, so that many at once are no way round. Raises `TooManyAttempts`.

        True if it is the last one that need not wait.
        """
        now = self._clock()
        waits = [limit.wait(self._failures(key, now), now) for key, limit in self._keys(name, address)]
        if (wait := max(waits)) > 0:
            raise TooManyAttempts(
                f"That was wrong too often. Please wait {_in_words(wait)} before you try again.", retry_after=wait
            )
        for key, _ in self._keys(name, address):
            failures = self._failures(key, now)
            failures.count, failures.last = failures.count + 1, now
            self._known[key] = failures
            self._known.move_to_end(key)
        while len(self._known) > MOST_KEYS:
            self._known.popitem(last=False)
        return self._known[name, address].count == FREE_FAILURES

    def succeeded(self, name: str, address: str) -> None:
        """Forget the failures of somebody who knew the password; the address has one fewer."""
        self._known.pop((name, address), None)
        for key in (("", address), (name, "")):
            if (failures := self._known.get(key)) is not None:
                failures.count -= 1

    def _keys(self, name: str, address: str) -> list[tuple[tuple[str, str], _Limit]]:
        return [((name, address), _BY_BOTH), (("", address), _BY_ADDRESS), ((name, ""), _BY_NAME)]

    def _failures(self, key: tuple[str, str], now: float) -> _Failures:
        found = self._known.get(key)
        return found if found is not None and now - found.last < FORGET_SECONDS else _Failures()


def _in_words(seconds: float) -> str:
    whole = math.ceil(seconds)
    if whole >= 120:
        return f"{math.ceil(whole / 60)} minutes"
    return f"{whole} second{'' if whole == 1 else 's'}"
