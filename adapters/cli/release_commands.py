"""Releases: `myna status`, `versions`, `promote`, `canary`, `rollback`, `retire` and `erase`.

A running server follows a change with its next reply.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from adapters.cli import job_display
from adapters.cli.terminal import Commands, add, add_yes, confirm, print_value, say, shell_actor, with_database
from bot.errors import InvalidInput, MynaError, RefusedByGate
from bot.settings import Settings

if TYPE_CHECKING:
    from bot.learning.release.canary_harm import Judged
    from bot.learning.release.plan import Plan, ReleaseChange, Standing
    from bot.learning.release.releases import Releases
    from storage.learning_values import Job, Release, Version
    from storage.scope import Scope

T = TypeVar("T")
BASE = "the base model"


def add_to(commands: Commands) -> None:
    """Add `status`, `versions`, `promote`, `canary`, `rollback`, `retire` and `erase`."""
    add(
        commands,
        "status",
        "show the answering version, the canary, open jobs, and findings that need attention",
        _status,
        reports=True,
    )
    versions = add(commands, "versions", "list the trained versions, or show one of them", _versions, reports=True)
    versions.add_argument(
        "action", nargs="?", choices=["list", "show"], default="list", help="list or show; default: list"
    )
    versions.add_argument("version", nargs="?", help="with show: the version's name, number, or the start of its name")
    promote = add(
        commands, "promote", "promote a version that passed the gate: it answers everybody", _promote, reports=True
    )
    promote.add_argument(
        "version", help="the version's name, number, or the start of its name; or base for the base model"
    )
    promote.add_argument("--because", metavar="TEXT", type=_reason, help="override the gate for this reason; recorded")
    add_yes(promote)
    canary = add(
        commands, "canary", "start a canary: a version answers a share of the conversations", _canary, reports=True
    )
    canary.add_argument(
        "version",
        help="the version's name, number, or the start of its name; or status to show the canary, stop to end it",
    )
    canary.add_argument(
        "--share",
        type=_share,
        default=0.1,
        metavar="10%",
        help="share of the conversations, at most 50%%; default: 10%%",
    )
    canary.add_argument("--because", metavar="TEXT", type=_reason, help="override the gate for this reason; recorded")
    add_yes(canary)
    rollback = add(
        commands, "rollback", "go back to the previous version; ends a running canary", _rollback, reports=True
    )
    rollback.add_argument("--because", default="", metavar="TEXT", help="the reason, which is recorded")
    add_yes(rollback)
    retire = add(commands, "retire", "retire a version for good", _retire, reports=True)
    retire.add_argument("version", help="the version's name, number, or the start of its name")
    retire.add_argument("--because", required=True, type=_reason, metavar="TEXT", help="the reason, which is recorded")
    add_yes(retire)
    erase = add(
        commands,
        "erase",
        "erase a person's messages, votes and examples, and retire the versions trained on them",
        _erase,
        reports=True,
    )
    erase.add_argument("person", help="web:ID, slack:TEAM/USER, or Myna's own id of the person")
    add_yes(erase)


def _share(text: str) -> float:
    from bot.learning.release.plan import check_share
    from bot.steering.line_grammar import read_share

    try:
        share = read_share(text)
        check_share(share)
    except (ValueError, InvalidInput):
        raise argparse.ArgumentTypeError(f"{text!r} is not a share like 10% or 0.1, of at most 50%") from None
    return share


def override_hint(error: RefusedByGate) -> str:
    """Return the options left for a version that the gate refused."""
    hint = "--because TEXT overrides the gate, and is recorded."
    return hint if error.fault.kind == "did_not_pass" else f"`myna evaluate {error.version}` evaluates it; {hint}"


def _with_releases(settings: Settings, work: Callable[[Releases], Awaitable[T]]) -> T:
    from bot.learning.release.releases import Releases

    return with_database(settings, lambda scope: work(Releases(scope)))


def _reason(given: str) -> str:
    if not given.strip():
        raise argparse.ArgumentTypeError("the reason is empty; it is recorded, so give one")
    return given.strip()


def _preview(settings: Settings, change: ReleaseChange, because: str | None) -> Plan:
    """Plan a change to confirm; it is carried out only if the release is still the same then. Raises its fault."""
    planned = _with_releases(settings, lambda releases: releases.preview(change))
    planned.check(because)
    return planned


def _question(question: str, planned: Plan) -> str:
    """Put the plan's fault and the end of a canary before the question."""
    notes = [planned.fault.text] if planned.fault is not None else []
    notes += [f"The canary of {_name(planned.ends_canary)} ends."] if planned.ends_canary is not None else []
    return " ".join([*notes, question])


def _promote(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot.learning.release.plan import Promote

    planned = _preview(settings, Promote(arguments.version), arguments.because)
    confirm(arguments, _question(_champion_question(planned), planned))
    changed = _with_releases(
        settings,
        lambda releases: releases.promote(
            shell_actor(), arguments.version, override_reason=arguments.because, at=planned.before.number
        ),
    )
    return _tell(arguments, changed, f"{_name(changed.champion)} answers from the next reply on.")


def _rollback(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot.learning.release.plan import RollBack

    planned = _preview(settings, RollBack(), arguments.because)
    if planned.after.champion != planned.before.champion:
        confirm(arguments, _question(_champion_question(planned), planned))
    else:
        confirm(arguments, f"End the canary of {_name(planned.ends_canary)}?")
    changed = _with_releases(
        settings, lambda releases: releases.rollback(shell_actor(), arguments.because, at=planned.before.number)
    )
    if planned.after.champion == planned.before.champion:
        return _tell(arguments, changed, f"The canary has ended: {_name(changed.champion)} answers everybody.")
    return _tell(arguments, changed, f"Rolled back: {_name(changed.champion)} answers from the next reply on.")


def _champion_question(planned: Plan) -> str:
    after, before = _name(planned.after.champion), _name(planned.before.champion)
    return f"Let {after} answer everybody from the next reply on, in place of {before}?"


def _canary(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot.learning.release.plan import StartCanary
    from bot.steering.line_answers import percent

    if arguments.version == "status":
        return _status(settings, arguments)
    if arguments.version == "stop":
        changed = _with_releases(
            settings, lambda releases: releases.stop_canary(shell_actor(), arguments.because or "")
        )
        return _tell(arguments, changed, f"The canary has ended: {_name(changed.champion)} answers everybody.")
    planned = _preview(settings, StartCanary(arguments.version, arguments.share), arguments.because)
    question = f"Let {_name(planned.version)} answer {percent(arguments.share)} of the conversations?"
    confirm(arguments, _question(question, planned))
    changed = _with_releases(
        settings,
        lambda releases: releases.start_canary(
            shell_actor(),
            arguments.version,
            arguments.share,
            override_reason=arguments.because,
            at=planned.before.number,
        ),
    )
    text = f"{_name(changed.challenger)} answers {percent(arguments.share)} of the conversations"
    return _tell(arguments, changed, f"{text} from the next reply on. `myna canary status` shows the results.")


def _tell(arguments: argparse.Namespace, release: Release, text: str) -> int:
    print_value(_as_json(release) if arguments.json else text)
    return 0


def _as_json(release: Release) -> dict[str, Any]:
    canary = release.canary
    return {
        "number": release.number,
        "champion": release.champion.name if release.champion else None,
        "previous": release.previous.name if release.previous else None,
        "challenger": release.challenger.name if release.challenger else None,
        "share": canary.share if canary else None,
    }


def _name(version: Version | None) -> str:
    return version.name if version else BASE


def _status(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot.jobs.control import Jobs
    from bot.learning.release import canary_watch
    from bot.learning.release.releases import Releases
    from bot.steering.line_answers import percent
    from bot.steering.needs_attention import needs_attention

    async def look(scope: Scope) -> tuple[Release, Judged | None, list[str], Sequence[Job]]:
        release = await Releases(scope).current()
        judged = await canary_watch.look_at(scope, release)
        attention = await needs_attention(scope, release, judged)
        return release, judged, attention, await Jobs(scope).list_open(shell_actor())

    release, judged, attention, open_jobs = with_database(settings, look)
    if arguments.json:
        print_value(
            {
                **_as_json(release),
                "canary": judged.report() if judged else None,
                "needs_attention": attention,
                "jobs": [job_display.job_row(job) for job in open_jobs],
            }
        )
        return 0
    print_value(f"Answers:  {_name(release.champion)}    (release {release.number})")
    if release.number:
        print_value(f"Before:   {_name(release.previous)}")
    if release.canary is not None and judged is not None:
        print_value(
            f"Canary:   {_name(release.challenger)}, {percent(release.canary.share)}: "
            f"{judged.verdict} - {judged.because}"
        )
        for line in _rail_lines(judged):
            print_value(line)
    for job in open_jobs:
        print_value(f"Job:      {job_display.list_line(job)}")
    for line in attention:
        print_value(f"!  {line}")
    if judged is not None and judged.verdict == "ready":
        print_value(f"Next:     `myna promote {_name(release.challenger)}`")
    return 0


def _rail_lines(judged: Judged) -> list[str]:
    lines = [
        f"          {'':12} challenger      champion        harm     safe   (each decides at {judged.threshold:g})"
    ]
    for name, rail in judged.rails.items():
        of = rail.counts
        arms = [
            f"{bad} of {bad + good}"
            for bad, good in ((of.challenger_bad, of.challenger_good), (of.champion_bad, of.champion_good))
        ]
        lines.append(f"          {name:12} {arms[0]:15} {arms[1]:15} {rail.harm:<8.3g} {rail.safety:.3g}")
    return lines


def _versions(settings: Settings, arguments: argparse.Namespace) -> int:
    if arguments.action == "show":
        if not arguments.version:
            raise MynaError("Name a version: `myna versions show NAME`.")
        return _show(settings, arguments)

    async def look(releases: Releases) -> tuple[list[Standing], Release]:
        return await releases.standings(), await releases.current()

    found, release = _with_releases(settings, look)
    if arguments.json:
        rows = [
            (dataclasses.asdict(standing.version), _state(standing.version, release), _gate_row(standing))
            for standing in found
        ]
        print_value([{**row, "state": state, **gate} for row, state, gate in rows])
    elif not found:
        print_value("No version yet. `myna train` trains one.")
    for standing in () if arguments.json else found:
        version = standing.version
        made = datetime.datetime.fromtimestamp(version.created_at / 1000).astimezone()
        state = ", ".join(part for part in (_state(version, release), _gate(standing)) if part)
        print_value(f"{version.name}  {made:%Y-%m-%d %H:%M}  {state}  ({version.base}, by {version.created_by})")
    return 0


def _gate_row(standing: Standing) -> dict[str, Any]:
    """Return the gate's last verdict, and the fault that promoting the version now would have, as JSON fields."""
    verdict = {True: "passed", False: "failed", None: "never evaluated"}[standing.passed]
    return {"gate": verdict, "fault": standing.fault.kind if standing.fault is not None else None}


def _gate(standing: Standing) -> str:
    """Return the gate's last verdict as text; say so if the champion has changed since it passed."""
    fault = standing.gate_fault
    if fault is not None and fault.kind == "judged_beside_another":
        return f"passed beside another champion than {fault.champion}"
    return str(_gate_row(standing)["gate"])


def _state(version: Version, release: Release) -> str:
    roles = {"champion": release.champion, "challenger": release.challenger, "previous": release.previous}
    words = [name for name, holder in roles.items() if holder is not None and holder.id == version.id]
    words += ["tainted"] if version.tainted_at else []
    return ", ".join([*words, *([f"retired: {version.retired_because}"] if version.retired_at else [])])


def _show(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot.learning.release.releases import Releases
    from bot.learning.versions import Lineage, Versions

    async def look(scope: Scope) -> tuple[Lineage, Standing]:
        standing = await Releases(scope).standing(arguments.version)
        return await Versions(scope).lineage(standing.version.name), standing

    lineage, standing = with_database(settings, look)
    if arguments.json:
        print_value({**dataclasses.asdict(lineage), "passed_gate": standing.passed, **_gate_row(standing)})
        return 0
    for name, value in dataclasses.asdict(lineage.version).items():
        if value is not None:
            print_value(f"{name:16} {value}")
    conversations = {conversation for conversation, _, _ in lineage.learnt_from}
    print_value(f"{'gate':16} {_gate(standing)}")
    print_value(f"{'learnt from':16} {len(lineage.learnt_from)} examples of {len(conversations)} conversations")
    return 0


def _retire(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot.learning.versions import Versions

    version = with_database(settings, lambda scope: Versions(scope).find(arguments.version))
    confirm(arguments, f"Retire {version.name} for good?")
    retired = with_database(
        settings, lambda scope: Versions(scope).retire(shell_actor(), version.name, arguments.because)
    )
    print_value({"retired": retired.name} if arguments.json else f"{retired.name} is retired.")
    return 0


def _erase(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot.access import installation
    from bot.privacy.erasure.erase_person import Erased, Erasure

    keys = installation.secret_keys(settings)

    def make(scope: Scope) -> Erasure:
        return Erasure(scope, settings.data, keys, settings.erasure_policy)

    found = with_database(settings, lambda *where: make(*where).preview(arguments.person))
    if found is not None:
        own = "1 conversation" if len(found.own) == 1 else f"{len(found.own)} conversations"
        others = f", their messages in {len(found.shared)} with others" if found.shared else ""
        learnt = f" Versions that learnt their words and may not be used any more: {len(found.versions)}."
        confirm(arguments, f"Erase {own}{others}, for good?{learnt if found.versions else ''}")
    erased: Erased = with_database(settings, lambda *where: make(*where).erase(shell_actor(), arguments.person))
    if arguments.json:
        print_value(
            {
                **dataclasses.asdict(erased.proof),
                "was_done_before": erased.was_done_before,
                "job": erased.job_id,
                "golden_questions": erased.golden,
                **_as_json(erased.release),
            }
        )
        return 0
    removed = ", ".join(f"{count} {name}" for name, count in erased.proof.counts.items()) or "nothing"
    print_value(f"{'Erased before' if erased.was_done_before else 'Erased'}: {removed}.")
    if erased.proof.versions:
        print_value(f"These versions were trained on it: {', '.join(erased.proof.versions)}.")
        print_value(f"{_name(erased.release.champion)} answers.")
    if erased.job_id is not None:
        print_value(f"The job {erased.job_id[:12]} trains a new version without it; `myna jobs` shows its progress.")
    if erased.golden:
        say(f"Golden questions that contain the name, for you to decide about: {', '.join(erased.golden)}.")
    if not erased.was_done_before:
        say("Remove copies outside the database yourself: backups, exports, messages in Slack.")
    return 0
