"""Training takes what the chat leaves: a low priority, and as many threads as that allows.

Knows: the system's calls for that. Does not know: what runs. Where the system refuses, the work runs as any other.
"""

from __future__ import annotations

import contextlib
import os

from bot.settings import Settings

LOWEST = 19


def lower_process() -> None:
    """The whole process goes after others. Its heartbeats still come: it gets a small share at any time."""
    with contextlib.suppress(OSError, AttributeError):
        os.nice(LOWEST)


def run_when_idle() -> None:
    """This thread, and those it starts, get the processor and the disk only while nobody else wants them (Linux).

    The kernel derives the class of disk access from this one, so that `ionice` would add nothing.
    """
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def training_threads(settings: Settings) -> int:
    """How many threads a task computes with: as set; else one for each core that the chat's model is not set to use.

    A chat that is set to use all cores shares them: its threads go first.
    """
    if settings.training_threads:
        return settings.training_threads
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    left = cores - settings.threads
    return left if left >= 1 else cores


def limit_threads(threads: int) -> None:
    """Before a numerical library is loaded: its pools of threads shall not be larger."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
