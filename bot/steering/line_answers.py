"""Render answers to steering lines as plain Markdown: status, jobs, versions and evaluations."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bot.errors import Fault
from bot.jobs.control import short_id
from bot.learning.judge.evaluation_report import MEASURES, EvaluationReport, Label, Measure
from bot.learning.judge.gate import REFUSED
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
    """Return the gate's verdict, to follow a version's name."""
    return say("passed", locale) if fault is None else say(fault.kind, locale, champion=fault.champion)


def standing_words(standing: Standing, locale: str | None) -> str:
    """Return the gate's verdict on a version, even if it may not be promoted for another reason."""
    if standing.gate_fault is not None or standing.passed:
        return gate_words(standing.gate_fault, locale)
    return say("not_evaluated" if standing.passed is None else "did_not_pass", locale)


def fault_words(fault: Fault, locale: str | None) -> str:
    """Return why a change is refused, and for a fault of the gate the ways around it."""
    if not fault.is_of_gate:
        return say(fault.kind, locale, version=fault.version, why=fault.because)
    hints = [say("evaluate_it", locale, version=fault.version)] if fault.kind != "did_not_pass" else []
    refused = say("refused_by_gate", locale, version=fault.version, verdict=gate_words(fault, locale))
    return " ".join([refused, *hints, say("override_gate", locale)])


def job_line(job: Job, locale: str | None) -> str:
    """Return a job on one line, with a progress bar while it runs."""
    line = f"`{short_id(job)}` {kind_words(job.kind, locale)} {say(f'job_{job.state}', locale)}"
    if job.state not in ("running", "paused"):
        return line
    return " · ".join([line, *_progress(job.progress or {}, locale)])


def _progress(progress: Mapping[str, Any], locale: str | None) -> Iterator[str]:
    if progress.get("phase"):
        yield phase_words(str(progress["phase"]), locale)
    step, steps = progress.get("step"), progress.get("steps")
    if isinstance(step, int) and isinstance(steps, int) and steps > 0:
        yield f"`{bar(step / steps)}` " + say("step", locale, step=step, steps=steps)
    for name, what, form in (("tokens_per_second", "tokens", ".0f"), ("loss", "loss", ".3f")):
        if isinstance(progress.get(name), int | float):
            yield say(what, locale, number=format(progress[name], form))
    left = progress.get("seconds_left")
    if isinstance(left, int | float) and math.isfinite(left):
        yield say("left", locale, time=_duration(left))


def bar(share: float) -> str:
    """Return a bar of characters for a share from 0 to 1."""
    full = round(min(max(share, 0.0), 1.0) * BAR_CELLS)
    return "█" * full + "░" * (BAR_CELLS - full)


def _duration(seconds: float) -> str:
    whole = max(round(seconds), 0)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def job_report(job: Job, locale: str | None) -> str:
    """Return a job's line, followed by its result once it has ended."""
    lines = [job_line(job, locale)]
    result = job.result or {}
    if isinstance(version := result.get("version"), str):
        passed = bool(result.get("passed"))
        what = "made" if job.kind == "train" else "compared"
        lines.append(say(what, locale, version=version, verdict=verdict_words(passed, locale)))
        reasons = [str(reason) for reason in result.get("reasons") or ()]
        lines += [f"- {reason}" for reason in reasons if not passed and reason.endswith(REFUSED)]
        lines += [say("next_promote", locale, version=version)] if passed else []
    if job.error:
        lines.append(job.error)
    return "\n".join(lines)


def status_text(
    release: Release, judged: Judged | None, jobs: Sequence[Job], attention: Sequence[str], locale: str | None
) -> str:
    """Return the release, its canary, open jobs and the findings that need attention."""
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
    lines += [f"- {job_line(job, locale)}" for job in jobs] or [f"- {say('nothing_runs', locale)}"]
    lines += [say("attention", locale, finding=finding) for finding in attention]
    if judged is not None and judged.verdict == "ready":
        lines.append(say("next_promote", locale, version=name_of(release.challenger)))
    return "\n".join(lines)


def versions_text(found: Sequence[Standing], release: Release, locale: str | None) -> str:
    """List the newest `MOST_VERSIONS` versions, newest first."""
    if not found:
        return say("no_version", locale)
    roles = {"champion": release.champion, "challenger": release.challenger, "previous": release.previous}
    lines = []
    for standing in sorted(found, key=lambda standing: standing.version.number, reverse=True)[:MOST_VERSIONS]:
        version = standing.version
        made = datetime.datetime.fromtimestamp(version.created_at / 1000, datetime.UTC)
        about = [f"{made:%Y-%m-%d}", standing_words(standing, locale)]
        about += [role for role, holder in roles.items() if holder is not None and holder.id == version.id]
        about += ["tainted"] if version.tainted_at else ["retired"] if version.retired_at else []
        lines.append(f"- `{version.name}` · " + " · ".join(about))
    return "\n".join(lines)


def report_text(report: EvaluationReport, passed: bool, reasons: Sequence[str], locale: str | None) -> str:
    """Return a table of base, champion and version, then the gate's reasons."""
    intro = say("compared", locale, version=report.names["candidate"], verdict=verdict_words(passed, locale))
    table = "\n".join(_table(report))
    return "\n\n".join([intro, f"```\n{table}\n```", "\n".join(f"- {reason}" for reason in reasons)]).strip()


def _table(report: EvaluationReport) -> Iterator[str]:
    labels: list[Label] = ["base", "champion", "candidate"]
    if report.names["champion"] == report.names["base"]:
        labels.remove("champion")
    rows = [["", *(_short(report.names[label]) for label in labels)]]
    for suite, found in report.suites.items():
        for name, measure in found.measures.items():
            rows.append([f"{suite}: {MEASURES[name][0]}", *_figures(measure, labels)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for first, *others in rows:
        cells = (text.rjust(width) for text, width in zip(others, widths[1:], strict=True))
        yield "  ".join([first.ljust(widths[0]), *cells])


def _figures(measure: Measure, labels: Sequence[Label]) -> list[str]:
    return [f"{measure.values[label].mean:.3g}" if measure.values[label].is_finite else "-" for label in labels]


def _short(name: str, most: int = 16) -> str:
    return name if len(name) <= most else f"{name[: most - 3]}..."
