"""Looking after a canary while it runs: counts what became of conversations, and ends it when it does harm.

Knows: which conversation counts as gone wrong, and when that is decided. Does not know: the mathematics.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from bot.errors import MynaError
from bot.learning.judge.charts import CanaryPoint
from bot.learning.release.canary_harm import (
    GUARD_RAILS,
    CanarySettings,
    Counts,
    Judged,
    harm_e_value,
    is_challengers,
    judge,
)
from bot.learning.release.releases import Releases
from storage import canary_outcomes
from storage.canary_outcomes import Tried
from storage.database import StorageUnavailable
from storage.learning_values import Canary, Release
from storage.scope import Scope

log = logging.getLogger("myna.canary")

OnHarm = Callable[[str, str], None]

LOOK_SECONDS = 5.0
# A look may take this share of the time: it reads every conversation since the canary began.
BUSY_SHARE = 0.02
MOST_POINTS = 100


async def look_at(scope: Scope, release: Release) -> Judged | None:
    """What can be said now of the canary that runs; None if none does."""
    if release.canary is None or release.challenger is None:
        return None
    tried, now = await scope.read(canary_outcomes.tried_since, release.canary.created_at)
    return await asyncio.to_thread(judge_tried, tried, now, release.canary, release.challenger.name)


def judge_tried(tried: Sequence[Tried], now: int, canary: Canary, challenger: str) -> Judged:
    """A verdict on a canary from its conversations. `now` is in milliseconds since 1970."""
    settings = CanarySettings(**canary.settings)
    rails = {name: _count(_outcomes(tried, now, canary, name)) for name in _rails_of(settings)}
    by_challenger = sum(one.version == challenger for one in tried)
    hours = (now - canary.created_at) / 3_600_000
    return judge(
        rails, canary.share, settings, answered_by_challenger=by_challenger, total=len(tried), hours=max(hours, 0.0)
    )


def points_of(tried: Sequence[Tried], now: int, canary: Canary, rail: str) -> list[CanaryPoint]:
    """How a guard rail stood after more and more of the conversations, in the order in which they began.

    Up to `MOST_POINTS` of them; the last is how it stands. Raises `KeyError` for a rail that the canary has not.
    """
    if rail not in _rails_of(CanarySettings(**canary.settings)):
        raise KeyError(rail)
    known = list(_outcomes(tried, now, canary, rail))
    places = {len(known) * number // MOST_POINTS for number in range(1, MOST_POINTS + 1)} - {0}
    found = []
    for place in sorted(places):
        counts = _count(known[:place])
        found.append(
            CanaryPoint(
                place,
                _rate(counts.champion_bad, counts.champion_good),
                _rate(counts.challenger_bad, counts.challenger_good),
                harm_e_value(counts, canary.share),
            )
        )
    return found


def _rails_of(settings: CanarySettings) -> list[str]:
    return [name for name in GUARD_RAILS if name != "latency" or settings.slow_ms is not None]


def _outcomes(tried: Sequence[Tried], now: int, canary: Canary, rail: str) -> Iterator[tuple[bool, bool]]:
    """One outcome a conversation, which never changes again: bad at once, good when its time is over.

    Each is whether the challenger was to answer, and whether it went wrong.
    """
    settings = CanarySettings(**canary.settings)
    window = 0 if rail == "latency" else round(settings.window_minutes * 60_000)
    for one in tried:
        if rail == "latency" and one.first_ms is None:
            continue
        at = _went_wrong_at(one, rail, settings.slow_ms)
        ends_at = one.began_at + window
        is_bad = at is not None and at <= ends_at
        if is_bad or now > ends_at:
            yield is_challengers(canary.salt, one.conversation_id, canary.share), is_bad


def _went_wrong_at(one: Tried, rail: str, slow_ms: int | None) -> int | None:
    if rail == "latency":
        return one.began_at if slow_ms is not None and (one.first_ms or 0) > slow_ms else None
    return {"thumbs_down": one.disliked_at, "hand_off": one.handed_off_at, "error": one.failed_at}[rail]


def _count(outcomes: Iterable[tuple[bool, bool]]) -> Counts:
    counted = Counter(outcomes)
    return Counts(counted[True, True], counted[True, False], counted[False, True], counted[False, False])


def _rate(bad: int, good: int) -> float:
    return bad / (bad + good) if bad + good else 0.0


async def watch(scope: Scope, releases: Releases, on_harm: OnHarm | None = None) -> None:
    """Look every few seconds, until cancelled, and roll a canary back that does harm. Run it as one task.

    `on_harm` is called with the version and the reason, in the process that has rolled it back.
    """
    reported: set[str] = set()
    took = 0.0
    while True:
        await asyncio.sleep(max(LOOK_SECONDS, took / BUSY_SHARE))
        began = time.monotonic()
        try:
            release = await releases.current()
            judged = await look_at(scope, release)
            if judged is None or release.canary is None or release.challenger is None:
                pass
            elif judged.verdict == "harm":
                ended = await releases.end_for_harm(release.canary.id, judged.report())
                if ended:
                    log.warning("the canary of %s was rolled back: %s", release.challenger.name, judged.because)
                    if on_harm is not None:
                        on_harm(release.challenger.name, judged.because)
            elif (judged.split_is_broken or judged.verdict == "ready") and release.canary.id not in reported:
                reported.add(release.canary.id)
                log.warning("the canary of %s: %s", release.challenger.name, judged.because)
        except (StorageUnavailable, MynaError) as error:
            log.error("the canary can't be looked at, trying again: %s", error)
        except Exception:
            log.exception("the canary can't be looked at, trying again")
        took = time.monotonic() - began
