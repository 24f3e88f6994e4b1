"""All kinds of jobs that this Myna can do.

Knows: which task does which kind. Does not know: how. Nothing heavy is loaded before a task begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bot.jobs.job_context import JobContext, Services, Task


def all_tasks() -> dict[str, Task]:
    """Tasks by the kind of job."""
    return {"train": _train, "evaluate": _evaluate, "sync": _sync}


def _sync(context: JobContext, services: Services) -> Mapping[str, Any]:
    from bot.knowledge.reading.sync_job import sync

    return sync(context, services)


def _train(context: JobContext, services: Services) -> Mapping[str, Any]:
    from bot.learning.train.train_job import train

    return train(context, services)


def _evaluate(context: JobContext, services: Services) -> Mapping[str, Any]:
    from bot.learning.train.train_job import evaluate

    return evaluate(context, services)
