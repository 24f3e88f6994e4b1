"""Watch a running canary: count outcomes of conversations, and roll the canary back if it does harm."""

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
# Looks may take this share of the time, as each reads every conversation since the canary began.
BUSY_SHARE = 0.02
MOST_POINTS = 100


async def look_at(scope: Scope, release: Release) -> Judged | None:
    """Judge the running canary; None if there is none."""
    if release.canary is None or release.challenger is None:
        return None
    tried, now = await scope.read(canary_outcomes.tried_since, release.canary.created_at)
    return await asyncio.to_thread(judge_tried, tried, now, release.canary, release.challenger.name)


def judge_tried(tried: Sequence[Tried], now: int, canary: Canary, challenger: str) -> Judged:
    """Judge a canary from its conversations. `now` is in milliseconds since 1970."""
    settings = CanarySettings(**canary.settings)
    rails = {name: _count(_outcomes(tried, now, canary, name)) for name in _rails_of(settings)}
    by_challenger = sum(conversation.version == challenger for conversation in tried)
    hours = (now - canary.created_at) / 3_600_000
    return judge(
        rails, canary.share, settings, answered_by_challenger=by_challenger, total=len(tried), hours=max(hours, 0.0)
    )


def points_of(tried: Sequence[Tried], now: int, canary: Canary, rail: str) -> list[CanaryPoint]:
    """Return the history of a guard rail over the conversations, in the order in which they began.

    There are up to `MOST_POINTS` points; the last is the state now. Raises `KeyError` for a rail that the canary lacks.
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
    """Yield one final outcome a conversation: bad at once, good once its window is over.

    An outcome is `(is the challenger's, is bad)`.
    """
    settings = CanarySettings(**canary.settings)
    window = 0 if rail == "latency" else round(settings.window_minutes * 60_000)
    for conversation in tried:
        if rail == "latency" and conversation.first_ms is None:
            continue
        at = _went_wrong_at(conversation, rail, settings.slow_ms)
        ends_at = conversation.began_at + window
        is_bad = at is not None and at <= ends_at
        if is_bad or now > ends_at:
            yield is_challengers(canary.salt, conversation.conversation_id, canary.share), is_bad


def _went_wrong_at(conversation: Tried, rail: str, slow_ms: int | None) -> int | None:
    if rail == "latency":
        is_slow = slow_ms is not None and (conversation.first_ms or 0) > slow_ms
        return conversation.began_at if is_slow else None
    return {
        "thumbs_down": conversation.disliked_at,
        "hand_off": conversation.handed_off_at,
        "error": conversation.failed_at,
    }[rail]


def _count(outcomes: Iterable[tuple[bool, bool]]) -> Counts:
    counted = Counter(outcomes)
    return Counts(counted[True, True], counted[True, False], counted[False, True], counted[False, False])


def _rate(bad: int, good: int) -> float:
    return bad / (bad + good) if bad + good else 0.0


async def watch(scope: Scope, releases: Releases, on_harm: OnHarm | None = None) -> None:
    """Look every few seconds and roll a harmful canary back, until cancelled. Run it as one task.

    `on_harm(version, reason)` is called in the process that rolled it back.
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
