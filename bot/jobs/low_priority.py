"""Low CPU priority for training: nice, SCHED_IDLE, number of threads.

Where the system refuses a low priority, the work runs at the normal priority.
"""

from __future__ import annotations

import contextlib
import os

from bot.settings import Settings

LOWEST = 19


def lower_process() -> None:
    """Give the whole process the lowest priority. It still gets a small share, enough for its heartbeats."""
    with contextlib.suppress(OSError, AttributeError):
        os.nice(LOWEST)


def run_when_idle() -> None:
    """Give this thread, and the threads it starts, CPU and disk only while no other process needs them (Linux).

    The kernel derives the I/O class from SCHED_IDLE, so `ionice` would add nothing.
    """
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def training_threads(settings: Settings) -> int:
    """Return the number of threads for a task: the setting, or else the cores that the chat's model does not use.

    A chat set to use all cores shares them: its threads have the higher priority.
    """
    if settings.training_threads:
        return settings.training_threads
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    left = cores - settings.threads
    return left if left >= 1 else cores


def limit_threads(threads: int) -> None:
    """Limit the thread pools of numerical libraries. Call it before one of them is imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
