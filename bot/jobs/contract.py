"""Contract between a job's task and its worker, and texts for failed jobs.

A task is a synchronous function that runs in a thread of its own. It calls `check` between steps, saves a checkpoint in
`folder` if that raises, and lets the exception propagate. It may be started again at any time, also after a SIGKILL.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

from bot.access.roles import Actor
from bot.errors import MynaError
from bot.settings import Settings
from storage.database import Database
from storage.jobs import JobLease
from storage.learning_values import Job
from storage.values import storable

T = TypeVar("T")

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_RESUME = "the job can then be resumed from its last checkpoint."
MAX_CHARS = 500


class Stopped(Exception):
    """The job has to stop before it is done."""


class Paused(Stopped):
    """A person paused the job: save a checkpoint, the job will be resumed."""


class Cancelled(Stopped):
    """A person cancelled the job: its folder will be removed."""


class Interrupted(Stopped):
    """The worker shuts down, or has lost its lease: save a checkpoint, another run goes on from there."""


class JobRefused(Exception):
    """The job can't be done as things are, and a retry would not help: too few examples, an unknown version."""


class JobContext(Protocol):
    """One run of one job."""

    job: Job
    # The person who created the job; it acts with the role that creating it took.
    actor: Actor
    workspace_id: str
    # For transactions on the job's behalf: `storage.jobs.hold(tx, lease)` must come first.
    lease: JobLease
    # Private, the same for each run of this job on this machine. Removed when the job is done, refused or cancelled.
    folder: Path

    def progress(self, **fields: Any) -> None:
        """Report progress: phase, step, steps, tokens_per_second, loss, held_out_loss, seconds_left ... Cheap."""
        ...

    def point(self, series: str, step: int, value: float) -> None:
        """Add a point to a curve, in place of an earlier point of the same step. Cheap."""
        ...

    def flush(self) -> None:
        """Wait until every point so far is written. Call it before a checkpoint, or a SIGKILL leaves gaps in curves."""
        ...

    def check(self) -> None:
        """Raise `Paused`, `Cancelled` or `Interrupted` if the job has to stop. Cheap."""
        ...

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the worker's event loop, such as `services.database.read(...)`, and wait for it."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """Shared resources for tasks. `threads` is the number of threads that a task should compute with."""

    settings: Settings
    database: Database
    threads: int


Task: TypeAlias = Callable[[JobContext, Services], Mapping[str, Any]]


def explain(error: BaseException) -> str:
    """Return one line for people: why their job failed, and what to do. The log has the details."""
    if isinstance(error, MynaError):
        text = error.message
    elif _is_out_of_room(error):
        text = f"The disk is full, or its quota is used up. Make room in the folder of MYNA_DATA; {_RESUME}"
    elif _is_out_of_memory(error):
        text = (
            "The memory ran out. End other programs, lower MYNA_CACHE_MB, or train a smaller model or fewer rows; "
            + _RESUME
        )
    elif isinstance(error, FloatingPointError):
        text = (
            f"The training diverged ({_first_line(error) or 'the loss is not a number'}). "
            "Train again with a lower learning rate, and check the data for rows that make no sense."
        )
    elif isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        text = f"A file could not be used: {where}{error.strerror or error}. Fix that; {_RESUME}"
    else:
        text = f"It failed with {type(error).__name__}: {_first_line(error)}. The log of the worker has the details."
    return storable(text)[:MAX_CHARS]


def _is_out_of_room(error: BaseException) -> bool:
    # safetensors and shutil give the number in the message only.
    named = any(f"os error {number}" in str(error) or f"Errno {number}]" in str(error) for number in _NO_ROOM)
    return named or (isinstance(error, OSError) and error.errno in _NO_ROOM)


def _is_out_of_memory(error: BaseException) -> bool:
    # Without importing torch: its error for a GPU has this class name, and for the CPU it is a RuntimeError.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")
