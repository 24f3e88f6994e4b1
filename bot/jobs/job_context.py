"""What a task is given to do its job with, and how it can end before it is done.

Knows: the contract between a task and the worker that runs it. Does not know: leases, processes, what any task does.

A task is a synchronous function that runs in a thread of its own. It calls `check` between two steps; what that raises
it lets pass, after it has saved a checkpoint in `folder`. It may be begun again at any time, also after a SIGKILL.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

from bot.settings import Settings
from storage.database import Database
from storage.jobs import JobLease
from storage.learning_values import Job

T = TypeVar("T")


class Stopped(Exception):
    """The job is not done, and has to stop here."""


class Paused(Stopped):
    """Somebody paused it: save a checkpoint, it will go on."""


class Cancelled(Stopped):
    """Somebody cancelled it: its folder is removed."""


class Interrupted(Stopped):
    """The worker shuts down, or has lost the job to another: save a checkpoint, somebody goes on."""


class Refused(Exception):
    """The job can't be done as things are, and trying again would not help: too few examples, a gate that refuses."""


class JobContext(Protocol):
    """One run of one job."""

    job: Job
    workspace_id: str
    # For units that write on the job's behalf: `storage.jobs.hold(tx, lease)` first.
    lease: JobLease
    # Private, the same for each run of this job on this machine. Removed when the job is done, refused or cancelled.
    folder: Path

    def progress(self, **fields: Any) -> None:
        """Say how far it is: phase, step, steps, tokens_per_second, loss, held_out_loss, seconds_left ... Cheap."""
        ...

    def point(self, series: str, step: int, value: float) -> None:
        """Add a point to a curve; the same step again takes the earlier one's place. Cheap."""
        ...

    def flush(self) -> None:
        """Wait until every point so far is written. Before a checkpoint: a curve then has no hole after a SIGKILL."""
        ...

    def check(self) -> None:
        """Raises `Paused`, `Cancelled` or `Interrupted` when the job has to stop. Cheap."""
        ...

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run something on the worker's event loop, such as `services.database.read(...)`, and wait for it."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """What tasks work with. `threads` is how many a task should compute with."""

    settings: Settings
    database: Database
    threads: int


Task: TypeAlias = Callable[[JobContext, Services], Mapping[str, Any]]
