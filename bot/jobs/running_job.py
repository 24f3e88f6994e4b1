"""One run of a job, between its task's thread and its worker's event loop.

Progress is buffered here, as a task must never wait for the database to report it.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

from bot.access.roles import Actor
from bot.jobs.contract import Stopped
from storage.jobs import JobLease, Point
from storage.learning_values import Job
from storage.values import storable

T = TypeVar("T")


class RunningJob:
    """The task's `JobContext`. The worker takes its news, writes them with `write_news`, and tells it to stop."""

    def __init__(
        self,
        lease: JobLease,
        folder: Path,
        loop: asyncio.AbstractEventLoop,
        write_news: Callable[[RunningJob], Coroutine[Any, Any, None]],
    ) -> None:
        self.lease = lease
        self.job: Job = lease.job
        self.actor = Actor(lease.job.created_by, "trainer")
        self.workspace_id = lease.workspace_id
        self.folder = folder
        self._loop = loop
        self._write_news = write_news
        self._lock = threading.Lock()
        self._progress: dict[str, Any] = dict(lease.job.progress or {})
        self._points: dict[tuple[str, int], float] = {}
        self._has_news = False
        self._stop: type[Stopped] | None = None

    # --- for the task ---

    def progress(self, **fields: Any) -> None:
        with self._lock:
            self._progress |= {name: _plain(value) for name, value in fields.items()}
            self._has_news = True

    def point(self, series: str, step: int, value: float) -> None:
        number = float(value)
        if not math.isfinite(number):
            return  # it can't be drawn, and a task that diverges fails with an error of its own
        with self._lock:
            self._points[series, int(step)] = number
            self._has_news = True

    def flush(self) -> None:
        self.run(self._write_news(self))

    def check(self) -> None:
        if self._stop is not None:
            raise self._stop

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    # --- for the worker ---

    def stop(self, why: type[Stopped] | None) -> None:
        """Make `check` raise this exception; None lets the task go on."""
        self._stop = why

    def take_news(self) -> tuple[Mapping[str, Any], tuple[Point, ...]] | None:
        """Return progress and points reported since the last call; None if there are none."""
        with self._lock:
            if not self._has_news:
                return None
            points = tuple(Point(series, step, value) for (series, step), value in self._points.items())
            self._points, self._has_news = {}, False
            return dict(self._progress), points

    def put_back(self, points: tuple[Point, ...]) -> None:
        """Take back points that could not be written. Points reported meanwhile take precedence."""
        with self._lock:
            self._points = {(point.series, point.step): point.value for point in points} | self._points
            self._has_news = True


def _plain(value: Any) -> Any:
    """Return a value that both databases accept in a JSON column: no NaN, no NUL, no lone surrogates."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, Mapping):
        return {storable(str(name)): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int):
        return value
    number = float(value)
    return number if math.isfinite(number) else None
