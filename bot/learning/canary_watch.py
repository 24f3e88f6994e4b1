"""Looking after a canary while it runs: counts what became of conversations, and ends it when it does harm.

Knows: which conversation counts as gone wrong, and when that is decided. Does not know: the mathematics.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from bot.errors import MynaError
from bot.learning.canary import CanarySettings, Counts, Judged, is_challengers, judge
from bot.learning.releases import Releases
from storage import canary_outcomes
from storage.canary_outcomes import Tried
from storage.database import Database, StorageUnavailable
from storage.learning_values import Canary, Release

log = logging.getLogger("myna.canary")

LOOK_SECONDS = 5.0


async def look_at(database: Database, workspace_id: str, release: Release) -> Judged | None:
    """What can be said now of the canary that runs; None if none does."""
    if release.canary is None or release.challenger is None:
        return None
    tried, now = await database.read(canary_outcomes.tried_since, workspace_id, release.canary.created_at)
    return await asyncio.to_thread(judge_tried, tried, now, release.canary, release.challenger.name)


def judge_tried(tried: Sequence[Tried], now: int, canary: Canary, challenger: str) -> Judged:
    """A verdict on a canary from its conversations. `now` is in milliseconds since 1970."""
    settings = CanarySettings(**canary.settings)
    arms = {one.conversation_id: is_challengers(canary.salt, one.conversation_id, canary.share) for one in tried}
    window = round(settings.window_minutes * 60_000)
    rails = {
        "thumbs_down": _count(tried, arms, [one.disliked_at for one in tried], now, window),
        "hand_off": _count(tried, arms, [one.handed_off_at for one in tried], now, window),
        "error": _count(tried, arms, [one.failed_at for one in tried], now, window),
    }
    if settings.slow_ms is not None:
        answered = [one for one in tried if one.first_ms is not None]
        slow = [one.began_at if (one.first_ms or 0) > settings.slow_ms else None for one in answered]
        rails["latency"] = _count(answered, arms, slow, now, 0)
    by_challenger = sum(one.version == challenger for one in tried)
    hours = (now - canary.created_at) / 3_600_000
    return judge(
        rails, canary.share, settings, answered_by_challenger=by_challenger, total=len(tried), hours=max(hours, 0.0)
    )


def _count(
    tried: Sequence[Tried], arms: dict[str, bool], went_wrong_at: Sequence[int | None], now: int, window: int
) -> Counts:
    """One outcome a conversation, which never changes again: bad at once, good when its time is over."""
    counts = {(True, True): 0, (True, False): 0, (False, True): 0, (False, False): 0}
    for one, at in zip(tried, went_wrong_at, strict=True):
        ends_at = one.began_at + window
        is_bad = at is not None and at <= ends_at
        if is_bad or now > ends_at:
            counts[arms[one.conversation_id], is_bad] += 1
    return Counts(counts[True, True], counts[True, False], counts[False, True], counts[False, False])


async def watch(database: Database, workspace_id: str, releases: Releases) -> None:
    """Look every few seconds, until cancelled, and roll a canary back that does harm. Run it as one task."""
    reported: set[str] = set()
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            release = await releases.current()
            judged = await look_at(database, workspace_id, release)
            if judged is None or release.canary is None or release.challenger is None:
                continue
            if judged.verdict == "harm":
                ended = await releases.end_for_harm(release.canary.id, judged.report())
                if ended:
                    log.warning("the canary of %s was rolled back: %s", release.challenger.name, judged.because)
            elif (judged.split_is_broken or judged.verdict == "ready") and release.canary.id not in reported:
                reported.add(release.canary.id)
                log.warning("the canary of %s: %s", release.challenger.name, judged.because)
        except (StorageUnavailable, MynaError) as error:
            log.error("the canary can't be looked at, trying again: %s", error)
        except Exception:
            log.exception("the canary can't be looked at, trying again")
