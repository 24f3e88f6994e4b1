"""What somebody should look at: a canary that ended in harm or may be promoted, a version that can't be used.

Knows: which findings are news. Does not know: where they are shown.
"""

from __future__ import annotations

from bot.jobs.control import short_id
from bot.learning.release.canary_harm import Judged
from bot.learning.release.plan import Promote, plan
from bot.learning.versions import fault_of
from bot.privacy.erasure.erase_person import BECAUSE
from storage import audit, jobs, releases
from storage.learning_values import AuditRow, Canary, Job, Release
from storage.scope import Scope

LOOK_BACK_ROWS = 200


async def needs_attention(scope: Scope, release: Release, judged: Judged | None) -> list[str]:
    """Sentences for people, the most urgent first; none if all is well."""
    rows = await scope.read(audit.page, most=LOOK_BACK_ROWS)
    newest = await scope.read(releases.canaries, 1)
    found = []
    if release.champion is not None and (fault := fault_of(release.champion)):
        found.append(f"{fault.text} It still answers: promote another one.")
    found += _harm(newest[0] if newest else None)
    found += _unusable(rows, release)
    if judged is not None and release.challenger is not None:
        if judged.split_is_broken:
            found.append(f"The canary of {release.challenger.name}: {judged.because}.")
        elif judged.verdict == "ready":
            found.append(await _ready(scope, release.challenger.name, judged.because))
    found += [_retraining(one) for one in await scope.read(jobs.list_open) if _is_retraining(one)]
    return found


async def _ready(scope: Scope, name: str, because: str) -> str:
    planned = await scope.read(plan, Promote(name))
    if planned.fault is None:
        return f"{name} is ready ({because}): `myna promote {name}`."
    return f"{name} is ready ({because}), but promoting it needs a reason: {planned.fault.text}"


def _is_retraining(job: Job) -> bool:
    return job.kind == "train" and job.settings.get("because") == BECAUSE


def _retraining(job: Job) -> str:
    return f"A person was erased whose words a version had learnt: the new training {short_id(job)} is {job.state}."


def _harm(newest: Canary | None) -> list[str]:
    if newest is None or newest.outcome != "harm":
        return []
    because = (newest.report or {}).get("because", "it did harm")
    return [f"The last canary was rolled back by itself: {because}."]


def _unusable(rows: list[AuditRow], release: Release) -> list[str]:
    """Of the versions that are released, those that could not be loaded since the release last changed."""
    named = {one.name for one in (release.champion, release.previous, release.challenger) if one is not None}
    broken = {row.target for row in _until(rows, "version.promoted") if row.action == "version.unusable"}
    return [f"{name} can't be used; another version answers in its place. The log says why." for name in named & broken]


def _until(rows: list[AuditRow], action: str) -> list[AuditRow]:
    """The newest rows, up to the first of an action."""
    for number, row in enumerate(rows):
        if row.action == action:
            return rows[:number]
    return rows
