"""Slows down those who guess passwords: after some failures each further try has to wait longer.

Knows: failures by name and address, in this process. Does not know: passwords. Whoever guesses from many addresses at
one name is slowed less than one alone, or they could keep its owner out. Failures halve with time, and what went well
leaves no trace, so that the slips of many behind one address don't add up to a wall.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from bot.errors import TooManyAttempts

HALVE_SECONDS = 1_800.0
MOST_KEYS = 20_000
FREE_FAILURES = 5
FIRST_WAIT_SECONDS = 2.0

# A name and an address, or only one of them: tries of a name from anywhere, and of any name from there.
Key = tuple[str | None, str | None]


@dataclass(slots=True)
class _Failures:
    """`halved` is when the count was last halved, or begun."""

    halved: float
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


@dataclass(frozen=True, slots=True)
class Guess:
    """A try that counts as failed until it is taken back. `before` is when the failures before it were, by key."""

    name: str
    address: str
    at: float
    before: dict[Key, float]
    is_last_free: bool


_BY_BOTH = _Limit(FREE_FAILURES, 900.0)
_BY_ADDRESS = _Limit(20, 300.0)
_BY_NAME = _Limit(50, 30.0)


class Guesses:
    """Failures of a while. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: OrderedDict[Key, _Failures] = OrderedDict()

    def begin(self, name: str, address: str) -> Guess:
        """Count a try as failed until it succeeds, so that many at once are no way round. Raises `TooManyAttempts`."""
        now = self._clock()
        found = {key: self._failures(key, now) for key in _limits(name, address)}
        wait = max(limit.wait(found[key], now) for key, limit in _limits(name, address).items())
        if wait > 0:
            raise TooManyAttempts(
                f"That was wrong too often. Please wait {_in_words(wait)} before you try again.", retry_after=wait
            )
        before = {key: failures.last for key, failures in found.items()}
        for key, failures in found.items():
            failures.count, failures.last = failures.count + 1, now
            self._known[key] = failures
            self._known.move_to_end(key)
        while len(self._known) > MOST_KEYS:
            self._known.popitem(last=False)
        return Guess(name, address, now, before, found[name, address].count == FREE_FAILURES)

    def succeeded(self, guess: Guess) -> None:
        """Forget the failures of somebody who knew the password; for others it is as if they had not tried."""
        self.take_back(guess)
        self._known.pop((guess.name, guess.address), None)

    def take_back(self, guess: Guess) -> None:
        """As if it had not been tried, for a try that told nobody anything."""
        for key, before in guess.before.items():
            failures = self._known.get(key)
            if failures is None:
                continue
            failures.count = max(failures.count - 1, 0)
            if failures.last == guess.at:  # nobody else has failed since
                failures.last = before
            if not failures.count:
                del self._known[key]

    def _failures(self, key: Key, now: float) -> _Failures:
        """What counts now; not kept until there is something to count."""
        found = self._known.get(key)
        if found is None:
            return _Failures(now)
        halvings = int((now - found.halved) // HALVE_SECONDS)
        found.count >>= min(halvings, 64)
        found.halved += halvings * HALVE_SECONDS
        return found


def _limits(name: str, address: str) -> dict[Key, _Limit]:
    return {(name, address): _BY_BOTH, (None, address): _BY_ADDRESS, (name, None): _BY_NAME}


def _in_words(seconds: float) -> str:
    whole = math.ceil(seconds)
    if whole >= 120:
        return f"{math.ceil(whole / 60)} minutes"
    return f"{whole} second{'' if whole == 1 else 's'}"
