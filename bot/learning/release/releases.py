"""What answers: promotion, rollback and canaries, each a transaction that takes effect with the next reply everywhere.

Each change is planned by the rule of `release_plan.py` and carried out in one transaction, with a row in the audit log.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from bot.access.roles import Actor
from bot.errors import Conflict, InvalidInput
from bot.learning.release.canary_harm import CanarySettings
from bot.learning.release.plan import (
    Change,
    Plan,
    Promote,
    RollBack,
    Standing,
    StartCanary,
    StopCanary,
    id_of,
    plan,
    standing,
    standings,
)
from bot.learning.versions import name_of
from storage import audit, canary_outcomes, releases
from storage.learning_values import Canary, Release
from storage.scope import Scope
from storage.transaction import Rollback, Transaction

CANARY_ACTOR = "canary"
# With fewer replies than this, how slow is slow can't be said.
MIN_DURATIONS = 50


class Releases:
    """What answers in a workspace. `on_changed` is called after each change that was made here."""

    def __init__(self, scope: Scope, on_changed: Callable[[], None] = lambda: None) -> None:
        self._scope = scope
        self._on_changed = on_changed

    async def current(self) -> Release:
        """What answers now."""
        return await self._scope.read(releases.current)

    async def preview(self, change: Change) -> Plan:
        """Plan a change without making it. Raises `NotFound`; any other fault stands in the plan."""
        return await self._scope.read(plan, change)

    async def standings(self) -> list[Standing]:
        """Say of each version, oldest first, how it was judged and whether it may be promoted now."""
        return await self._scope.read(standings)

    async def standing(self, version: str) -> Standing:
        """As `standings`, of one version. Raises `NotFound`."""
        return await self._scope.read(standing, version)

    async def promote(
        self, actor: Actor, version: str, *, override_reason: str | None = None, at: int | None = None
    ) -> Release:
        """Have a version answer everybody; "base" is the base model. A canary that runs ends.

        With `at`, the number of a release, only while that is the current one; else `Conflict`, also below.

        Raises `NotAllowed`, `NotFound`, `Conflict` for one that was retired, and `RefusedByGate` for one that has not
        passed the gate, unless there is an `override_reason`, which is recorded.
        """
        return await self._change(actor, Promote(version), _given(override_reason), at)

    async def rollback(self, actor: Actor, why: str, *, at: int | None = None) -> Release:
        """Go back to the version before, and with the next rollback one further back; a canary ends.

        What was rolled back from comes back only by a promotion, through the gate. Raises `NotAllowed`, and `Conflict`
        if nothing answered before.
        """
        return await self._change(actor, RollBack(), why.strip(), at)

    async def start_canary(
        self,
        actor: Actor,
        version: str,
        share: float,
        settings: CanarySettings | None = None,
        *,
        override_reason: str | None = None,
        at: int | None = None,
    ) -> Release:
        """Try a version on a share of the conversations, from 0 to 1. Raises as `promote` does, `InvalidInput`."""
        change, reason, settings = StartCanary(version, share), _given(override_reason), settings or CanarySettings()
        actor.check(change.needs)
        if settings.slow_ms is None:
            slow_ms, at = await self._scope.read(_slow_ms, at)
            settings = replace(settings, slow_ms=slow_ms)
        return await self._change(actor, change, reason, at, settings)

    async def stop_canary(self, actor: Actor, why: str = "", *, at: int | None = None) -> Release:
        """Have the champion answer everybody again. Raises `NotAllowed`, `Conflict` if there is no canary."""
        return await self._change(actor, StopCanary(), why.strip(), at)

    async def end_for_harm(self, canary_id: str, report: Mapping[str, Any]) -> bool:
        """Roll a canary back that did harm. False if it is not the one that runs any more."""
        ended = await self._scope.write(_end_for_harm, canary_id, report)
        if ended:
            self._on_changed()
        return ended

    async def _change(
        self, actor: Actor, change: Change, why: str | None, at: int | None, settings: CanarySettings | None = None
    ) -> Release:
        actor.check(change.needs)
        changed = await self._scope.write(_plan_and_apply, actor, change, why, at, settings)
        self._on_changed()
        return changed


def _given(reason: str | None) -> str | None:
    if reason is not None and not reason.strip():
        raise InvalidInput("The reason for passing the gate over is empty; it is recorded.", field="override_reason")
    return reason.strip() if reason else None


def _plan_and_apply(
    tx: Transaction, actor: Actor, change: Change, why: str | None, at: int | None, settings: CanarySettings | None
) -> Release:
    """Make a change. Raises `Conflict` if what answers is not any more what it was in the release of number `at`."""
    begun = releases.begin_change(tx)
    if at is not None and begun.number != at + 1:  # a change begins under its own number
        raise Conflict("What answers has changed since this was asked. Nothing was changed; look again.")
    planned = plan(tx, change)
    planned.check(why)
    started = None
    if isinstance(change, StartCanary):
        started = _write_canary(tx, planned, change.share, settings or CanarySettings(), actor)
    _apply(tx, planned, started)
    action, target, details = _told(planned, change, why)
    audit.record(tx, actor.name, action, target, details)
    return releases.current(tx)


def _write_canary(
    tx: Transaction, planned: Plan, share: float, settings: CanarySettings, actor: Actor
) -> Canary | None:
    challenger, champion = id_of(planned.version), id_of(planned.before.champion)
    assert challenger is not None
    return releases.start_canary(tx, challenger, champion, share, secrets.token_hex(8), asdict(settings), actor.name)


def _apply(
    tx: Transaction, planned: Plan, started: Canary | None = None, report: Mapping[str, Any] | None = None
) -> None:
    if planned.before.canary is not None and planned.canary_ends_as is not None:
        releases.end_canary(tx, planned.before.canary.id, planned.canary_ends_as, report)
    after = planned.after
    releases.set_aliases(tx, id_of(after.champion), id_of(after.previous), started.id if started else None)


def _told(planned: Plan, change: Change, why: str | None) -> tuple[str, str, dict[str, Any]]:
    """The action, target and details of a change in the audit log."""
    before, after = planned.before, planned.after
    match change:
        case Promote():
            details = {"before": name_of(before.champion), **_told_of_gate(planned, why)}
            return "version.promoted", name_of(after.champion), details
        case StartCanary(share=share):
            return "canary.started", name_of(planned.version), {"share": share, **_told_of_gate(planned, why)}
        case RollBack():
            ended = planned.ends_canary
            details = {"before": name_of(before.champion), "why": why, "canary": ended.name if ended else None}
            return "version.rolled_back", name_of(after.champion), details
        case StopCanary():
            return f"canary.{planned.canary_ends_as}", name_of(planned.version), {"why": why}


def _told_of_gate(planned: Plan, why: str | None) -> dict[str, Any]:
    reason = {"why": why} if why else {}
    if planned.version is None:
        return reason
    if planned.fault is None:
        return {"gate": "passed", **reason}
    return {"gate": "overridden", "fault": planned.fault.kind, **reason}


def _slow_ms(tx: Transaction, at: int | None) -> tuple[int | None, int]:
    """The 95th percentile of what the champion's replies took, and the number of the release in which it answers.

    That is `at` where somebody has asked for one.
    """
    released = releases.current(tx)
    durations = sorted(canary_outcomes.durations(tx, released.champion.name if released.champion else None))
    slow_ms = durations[int(0.95 * len(durations))] if len(durations) >= MIN_DURATIONS else None
    return slow_ms, released.number if at is None else at


def _end_for_harm(tx: Transaction, canary_id: str, report: Mapping[str, Any]) -> bool:
    before = releases.begin_change(tx)
    if before.canary is None or before.canary.id != canary_id:
        raise Rollback(False)  # another process was quicker; what answers stays under its number
    planned = replace(plan(tx, StopCanary()), canary_ends_as="harm")
    _apply(tx, planned, report=report)
    action, target, details = _told(planned, StopCanary(), report["because"])
    audit.record(tx, CANARY_ACTOR, action, target, details)
    return True
