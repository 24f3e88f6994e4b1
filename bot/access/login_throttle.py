"""Login throttle: exponential backoff after failures by name and address.

The failures are counted in this process. The limit of a name over all addresses is mild, or attackers could lock its
owner out. Counts halve with time and successes leave no trace, so that the slips of many people behind one address
don't lock them all out.
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

# (name, address): both, or None for any name from that address, or for any address of that name.
Key = tuple[str | None, str | None]


@dataclass(slots=True)
class _Failures:
    """A count of failures. `halved` is the time of its start or last halving, `last` that of the last failure."""

    halved: float
    count: int = 0
    last: float = 0.0


@dataclass(frozen=True, slots=True)
class _Limit:
    free: int
    longest_seconds: float

    def wait(self, failures: _Failures, now: float) -> float:
        """Return the seconds until the next attempt is allowed."""
        if failures.count < self.free:
            return 0.0
        seconds = min(FIRST_WAIT_SECONDS * 2.0 ** min(failures.count - self.free, 20), self.longest_seconds)
        return max(failures.last + seconds - now, 0.0)


@dataclass(frozen=True, slots=True)
class LoginAttempt:
    """A login attempt, failed until it is taken back. `before` is the time of the last failure before it, by key."""

    name: str
    address: str
    at: float
    before: dict[Key, float]
    is_last_free: bool


_BY_BOTH = _Limit(FREE_FAILURES, 900.0)
_BY_ADDRESS = _Limit(20, 300.0)
_BY_NAME = _Limit(50, 30.0)


class LoginThrottle:
    """Counts recent failures and decides on waits. `clock` returns seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: OrderedDict[Key, _Failures] = OrderedDict()

    def begin(self, name: str, address: str) -> LoginAttempt:
        """Count an attempt as failed, before its outcome is known: attempts at the same time can't evade the limit.

        Raises `TooManyAttempts`.
        """
        now = self._clock()
        counts = {key: self._failures(key, now) for key in _limits(name, address)}
        wait = max(limit.wait(counts[key], now) for key, limit in _limits(name, address).items())
        if wait > 0:
            raise TooManyAttempts(
                f"That was wrong too often. Please wait {_in_words(wait)} before you try again.", retry_after=wait
            )
        before = {key: failures.last for key, failures in counts.items()}
        for key, failures in counts.items():
            failures.count, failures.last = failures.count + 1, now
            self._known[key] = failures
            self._known.move_to_end(key)
        while len(self._known) > MOST_KEYS:
            self._known.popitem(last=False)
        return LoginAttempt(name, address, now, before, counts[name, address].count == FREE_FAILURES)

    def succeeded(self, attempt: LoginAttempt) -> None:
        """Forget the failures of this name at this address; the other counts lose this attempt only."""
        self.take_back(attempt)
        self._known.pop((attempt.name, attempt.address), None)

    def take_back(self, attempt: LoginAttempt) -> None:
        """Uncount an attempt, as after an error that did not reveal the outcome."""
        for key, before in attempt.before.items():
            failures = self._known.get(key)
            if failures is None:
                continue
            failures.count = max(failures.count - 1, 0)
            if failures.last == attempt.at:  # nobody else has failed since
                failures.last = before
            if not failures.count:
                del self._known[key]

    def _failures(self, key: Key, now: float) -> _Failures:
        """Return the count of a key, halved up to now; a new count is not stored before its first failure."""
        failures = self._known.get(key)
        if failures is None:
            return _Failures(now)
        halvings = int((now - failures.halved) // HALVE_SECONDS)
        failures.count >>= min(halvings, 64)
        failures.halved += halvings * HALVE_SECONDS
        return failures


def _limits(name: str, address: str) -> dict[Key, _Limit]:
    return {(name, address): _BY_BOTH, (None, address): _BY_ADDRESS, (name, None): _BY_NAME}


def _in_words(seconds: float) -> str:
    whole = math.ceil(seconds)
    if whole >= 120:
        return f"{math.ceil(whole / 60)} minutes"
    return f"{whole} second{'' if whole == 1 else 's'}"
