"""Release rules: plan a promotion, canary, rollback or stop, without making the change.

A confirmation shows the plan and `releases.py` carries it out, so the two always agree.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from bot.access.roles import Role
from bot.errors import Conflict, Fault, InvalidInput, RefusedByGate
from bot.learning.release.history import answered_before
from bot.learning.versions import BASE, fault_of, find, name_of, rival_of
from storage import evaluations, releases, versions
from storage.evaluations import GivenVerdict
from storage.learning_values import CanaryOutcome, Release, Version
from storage.transaction import Transaction

MAX_SHARE = 0.5


def check_share(share: float) -> None:
    """Raise `InvalidInput` unless a canary may have this share of the conversations."""
    if not 0 < share <= MAX_SHARE:
        raise InvalidInput(
            f"The share of a canary is more than 0 % and at most {MAX_SHARE * 100:.0f} %.", field="share"
        )


@dataclass(frozen=True, slots=True)
class Promote:
    """Make a version the champion. `version` is its name as a person typed it; "base" is the base model."""

    version: str
    needs: ClassVar[Role] = "admin"


@dataclass(frozen=True, slots=True)
class StartCanary:
    """Try a version on a share of the conversations, from 0 to 1. Raises `InvalidInput` for a forbidden share."""

    version: str
    share: float
    needs: ClassVar[Role] = "admin"

    def __post_init__(self) -> None:
        check_share(self.share)


@dataclass(frozen=True, slots=True)
class RollBack:
    """Go back to the previous version. A second rollback goes one version further back, never forward."""

    needs: ClassVar[Role] = "trainer"


@dataclass(frozen=True, slots=True)
class StopCanary:
    """End the canary: the champion answers everybody again."""

    needs: ClassVar[Role] = "trainer"


ReleaseChange = Promote | StartCanary | RollBack | StopCanary


@dataclass(frozen=True, slots=True)
class Plan:
    """The effect of a change on the version that it names; None is the base.

    `after` has no canary of its own yet: the canary is created with the change. `canary_ends_as` is the outcome of the
    canary that runs `before`; None if it goes on or there is none.
    """

    before: Release
    after: Release
    version: Version | None
    fault: Fault | None = None
    canary_ends_as: CanaryOutcome | None = None

    @property
    def ends_canary(self) -> Version | None:
        """The challenger whose canary ends, if any."""
        return self.before.challenger if self.canary_ends_as is not None else None

    def check(self, override_reason: str | None = None) -> None:
        """Raise the fault, if any: `Conflict`, or `RefusedByGate` unless a reason overrides the gate."""
        if self.fault is None:
            return
        if not self.fault.is_of_gate:
            raise Conflict(fault=self.fault)
        if override_reason is None:
            raise RefusedByGate(name_of(self.version), self.fault)


@dataclass(frozen=True, slots=True)
class Standing:
    """The newest verdict on a version (None if it was never judged) and the fault of promoting it now."""

    version: Version
    passed: bool | None
    fault: Fault | None

    @property
    def gate_fault(self) -> Fault | None:
        return self.fault if self.fault is not None and self.fault.is_of_gate else None


def plan(tx: Transaction, change: ReleaseChange) -> Plan:
    """Plan a change of the release. Raises `NotFound` for an unknown version."""
    before = releases.current(tx)
    match change:
        case Promote(version=which):
            return _promotion(before, *((None, None) if which == BASE else _judged(tx, which)))
        case StartCanary(version=which):
            return _canary(before, *_judged(tx, which))
        case RollBack():
            return _rollback(tx, before)
        case StopCanary():
            return _stop(tx, before)


def standings(tx: Transaction) -> list[Standing]:
    """Return the standing of each version, oldest first."""
    before, verdicts = releases.current(tx), evaluations.newest_verdicts(tx)
    return [_standing(before, version, verdicts.get(version.id)) for version in versions.list_all(tx)]


def standing(tx: Transaction, which: str) -> Standing:
    """Return the standing of one version. Raises `NotFound`."""
    return _standing(releases.current(tx), *_judged(tx, which))


def _standing(before: Release, version: Version, verdict: GivenVerdict | None) -> Standing:
    return Standing(version, verdict.passed if verdict else None, _promotion(before, version, verdict).fault)


def _judged(tx: Transaction, which: str) -> tuple[Version, GivenVerdict | None]:
    version = find(tx, which)
    return version, evaluations.newest_verdicts(tx).get(version.id)


def _promotion(before: Release, version: Version | None, verdict: GivenVerdict | None) -> Plan:
    is_challenger = version is not None and id_of(version) == id_of(before.challenger)
    return Plan(
        before,
        replace(before, champion=version, previous=before.champion, challenger=None, canary=None),
        version,
        _fault_of_version(before, version, verdict),
        _ends_as(before, "promoted" if is_challenger else "replaced"),
    )


def _canary(before: Release, version: Version, verdict: GivenVerdict | None) -> Plan:
    after = replace(before, challenger=version, canary=None)
    return Plan(before, after, version, _fault_of_version(before, version, verdict), _ends_as(before, "replaced"))


def _rollback(tx: Transaction, before: Release) -> Plan:
    champion, ends_as = before.previous, _ends_as(before, "rolled_back")
    if before.champion is None and champion is None:  # only a canary can be taken back, if one runs
        fault = Fault("nothing_before") if before.canary is None else None
        return Plan(before, replace(before, challenger=None, canary=None), None, fault, ends_as)
    gone = {version.name for version in (before.champion, before.challenger) if version is not None}
    previous = answered_before(tx, champion, gone)
    after = replace(before, champion=champion, previous=previous, challenger=None, canary=None)
    return Plan(before, after, champion, fault_of(champion) if champion is not None else None, ends_as)


def _stop(tx: Transaction, before: Release) -> Plan:
    previous = before.previous
    if previous is not None and id_of(previous) == id_of(before.challenger):  # taken back with its canary
        previous = answered_before(tx, before.champion, {previous.name})
    after = replace(before, previous=previous, challenger=None, canary=None)
    fault = Fault("no_canary") if before.canary is None else None
    return Plan(before, after, before.challenger, fault, _ends_as(before, "rolled_back"))


def _ends_as(before: Release, outcome: CanaryOutcome) -> CanaryOutcome | None:
    return outcome if before.canary is not None else None


def _fault_of_version(before: Release, version: Version | None, verdict: GivenVerdict | None) -> Fault | None:
    """Return the reason why a version may not be promoted: unusable, champion already, or refused by the gate."""
    if version is not None and (fault := fault_of(version)):
        return fault
    if id_of(version) == id_of(before.champion):
        return Fault("answers_already", name_of(version))
    return None if version is None else _fault_at_gate(before, version, verdict)


def _fault_at_gate(before: Release, version: Version, verdict: GivenVerdict | None) -> Fault | None:
    """Apply the gate; the previous champion passes without another judgement, unless it was taken back."""
    if verdict is None:
        return Fault("not_evaluated", version.name)
    if not verdict.passed:
        return Fault("did_not_pass", version.name)
    is_of_now = verdict.champion_id == id_of(rival_of(version, before.champion))
    if is_of_now or version.id == id_of(before.previous):
        return None
    return Fault("judged_beside_another", version.name, champion=name_of(before.champion))


def id_of(version: Version | None) -> str | None:
    return version.id if version is not None else None
