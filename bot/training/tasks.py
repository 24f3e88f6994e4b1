"""All kinds of jobs that this Myna can do.

Knows: which task does which kind. Does not know: how. Nothing heavy is loaded before a task begins.
"""

from __future__ import annotations

from bot.training.job_context import Task


def all_tasks() -> dict[str, Task]:
    """Tasks by the kind of job."""
    return {}
