"""How the loop's state reads in an answer: a job with a bar, versions, what an evaluation found, as plain Markdown.

Knows: which figures are shown and in which order. Does not know: who asked, where the values come from.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bot.errors import Fault
from bot.jobs.control import short_id
from bot.learning.judge.evaluation_report import MEASURES, Label, Measure, Report
from bot.learning.release.canary_harm import Judged
from bot.learning.release.plan import Standing
from bot.learning.versions import name_of
from bot.steering.line_grammar import START, USAGE
from bot.steering.line_words import kind_words, phase_words, say
from storage.learning_values import Job, Release

BAR_CELLS = 20
MOST_VERSIONS = 20


def usage(locale: str | None) -> str:
    return say("help", locale, usage="\n".join(f"- `{START} {line}`" for line in USAGE.values()))


def percent(share: float) -> str:
    return f"{share * 100:.6g}%"


def verdict_words(passed: bool, locale: str | None) -> str:
    return say("passed" if passed else "did_not_pass", locale)


def gate_words(fault: Fault | None, locale: str | None) -> str:
    """What the gate says of a version, to go on after its name."""
    return say("passed", locale) if fault is None else say(fault.kind, locale, champion=fault.champion)


def standing_words(standing: Standing, locale: str | None) -> str:
    """What the gate says of a version, also of one that may not be promoted for another reason."""
    if standing.gate_fault is not None or standing.passed:
        return gate_words(standing.gate_fault, locale)
    return say("not_evaluated" if standing.passed is None else "did_not_pass", locale)


def fault_words(fault: Fault, locale: str | None) -> str:
    """Why a change is refused, and for a fault of the gate, what to do about it."""
    if not fault.is_of_gate:
        return say(fault.kind, locale, version=fault.version, why=fault.because)
    hints = [say("evaluate_it", locale, version=fault.version)] if fault.kind != "did_not_pass" else []
    refused = say("refused_by_gate", locale, version=fault.version, verdict=gate_words(fault, locale))
    return " ".join([refused, *hints, say("override_gate", locale)])


def job_line(job: Job, locale: str | None) -> str:
    """A job on one line, with a bar of text while it runs."""
    line = f"`{short_id(job)}` {kind_words(job.kind, locale)} {say(f'job_{job.state}', locale)}"
    if job.state not in ("running", "paused"):
        return line
    return " · ".join([line, *_progress(job.progress or {}, locale)])


def _progress(said: Mapping[str, Any], locale: str | None) -> Iterator[str]:
    if said.get("phase"):
        yield phase_words(str(said["phase"]), locale)
    step, steps = said.get("step"), said.get("steps")
    if isinstance(step, int) and isinstance(steps, int) and steps > 0:
        yield f"`{bar(step / steps)}` " + say("step", locale, step=step, steps=steps)
    for name, what, form in (("tokens_per_second", "tokens", ".0f"), ("loss", "loss", ".3f")):
        if isinstance(said.get(name), int | float):
            yield say(what, locale, number=format(said[name], form))
    left = said.get("seconds_left")
    if isinstance(left, int | float) and math.isfinite(left):
        yield say("left", locale, time=_duration(left))


def bar(share: float) -> str:
    """A bar of characters for a share from 0 to 1."""
    full = round(min(max(share, 0.0), 1.0) * BAR_CELLS)
    return "█" * full + "░" * (BAR_CELLS - full)


def _duration(seconds: float) -> str:
    whole = max(round(seconds), 0)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def job_report(job: Job, locale: str | None) -> str:
    """A job's line, and once it has ended what came of it."""
    lines = [job_line(job, locale)]
    result = job.result or {}
    if isinstance(version := result.get("version"), str):
        passed = bool(result.get("passed"))
        what = "made" if job.kind == "train" else "compared"
        lines.append(say(what, locale, version=version, verdict=verdict_words(passed, locale)))
        reasons = [str(one) for one in result.get("reasons") or ()]
        lines += [f"- {one}" for one in reasons if passed is False and one.endswith("REFUSED")]
        lines += [say("next_promote", locale, version=version)] if passed else []
    if job.error:
        lines.append(job.error)
    return "\n".join(lines)


def status_text(
    release: Release, judged: Judged | None, jobs: Sequence[Job], attention: Sequence[str], locale: str | None
) -> str:
    """What answers, what is tried, what runs, and what needs attention."""
    lines = [say("answers", locale, version=name_of(release.champion), number=release.number)]
    if release.number:
        lines.append(say("previous", locale, version=name_of(release.previous)))
    if release.canary is not None and judged is not None:
        lines.append(
            say(
                "canary",
                locale,
                version=name_of(release.challenger),
                share=percent(release.canary.share),
                verdict=judged.verdict,
                because=judged.because,
            )
        )
    lines += [f"- {job_line(one, locale)}" for one in jobs] or [f"- {say('nothing_runs', locale)}"]
    return "\n".join([*lines, *(say("attention", locale, finding=one) for one in attention)])


def versions_text(found: Sequence[Standing], release: Release, locale: str | None) -> str:
    """The newest versions, newest first."""
    if not found:
        return say("no_version", locale)
    roles = {"champion": release.champion, "challenger": release.challenger, "previous": release.previous}
    lines = []
    for standing in sorted(found, key=lambda standing: standing.version.number, reverse=True)[:MOST_VERSIONS]:
        one = standing.version
        made = datetime.datetime.fromtimestamp(one.created_at / 1000, datetime.UTC)
        about = [f"{made:%Y-%m-%d}", standing_words(standing, locale)]
        about += [name for name, at in roles.items() if at is not None and at.id == one.id]
        about += ["tainted"] if one.tainted_at else ["retired"] if one.retired_at else []
        lines.append(f"- `{one.name}` · " + " · ".join(about))
    return "\n".join(lines)


def report_text(report: Report, passed: bool, reasons: Sequence[str], locale: str | None) -> str:
    """A table of base, champion and version, then the gate's reasons."""
    intro = say("compared", locale, version=report.names["candidate"], verdict=verdict_words(passed, locale))
    table = "\n".join(_table(report))
    return "\n\n".join([intro, f"```\n{table}\n```", "\n".join(f"- {one}" for one in reasons)]).strip()


def _table(report: Report) -> Iterator[str]:
    labels: list[Label] = ["base", "champion", "candidate"]
    if report.names["champion"] == report.names["base"]:
        labels.remove("champion")
    rows = [["", *(_short(report.names[label]) for label in labels)]]
    for suite, found in report.suites.items():
        rows += [[f"{suite}: {MEASURES[name][0]}", *_figures(one, labels)] for name, one in found.measures.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for first, *others in rows:
        cells = (text.rjust(width) for text, width in zip(others, widths[1:], strict=True))
        yield "  ".join([first.ljust(widths[0]), *cells])


def _figures(measure: Measure, labels: Sequence[Label]) -> list[str]:
    return [f"{measure.values[label].mean:.3g}" if measure.values[label].is_finite else "-" for label in labels]


def _short(name: str, most: int = 16) -> str:
    return name if len(name) <= most else f"{name[: most - 3]}..."
