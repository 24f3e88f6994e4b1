"""What answers: promotion, rollback and canaries, each a transaction that takes effect with the next reply everywhere.

Knows: what must have passed the gate, who may do what, what each change leaves behind. Does not know: how a version is
loaded, how a canary is judged.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from bot.access.roles import Actor
from bot.errors import Conflict, InvalidInput, RefusedByGate
from bot.learning.release.canary_harm import CanarySettings
from bot.learning.versions import BASE, fault_of, find, rival_of
from storage import audit, canary_outcomes, releases
from storage.learning_values import Canary, CanaryOutcome, Release, Version
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

    async def promote(
        self, actor: Actor, version: str, *, override_reason: str | None = None, at: int | None = None
    ) -> Release:
        """Have a version answer everybody; "base" is the base model. A canary that runs ends.

        With `at`, the number of a release, only while that is the current one; else `Conflict`, also below.

        Raises `NotAllowed`, `NotFound`, `Conflict` for one that was retired, and `RefusedByGate` for one that has not
        passed the gate, unless there is an `override_reason`, which is recorded.
        """
        actor.check("admin")
        changed = await self._scope.write(_promote, actor, version, _given(override_reason), at)
        self._on_changed()
        return changed

    async def rollback(self, actor: Actor, why: str, *, at: int | None = None) -> Release:
        """Have that answer which answered before; a canary ends. Raises `NotAllowed`, `Conflict` if nothing did."""
        actor.check("trainer")
        changed = await self._scope.write(_rollback, actor, why.strip(), at)
        self._on_changed()
        return changed

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
        actor.check("admin")
        if not 0 < share <= 0.5:
            raise InvalidInput("The share of a canary is more than 0 % and at most 50 %.", field="share")
        settings = settings or CanarySettings()
        if settings.slow_ms is None:
            slow_ms, at = await self._scope.read(_slow_ms, at)
            settings = replace(settings, slow_ms=slow_ms)
        changed = await self._scope.write(_start_canary, actor, version, share, settings, _given(override_reason), at)
        self._on_changed()
        return changed

    async def stop_canary(self, actor: Actor, why: str = "", *, at: int | None = None) -> Release:
        """Have the champion answer everybody again. Raises `NotAllowed`, `Conflict` if there is no canary."""
        actor.check("trainer")
        changed = await self._scope.write(_stop_canary, actor, why.strip(), at)
        self._on_changed()
        return changed

    async def end_for_harm(self, canary_id: str, report: Mapping[str, Any]) -> bool:
        """Roll a canary back that did harm. False if it is not the one that runs any more."""
        ended = await self._scope.write(_end_for_harm, canary_id, report)
        if ended:
            self._on_changed()
        return ended


def _given(reason: str | None) -> str | None:
    if reason is not None and not reason.strip():
        raise InvalidInput("The reason for passing the gate over is empty; it is recorded.", field="override_reason")
    return reason.strip() if reason else None


def _begin_change(tx: Transaction, at: int | None) -> Release:
    """What answers now. Raises `Conflict` if that is not any more what it was in the release of number `at`."""
    before = releases.begin_change(tx)
    if at is not None and before.number != at + 1:  # a change begins under its own number
        raise Conflict("What answers has changed since this was asked. Nothing was changed; look again.")
    return before


def _promote(tx: Transaction, actor: Actor, which: str, override_reason: str | None, at: int | None) -> Release:
    before = _begin_change(tx, at)
    version = None if which == BASE else _usable(tx, which)
    if _id(version) == _id(before.champion):
        raise Conflict(f"{_name(version)} answers already.")
    details: dict[str, Any] = {"before": _name(before.champion)}
    if version is not None:
        details |= _pass_gate(tx, version, before, override_reason)
    is_challenger = version is not None and before.challenger is not None and version.id == before.challenger.id
    _end_running(tx, before, "promoted" if is_challenger else "replaced")
    after = releases.set_aliases(tx, _id(version), _id(before.champion), None)
    audit.record(tx, actor.name, "version.promoted", _name(version), details)
    return after


def _rollback(tx: Transaction, actor: Actor, why: str, at: int | None) -> Release:
    before = _begin_change(tx, at)
    if before.champion is None and before.previous is None:
        if before.canary is None:
            raise Conflict("The base model answers, and nothing did before it: there is nothing to roll back to.")
        _end_running(tx, before, "rolled_back")
        after = releases.set_aliases(tx, None, None, None)
    else:
        if before.previous is not None and (fault := fault_of(before.previous)):
            raise Conflict(f"{fault} Promote another version, or the base model: `myna promote {BASE}`.")
        _end_running(tx, before, "rolled_back")
        after = releases.set_aliases(tx, _id(before.previous), _id(before.champion), None)
    details = {"before": _name(before.champion), "why": why, "canary": before.challenger and before.challenger.name}
    audit.record(tx, actor.name, "version.rolled_back", _name(after.champion), details)
    return after


def _start_canary(
    tx: Transaction,
    actor: Actor,
    which: str,
    share: float,
    settings: CanarySettings,
    override_reason: str | None,
    at: int | None,
) -> Release:
    before = _begin_change(tx, at)
    version = _usable(tx, which)
    if before.champion is not None and before.champion.id == version.id:
        raise Conflict(f"{version.name} answers everybody already.")
    details = {"share": share, **_pass_gate(tx, version, before, override_reason)}
    _end_running(tx, before, "replaced")
    champion_id = _id(before.champion)
    canary = releases.start_canary(
        tx, version.id, champion_id, share, secrets.token_hex(8), asdict(settings), actor.name
    )
    after = releases.set_aliases(tx, champion_id, _id(before.previous), _id(canary))
    audit.record(tx, actor.name, "canary.started", version.name, details)
    return after


def _slow_ms(tx: Transaction, at: int | None) -> tuple[int | None, int]:
    """The 95th percentile of what the champion's replies took, and the number of the release in which it answers.

    That is `at` where somebody has asked for one.
    """
    released = releases.current(tx)
    durations = sorted(canary_outcomes.durations(tx, released.champion.name if released.champion else None))
    slow_ms = durations[int(0.95 * len(durations))] if len(durations) >= MIN_DURATIONS else None
    return slow_ms, released.number if at is None else at


def _stop_canary(tx: Transaction, actor: Actor, why: str, at: int | None) -> Release:
    before = _begin_change(tx, at)
    if before.canary is None:
        raise Conflict("There is no canary to stop.")
    return _without_canary(tx, before, actor.name, "rolled_back", {"why": why}, None)


def _end_for_harm(tx: Transaction, canary_id: str, report: Mapping[str, Any]) -> bool:
    before = releases.begin_change(tx)
    if before.canary is None or before.canary.id != canary_id:
        raise Rollback(False)  # another process was quicker; what answers stays under its number
    _without_canary(tx, before, CANARY_ACTOR, "harm", {"why": report["because"]}, report)
    return True


def _without_canary(
    tx: Transaction,
    before: Release,
    actor: str,
    outcome: CanaryOutcome,
    details: Mapping[str, Any],
    report: Mapping[str, Any] | None,
) -> Release:
    _end_running(tx, before, outcome, report)
    after = releases.set_aliases(tx, _id(before.champion), _id(before.previous), None)
    audit.record(tx, actor, f"canary.{outcome}", _name(before.challenger), details)
    return after


def _end_running(
    tx: Transaction, before: Release, outcome: CanaryOutcome, report: Mapping[str, Any] | None = None
) -> None:
    if before.canary is not None:
        releases.end_canary(tx, before.canary.id, outcome, report)


def _usable(tx: Transaction, which: str) -> Version:
    version = find(tx, which)
    if fault := fault_of(version):
        raise Conflict(fault)
    return version


def _pass_gate(tx: Transaction, version: Version, before: Release, override_reason: str | None) -> dict[str, Any]:
    """What the audit log says of the gate. Raises `RefusedByGate`."""
    fault = _fault_at_gate(tx, version, before)
    if fault is None:
        return {"gate": "passed", **({"why": override_reason} if override_reason else {})}
    if override_reason is None:
        raise RefusedByGate(f"{version.name} {fault}. A reason given with --because overrides that, and is recorded.")
    return {"gate": "overridden", "fault": fault, "why": override_reason}


def _fault_at_gate(tx: Transaction, version: Version, before: Release) -> str | None:
    """Why the gate keeps it out. What answered before the champion of now is known, and may come back."""
    verdict = releases.last_verdict(tx, version.id)
    judge_it = f"(`myna evaluate {version.name}` judges it)"
    if verdict is None:
        return f"has not been evaluated {judge_it}"
    if not verdict.passed:
        return "did not pass the gate"
    if verdict.champion_id != _id(rival_of(version, before.champion)) and version.id != _id(before.previous):
        return f"passed the gate beside another champion than {_name(before.champion)}, which answers now {judge_it}"
    return None


def _id(one: Version | Canary | None) -> str | None:
    return one.id if one else None


def _name(version: Version | None) -> str:
    return version.name if version else BASE
