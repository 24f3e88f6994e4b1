"""Process memory: return freed memory to the system, tame the collector.

Without this, growing and shrinking caches leave several hundred megabytes with the allocator, and Python's cycle
collector stops everything for up to a quarter of a second (benchmarks/LOG.md). The allocator part needs the GNU C
library (`mallopt`, `malloc_trim`) and does nothing without it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc

M_MMAP_THRESHOLD = -3
LARGE_BYTES = 2 * 2**20


def return_large_blocks() -> None:
    """Have blocks of 2 MB and more returned to the system as soon as they are freed, from now on."""
    if (libc := _libc()) is not None:
        libc.mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)


def return_free_memory() -> None:
    """Return all free memory to the system now, which takes some milliseconds."""
    if (libc := _libc()) is not None:
        libc.malloc_trim(0)


def keep_what_is_loaded() -> None:
    """Exempt all present objects, such as modules and models, from garbage collection."""
    gc.collect()
    gc.freeze()


def collect_all() -> None:
    """Collect garbage among all objects, exempt ones too, which takes up to a second."""
    gc.unfreeze()
    gc.collect()


@functools.cache
def _libc() -> ctypes.CDLL | None:
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        if libc.mallopt and libc.malloc_trim:
            return libc
    return None
