"""What a failed job tells people: what happened, and what to do.

Knows: the usual ways to fail, by type and number. Does not know: jobs. Details go to the log.
"""

from __future__ import annotations

import errno

from bot.errors import MynaError
from storage.values import storable

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_RESUME = "the job can then be resumed from its last checkpoint."
MAX_CHARS = 500


def explain(error: BaseException) -> str:
    """One line for the person whose job has failed."""
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
            f"The training diverged ({_first_line(error) or 'the loss is no number'}). "
            "Train again with a lower learning rate, and look at the data for rows that make no sense."
        )
    elif isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        text = f"A file could not be used: {where}{error.strerror or error}. Put that right; {_RESUME}"
    else:
        text = f"It failed with {type(error).__name__}: {_first_line(error)}. The log of the worker has the details."
    return storable(text)[:MAX_CHARS]


def _is_out_of_room(error: BaseException) -> bool:
    # safetensors and shutil only tell it in words.
    told = any(f"os error {number}" in str(error) or f"Errno {number}]" in str(error) for number in _NO_ROOM)
    return told or (isinstance(error, OSError) and error.errno in _NO_ROOM)


def _is_out_of_memory(error: BaseException) -> bool:
    # torch is not loaded here: its error for a GPU has this name, and for the processor it is a RuntimeError.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")
