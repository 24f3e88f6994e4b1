"""Registry of job kinds and their tasks, and the clean-up of a starting worker.

A task's modules are imported when it begins: torch takes seconds to load.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bot.jobs.contract import JobContext, Services, Task
from bot.jobs.job_files import remove_ended_jobs
from storage.database import Database
from storage.schema import DEFAULT_WORKSPACE
from storage.scope import Scope


def all_tasks() -> dict[str, Task]:
    """Return the task of each job kind."""
    return {"train": _train, "evaluate": _evaluate, "sync": _sync}


async def clean_up(database: Database, data: Path) -> None:
    """Remove the folders of ended jobs, and the versions and files that hold data of erased people.

    An erasure leaves alone the files that a worker holds at that moment; the next worker removes them here.
    """
    from bot.privacy.erasure.erase_files import remove_erased

    await remove_ended_jobs(database, data)
    await remove_erased(Scope(database, DEFAULT_WORKSPACE), data)


def _sync(context: JobContext, services: Services) -> Mapping[str, Any]:
    from bot.knowledge.reading.sync_job import sync

    return sync(context, services)


def _train(context: JobContext, services: Services) -> Mapping[str, Any]:
    from bot.learning.train.train_job import train

    return train(context, services)


def _evaluate(context: JobContext, services: Services) -> Mapping[str, Any]:
    from bot.learning.train.train_job import evaluate

    return evaluate(context, services)
