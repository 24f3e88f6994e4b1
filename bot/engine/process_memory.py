"""Memory that is freed goes back to the machine.

Knows: the two calls of the GNU C library for that. Does not know: who allocates. Without them, growing and shrinking
caches leave several hundred megabytes in the allocator's hands (benchmarks/LOG.md). Elsewhere nothing is done.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools

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


@functools.cache
def _libc() -> ctypes.CDLL | None:
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        if libc.mallopt and libc.malloc_trim:
            return libc
    return None
