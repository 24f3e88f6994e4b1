"""Findings that need attention: harmful or ready canaries, unusable versions, retrainings after an erasure."""

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
    """Return the findings as sentences, most urgent first. Commands are left to the channel."""
    rows = await scope.read(audit.page, most=LOOK_BACK_ROWS)
    newest = await scope.read(releases.canaries, 1)
    found = []
    if release.champion is not None and (fault := fault_of(release.champion)):
        found.append(f"{fault.text} It still answers: promote another version.")
    found += _harm(newest[0] if newest else None)
    found += _unusable(rows, release)
    if judged is not None and release.challenger is not None:
        if judged.split_is_broken:
            found.append(f"The canary of {release.challenger.name}: {judged.because}.")
        elif judged.verdict == "ready":
            found.append(await _ready(scope, release.challenger.name, judged.because))
    found += [_retraining(job) for job in await scope.read(jobs.list_open) if _is_retraining(job)]
    return found


async def _ready(scope: Scope, name: str, because: str) -> str:
    planned = await scope.read(plan, Promote(name))
    if planned.fault is None:
        return f"{name} is ready to be promoted ({because})."
    if planned.fault.is_of_gate:
        return f"{name} is ready ({because}), but promoting it needs a reason: {planned.fault.text}"
    return f"The canary of {name} went well ({because}), but it can't be promoted: {planned.fault.text}"


def _is_retraining(job: Job) -> bool:
    return job.kind == "train" and job.settings.get("because") == BECAUSE


def _retraining(job: Job) -> str:
    return f"A version had learnt from a person who was erased: the new training {short_id(job)} is {job.state}."


def _harm(newest: Canary | None) -> list[str]:
    if newest is None or newest.outcome != "harm":
        return []
    because = (newest.report or {}).get("because", "it did harm")
    return [f"The last canary was rolled back automatically: {because}."]


def _unusable(rows: list[AuditRow], release: Release) -> list[str]:
    """Report the released versions that could not be loaded since the last promotion."""
    named = {
        version.name for version in (release.champion, release.previous, release.challenger) if version is not None
    }
    broken = {row.target for row in _until(rows, "version.promoted") if row.action == "version.unusable"}
    return [f"{name} can't be used; another version answers in its place. The log says why." for name in named & broken]


def _until(rows: list[AuditRow], action: str) -> list[AuditRow]:
    """Return the newest rows, up to the first row of an action."""
    for number, row in enumerate(rows):
        if row.action == action:
            return rows[:number]
    return rows
