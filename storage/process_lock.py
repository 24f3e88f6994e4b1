"""One process a SQLite database: its write-ahead log and our leases both rely on it.

Knows: the lock file beside the database. Does not know: what the process does. The system frees the lock when the
process dies, however it dies.
"""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock, Timeout


class ProcessLock:
    """Held from `acquire` to `release`. The file names the holder, for the message to whoever comes second."""

    def __init__(self, database: Path) -> None:
        self._pid_file = database.with_suffix(".pid")
        self._lock = FileLock(database.with_suffix(".lock"), blocking=False)

    def acquire(self) -> bool:
        """True if this process is now the only one; False if another holds the database."""
        try:
            self._lock.acquire()
        except Timeout:
            return False
        self._pid_file.write_text(str(os.getpid()))
        return True

    def holder(self) -> str:
        """The process id of the holder, as far as is known."""
        try:
            return self._pid_file.read_text().strip()
        except OSError:
            return "unknown"

    def release(self) -> None:
        self._lock.release()
