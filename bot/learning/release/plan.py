"""The one rule of what may answer: each change of the release, planned before it is made.

`plan` reads and changes nothing. Whoever asks a person back shows the plan; `releases.py` carries it out. So both
always come to the same.
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
    """Raise `InvalidInput` for a share of the conversations that no canary may have."""
    if not 0 < share <= MAX_SHARE:
        raise InvalidInput(
            f"The share of a canary is more than 0 % and at most {MAX_SHARE * 100:.0f} %.", field="share"
        )


@dataclass(frozen=True, slots=True)
class Promote:
    """Have a version answer everybody. `version` is what a person typed; "base" is the base model."""

    version: str
    needs: ClassVar[Role] = "admin"


@dataclass(frozen=True, slots=True)
class StartCanary:
    """Try a version on a share of the conversations. Raises `InvalidInput` for a share that is not allowed."""

    version: str
    share: float
    needs: ClassVar[Role] = "admin"

    def __post_init__(self) -> None:
        check_share(self.share)


@dataclass(frozen=True, slots=True)
class RollBack:
    """Go back to the version before. Done again, it goes one further back, and never forward."""

    needs: ClassVar[Role] = "trainer"


@dataclass(frozen=True, slots=True)
class StopCanary:
    """Have the champion answer everybody again."""

    needs: ClassVar[Role] = "trainer"


Change = Promote | StartCanary | RollBack | StopCanary


@dataclass(frozen=True, slots=True)
class Plan:
    """What a change comes to. `version` is the version that it is about; None is the base.

    `after` has no canary of its own yet: that is made with the change. `canary_ends_as` is the outcome of the canary
    that runs `before`, None if it goes on or there is none.
    """

    before: Release
    after: Release
    version: Version | None
    fault: Fault | None = None
    canary_ends_as: CanaryOutcome | None = None

    @property
    def ends_canary(self) -> Version | None:
        """The challenger whose canary ends."""
        return self.before.challenger if self.canary_ends_as is not None else None

    def check(self, override_reason: str | None = None) -> None:
        """Raise the fault: `RefusedByGate`, unless there is a reason that overrides the gate, or `Conflict`."""
        if self.fault is None:
            return
        if not self.fault.is_of_gate:
            raise Conflict(fault=self.fault)
        if override_reason is None:
            raise RefusedByGate(name_of(self.version), self.fault)


@dataclass(frozen=True, slots=True)
class Standing:
    """The newest verdict on a version, None for one that was never judged, and the fault of promoting it now."""

    version: Version
    passed: bool | None
    fault: Fault | None

    @property
    def gate_fault(self) -> Fault | None:
        return self.fault if self.fault is not None and self.fault.is_of_gate else None


def plan(tx: Transaction, change: Change) -> Plan:
    """Plan a change of what answers now. Raises `NotFound` for a version that is not there."""
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
    """Say of each version, oldest first, how it was judged and whether it may be promoted now."""
    before, verdicts = releases.current(tx), evaluations.newest_verdicts(tx)
    return [_standing(before, one, verdicts.get(one.id)) for one in versions.list_all(tx)]


def standing(tx: Transaction, which: str) -> Standing:
    """As `standings`, of one version. Raises `NotFound`."""
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
    if before.champion is None and champion is None:  # there is a canary to take back, or nothing
        fault = Fault("nothing_before") if before.canary is None else None
        return Plan(before, replace(before, challenger=None, canary=None), None, fault, ends_as)
    gone = {one.name for one in (before.champion, before.challenger) if one is not None}
    previous = answered_before(tx, champion, gone)
    after = replace(before, champion=champion, previous=previous, challenger=None, canary=None)
    return Plan(before, after, champion, fault_of(champion) if champion is not None else None, ends_as)


def _stop(tx: Transaction, before: Release) -> Plan:
    previous = before.previous
    if previous is not None and id_of(previous) == id_of(before.challenger):  # it is taken back with its canary
        previous = answered_before(tx, before.champion, {previous.name})
    after = replace(before, previous=previous, challenger=None, canary=None)
    fault = Fault("no_canary") if before.canary is None else None
    return Plan(before, after, before.challenger, fault, _ends_as(before, "rolled_back"))


def _ends_as(before: Release, outcome: CanaryOutcome) -> CanaryOutcome | None:
    return outcome if before.canary is not None else None


def _fault_of_version(before: Release, version: Version | None, verdict: GivenVerdict | None) -> Fault | None:
    """Say why a version may not answer: it may not be used any more, it answers, or the gate keeps it out."""
    if version is not None and (fault := fault_of(version)):
        return fault
    if id_of(version) == id_of(before.champion):
        return Fault("answers_already", name_of(version))
    return None if version is None else _fault_at_gate(before, version, verdict)


def _fault_at_gate(before: Release, version: Version, verdict: GivenVerdict | None) -> Fault | None:
    """What answered just before the champion, and was not taken back, passes without another judgement."""
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
