"""Display of jobs: list lines, descriptions, progress bars and JSON lines."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from adapters.cli.terminal import print_value, say

if TYPE_CHECKING:
    from storage.jobs import Point
    from storage.learning_values import Job

PLAIN_LINE_SECONDS = 10.0

Show = Callable[["Job"], None]


def job_row(job: Job) -> dict[str, Any]:
    """Return a job as a JSON object."""
    return dataclasses.asdict(job)


def list_line(job: Job) -> str:
    """Return a job as one line of a list."""
    from bot.jobs.control import short_id

    about = progress_words(job) if job.state in ("running", "paused") else (job.error or "")
    asked = f", {job.wanted} asked for" if job.wanted != "run" else ""
    priority = f"  priority {job.priority}" if job.priority else ""
    return (
        f"{short_id(job)}  {job.kind}  {job.state}{asked}{priority}  {moment_words(job.created_at)}  {about}".rstrip()
    )


def describe(job: Job, points: Iterable[Point]) -> Iterator[str]:
    """Yield the description of a job, line by line."""
    yield f"job {job.id}: {job.kind}, {job.state}"
    yield f"created by {job.created_by} on {moment_words(job.created_at)}, priority {job.priority}"
    yield from (f"setting {name}: {value}" for name, value in job.settings.items())
    if job.progress:
        yield f"progress: {progress_words(job)}"
    newest = {point.series: point for point in points}
    yield from (f"{name}: {point.value:.4g} at step {point.step}" for name, point in newest.items())
    yield from result_lines(job)


def result_lines(job: Job) -> Iterator[str]:
    """Yield the result of a job, and its error, line by line."""
    yield from (f"{name}: {value}" for name, value in (job.result or {}).items())
    if job.error:
        yield f"error: {job.error}"


def progress_words(job: Job) -> str:
    """Return the progress that the worker reported last, as text."""
    from bot.steering.line_words import phase_words

    said = job.progress or {}
    parts = [phase_words(str(said.get("phase") or ""), None)]
    if said.get("step") is not None:
        parts.append(f"step {said['step']}" + (f"/{said['steps']}" if said.get("steps") else ""))
    parts += [
        form.format(said[name])
        for name, form in (
            ("tokens_per_second", "{:.0f} tokens/s"),
            ("loss", "loss {:.3f}"),
            ("held_out_loss", "held-out loss {:.3f}"),
        )
        if isinstance(said.get(name), int | float)
    ]
    if isinstance(said.get("seconds_left"), int | float):
        parts.append(f"{duration_words(said['seconds_left'])} left")
    return "  ".join(part for part in parts if part)


def duration_words(seconds: float) -> str:
    """Format a duration: `48 s`, `3 min`, `2 h 5 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def moment_words(ms: int) -> str:
    """Format a time, given in milliseconds since 1970, in local time to the minute."""
    return datetime.datetime.fromtimestamp(ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M")


@contextlib.contextmanager
def display(*, as_json: bool) -> Iterator[Show]:
    """Yield a function that shows a job, to be called whenever it has changed."""
    if as_json:
        yield lambda job: print_value(job_row(job))
    elif sys.stderr.isatty():
        with _bar() as show:
            yield show
    else:
        yield _PlainLines()


class _PlainLines:
    """Prints a line when the job's state or phase changes, and one every few seconds."""

    def __init__(self) -> None:
        self._shown: object = None
        self._next = 0.0

    def __call__(self, job: Job) -> None:
        now, phase = time.monotonic(), (job.state, (job.progress or {}).get("phase"))
        if phase != self._shown or now >= self._next:
            say(f"{job.state}  {progress_words(job)}".rstrip())
            self._shown, self._next = phase, now + PLAIN_LINE_SECONDS


@contextlib.contextmanager
def _bar() -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=None)

        def show(job: Job) -> None:
            said = job.progress or {}
            progress.update(
                bar,
                description=f"{job.state}  {progress_words(job)}",
                total=said.get("steps"),
                completed=said.get("step") or 0,
            )

        yield show
