"""Memory that is freed goes back to the machine, and what stays is not looked through again and again.

Knows: the two calls of the GNU C library for that, and Python's collector of circles. Does not know: who allocates.
Without them, growing and shrinking caches leave several hundred megabytes in the allocator's hands, and the collector
holds everything up for up to a quarter of a second (benchmarks/LOG.md). Where there is no GNU C library, that part is
left out.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc

M_MMAP_THRESHOLD = -3
LARGE_BYTES = 2 * 2**20


def return_large_blocks() -> None:
    """From now on, blocks of 2 MB and more are given back as soon as they are freed."""
    if (libc := _libc()) is not None:
        libc.mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)


def return_free_memory() -> None:
    """Give back what is free now. Takes some milliseconds."""
    if (libc := _libc()) is not None:
        libc.malloc_trim(0)


def keep_what_is_loaded() -> None:
    """Let the collector pass over all that there is now: modules and models, which stay."""
    gc.collect()
    gc.freeze()


def collect_all() -> None:
    """Free circles, also among what was to be kept. Takes up to a second."""
    gc.unfreeze()
    gc.collect()


@functools.cache
def _libc() -> ctypes.CDLL | None:
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        if libc.mallopt and libc.malloc_trim:
            return libc
    return None
