"""Open SQLite and PostgreSQL with the settings that a chat needs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from filelock import FileLock, Timeout
from sqlalchemy import event

LOCK_TIMEOUT_MS = 2_000


def postgresql_engine(url: sa.URL, *, read_only: bool = False) -> sa.Engine:
    """Return a PostgreSQL engine whose timeouts are short enough for a chat."""
    options = (
        f"-c lock_timeout={LOCK_TIMEOUT_MS} -c idle_in_transaction_session_timeout=5000 -c statement_timeout=30000"
    )
    # A read is one or two statements; autocommit saves the round trips of BEGIN and COMMIT.
    reading = {"isolation_level": "AUTOCOMMIT", "pool_reset_on_return": None} if read_only else {}
    return sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_size=5,
        max_overflow=0,
        hide_parameters=True,  # they hold people's messages, and errors are logged
        connect_args={
            "options": options + (" -c default_transaction_read_only=on" if read_only else ""),
            "connect_timeout": 5,
            "tcp_user_timeout": 10_000,
        },
        **reading,
    )


def sqlite_engine(url: sa.URL, *, read_only: bool = False, guest: bool = False) -> sa.Engine:
    """Return a SQLite engine that begins every transaction explicitly (pysqlite would begin late).

    `read_only` connections can neither write nor checkpoint; those of a `guest` don't checkpoint. Raise `ValueError` if
    the URL names no file.
    """
    if url.database in (None, "", ":memory:"):
        raise ValueError("SQLite needs a file: sqlite:////path/to/myna.db")
    engine = sa.create_engine(
        url.set(drivername="sqlite+pysqlite"),
        poolclass=sa.pool.QueuePool,
        pool_size=2 if read_only else 1,
        max_overflow=0,
        hide_parameters=True,
        connect_args={"check_same_thread": False, "timeout": LOCK_TIMEOUT_MS / 1000},
    )
    # With `secure_delete`, deleted rows are overwritten and not just marked as free.
    pragmas = [
        "secure_delete=ON",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "mmap_size=0",
        "wal_autocheckpoint=1000",
    ]
    if guest:
        pragmas[-1] = "wal_autocheckpoint=0"
    if read_only:
        pragmas = ["query_only=ON", "mmap_size=0", "wal_autocheckpoint=0"]

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        # pysqlite's own transaction control would begin late and upgrade a read lock, which fails under WAL.
        connection.isolation_level = None
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def sqlite_file(url: str) -> Path | None:
    """Return the file of a SQLite database; None for PostgreSQL."""
    parsed = sa.make_url(url)
    return Path(parsed.database or "").absolute() if parsed.get_backend_name() == "sqlite" else None


def restrict_file(path: Path) -> None:
    """Make the database file and its folder readable by their owner only, as conversations are private."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def sqlite_is_unsafe(url: str) -> str | None:
    """Return a warning if the SQLite library has the WAL-reset bug (https://sqlite.org/wal.html), else None.

    With that bug a database can be corrupted when several connections write to it.
    """
    import sqlite3

    if not url.startswith("sqlite") or sqlite3.sqlite_version_info >= (3, 51, 3):
        return None
    return (
        f"SQLite {sqlite3.sqlite_version} has the WAL-reset bug (fixed in 3.51.3). Myna avoids it by writing through "
        "one connection; do not write to its database with other programs while it runs."
    )


class ProcessLock:
    """Lock a SQLite database for one process, as its write-ahead log and the leases require.

    Held from `acquire` to `release`; the operating system frees the lock when the process dies, however it dies. A file
    beside the database names the holder, for the error message of a second process.
    """

    def __init__(self, database: Path) -> None:
        self._pid_file = database.with_suffix(".pid")
        self._lock = FileLock(database.with_suffix(".lock"), blocking=False)

    def acquire(self) -> bool:
        """Take the lock; False if another process holds the database."""
        try:
            self._lock.acquire()
        except Timeout:
            return False
        self._pid_file.write_text(str(os.getpid()))
        return True

    def holder(self) -> str:
        """Return the process id of the holder, or `unknown`."""
        try:
            return self._pid_file.read_text().strip()
        except OSError:
            return "unknown"

    def release(self) -> None:
        self._lock.release()
