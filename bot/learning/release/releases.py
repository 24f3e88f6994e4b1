"""Releases: promote, roll back, start and stop canaries.

A change is planned by `plan.py` and carried out in one transaction with its row in the audit log. It takes effect with
the next reply, in every process.
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
    Plan,
    Promote,
    ReleaseChange,
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
# With fewer replies than this there is no limit of latency.
MIN_DURATIONS = 50


class Releases:
    """The release of a workspace and its changes. `on_changed` is called after each change made here."""

    def __init__(self, scope: Scope, on_changed: Callable[[], None] = lambda: None) -> None:
        self._scope = scope
        self._on_changed = on_changed

    async def current(self) -> Release:
        """Return the current release."""
        return await self._scope.read(releases.current)

    async def preview(self, change: ReleaseChange) -> Plan:
        """Plan a change without making it. Raises `NotFound`; any other fault is in the plan."""
        return await self._scope.read(plan, change)

    async def standings(self) -> list[Standing]:
        """Return each version, oldest first, with its newest verdict and the fault of promoting it now."""
        return await self._scope.read(standings)

    async def standing(self, version: str) -> Standing:
        """Return the standing of one version. Raises `NotFound`."""
        return await self._scope.read(standing, version)

    async def promote(
        self, actor: Actor, version: str, *, override_reason: str | None = None, at: int | None = None
    ) -> Release:
        """Make a version the champion; "base" is the base model. A running canary ends.

        `at` is the number of the release that the change was decided on: if another release is current, `Conflict` is
        raised, here and in the methods below.

        Raises `NotAllowed`, `NotFound`, `Conflict` for a retired version, and `RefusedByGate` for a version that has
        not passed the gate, unless `override_reason` is given, which is recorded.
        """
        return await self._change(actor, Promote(version), _given(override_reason), at)

    async def rollback(self, actor: Actor, why: str, *, at: int | None = None) -> Release:
        """Go back to the previous version, and with the next rollback one further back; a running canary ends.

        The version rolled back from returns only by a promotion, through the gate. Raises `NotAllowed`, and `Conflict`
        if no version answered before.
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
        """Try a version on a share of the conversations, from 0 to 1.

        Raises the errors of `promote`, and `InvalidInput` for a forbidden share.
        """
        change, reason, settings = StartCanary(version, share), _given(override_reason), settings or CanarySettings()
        actor.check(change.needs)
        if settings.slow_ms is None:
            slow_ms, at = await self._scope.read(_slow_ms, at)
            settings = replace(settings, slow_ms=slow_ms)
        return await self._change(actor, change, reason, at, settings)

    async def stop_canary(self, actor: Actor, why: str = "", *, at: int | None = None) -> Release:
        """End the canary: the champion answers everybody again. Raises `NotAllowed`, `Conflict` if none runs."""
        return await self._change(actor, StopCanary(), why.strip(), at)

    async def end_for_harm(self, canary_id: str, report: Mapping[str, Any]) -> bool:
        """Roll back a harmful canary; return False if it does not run any more."""
        ended = await self._scope.write(_end_for_harm, canary_id, report)
        if ended:
            self._on_changed()
        return ended

    async def _change(
        self,
        actor: Actor,
        change: ReleaseChange,
        why: str | None,
        at: int | None,
        settings: CanarySettings | None = None,
    ) -> Release:
        actor.check(change.needs)
        changed = await self._scope.write(_plan_and_apply, actor, change, why, at, settings)
        self._on_changed()
        return changed


def _given(reason: str | None) -> str | None:
    if reason is not None and not reason.strip():
        raise InvalidInput(
            "The reason for overriding the gate is empty. It is recorded; give one.", field="override_reason"
        )
    return reason.strip() if reason else None


def _plan_and_apply(
    tx: Transaction,
    actor: Actor,
    change: ReleaseChange,
    why: str | None,
    at: int | None,
    settings: CanarySettings | None,
) -> Release:
    """Make a change. Raises `Conflict` if the release `at` is not the current one any more."""
    begun = releases.begin_change(tx)
    if at is not None and begun.number != at + 1:  # a change begins under its own number
        raise Conflict("The release has changed since you were asked, so nothing was done. Look again.")
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


def _told(planned: Plan, change: ReleaseChange, why: str | None) -> tuple[str, str, dict[str, Any]]:
    """Return the action, target and details of a change for the audit log."""
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
    """Return the 95th percentile of the champion's reply times in ms, and the release number to change.

    The number is `at` if given, else the current one.
    """
    released = releases.current(tx)
    durations = sorted(canary_outcomes.durations(tx, released.champion.name if released.champion else None))
    slow_ms = durations[int(0.95 * len(durations))] if len(durations) >= MIN_DURATIONS else None
    return slow_ms, released.number if at is None else at


def _end_for_harm(tx: Transaction, canary_id: str, report: Mapping[str, Any]) -> bool:
    before = releases.begin_change(tx)
    if before.canary is None or before.canary.id != canary_id:
        raise Rollback(False)  # another process was quicker; the release keeps its number
    planned = replace(plan(tx, StopCanary()), canary_ends_as="harm")
    _apply(tx, planned, report=report)
    action, target, details = _told(planned, StopCanary(), report["because"])
    audit.record(tx, CANARY_ACTOR, action, target, details)
    return True
