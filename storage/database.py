"""Connections, transactions and the one door through which every query goes.

Knows: SQLite and PostgreSQL, how a unit of work runs on each, and that a statement must say whose rows it touches.
Does not know: any table's meaning.

A unit of work is a plain function `unit(tx, ...) -> value` that runs in a thread, on SQLAlchemy's ordinary engine. The
asynchronous one was measured and left: 0.7 ms a statement on SQLite (each takes several hops to a thread and back)
against 0.04 ms here, and a third of the replies a second on PostgreSQL. One writer thread also lets units that wait
together share a single fsync. A unit may run again after a failure, so it must change nothing but the database.
"""

from __future__ import annotations

import asyncio
import contextlib
import operator
import os
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import visitors
from sqlalchemy.sql.functions import FunctionElement

P = ParamSpec("P")
T = TypeVar("T")

MAX_UNITS_PER_COMMIT = 128
LOCK_TIMEOUT_MS = 2_000


class StorageUnavailable(Exception):
    """The database can't be reached, is locked by somebody else, or has no room."""


class Rollback(Exception):
    """Raised by a unit of work to undo its transaction and return `value` all the same."""

    def __init__(self, value: object) -> None:
        super().__init__("rolled back on purpose")
        self.value = value


def new_id() -> str:
    """A UUIDv7 (RFC 9562) in hex: 48 bits of milliseconds, then random bits, so that ids sort by age."""
    random = secrets.randbits(74)
    value = (time.time_ns() // 1_000_000) << 80 | 0x7 << 76 | (random >> 62) << 64 | 0b10 << 62 | random & (1 << 62) - 1
    return f"{value:032x}"


class now_ms(FunctionElement[int]):
    """The database's clock in milliseconds since 1970."""

    type = sa.BigInteger()
    inherit_cache = True


@compiles(now_ms, "sqlite")
def _now_ms_sqlite(*_: Any, **__: Any) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000.0 AS INTEGER)"


@compiles(now_ms, "postgresql")
def _now_ms_postgresql(*_: Any, **__: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"


@dataclass(frozen=True, slots=True)
class Statement:
    """A prepared statement that is known to stay within one workspace, or is openly meant to cross all of them."""

    by_dialect: Mapping[str, sa.Executable]
    workspace_parameter: str | None


InsertBuilder = Callable[[Any], sa.Executable]


def scoped(clause: sa.Executable | InsertBuilder) -> Statement:
    """Confine a statement to the transaction's workspace. This is the only place where that is done.

    Reads, updates and deletes get a criterion on every table; inserts get the column's value. A function is called with
    each dialect's `insert`, for ON CONFLICT. Whatever could touch a table that is not confined from here is refused:
    nested selects, SQL as text, updates and deletes that look at a second table.
    """
    if isinstance(clause, sa.Insert) or not isinstance(clause, sa.Executable):
        by_dialect = _same_for_all(clause) if isinstance(clause, sa.Insert) else _build_for_dialects(clause)
        for insert in by_dialect.values():
            _refuse_hidden_tables(insert)
        return Statement(by_dialect, "workspace_id")
    if not isinstance(clause, sa.Select | sa.Update | sa.Delete):
        raise TypeError(f"{type(clause).__name__} can't be confined to a workspace")
    _refuse_hidden_tables(clause)
    for table in _tables_of(clause):
        clause = clause.where(table.c.workspace_id == sa.bindparam("in_workspace", type_=sa.Text))
    return Statement(_same_for_all(clause), "in_workspace")


def across_workspaces(clause: sa.Executable | InsertBuilder) -> Statement:
    """A statement of the installation itself (claiming work, health). A test lists every use."""
    by_dialect = _same_for_all(clause) if isinstance(clause, sa.Executable) else _build_for_dialects(clause)
    return Statement(by_dialect, None)


def _build_for_dialects(build: InsertBuilder) -> dict[str, sa.Executable]:
    return {"sqlite": build(sqlite.insert), "postgresql": build(postgresql.insert)}


def _same_for_all(clause: sa.Executable) -> dict[str, sa.Executable]:
    return {"sqlite": clause, "postgresql": clause}


def _refuse_hidden_tables(clause: Any) -> None:
    only = clause.table if isinstance(clause, sa.Update | sa.Delete) else None
    for element in visitors.iterate(clause):
        if isinstance(element, sa.SelectBase) and element is not clause:
            raise TypeError("write nested selects as two statements, or as a join")
        if isinstance(element, sa.TextClause):
            raise TypeError("SQL as text can't be confined to a workspace")
        if only is not None and isinstance(element, sa.Column) and element.table is not only:
            raise TypeError("write an update or delete that looks at a second table as two statements")


def _tables_of(clause: sa.Select[Any] | sa.Update | sa.Delete) -> Iterable[sa.FromClause]:
    waiting: list[sa.FromClause] = list(clause.get_final_froms()) if isinstance(clause, sa.Select) else [clause.table]
    while waiting:
        source = waiting.pop()
        if isinstance(source, sa.Join):
            waiting += [source.left] if _is_confined_outer_join(source) else [source.left, source.right]
        elif isinstance(source, sa.Table | sa.Alias):
            yield source
        else:
            raise TypeError(f"{type(source).__name__} can't be confined to a workspace")


def _is_confined_outer_join(join: sa.Join) -> bool:
    """An outer join is confined in its ON clause; a criterion in WHERE would drop the rows that have no partner."""
    if not join.isouter:
        return False
    on = join.onclause
    conditions: list[Any] = [on]
    if isinstance(on, sa.BooleanClauseList) and on.operator is operator.and_:
        conditions = list(on.clauses)
    if not any(_compares_workspaces(one, join.right.c.get("workspace_id")) for one in conditions):
        raise TypeError("an outer join must compare both sides' workspace_id")
    return True


def _compares_workspaces(condition: Any, right: Any) -> bool:
    if not isinstance(condition, sa.BinaryExpression) or condition.operator is not operator.eq:
        return False
    sides = [condition.left, condition.right]
    return any(side is right for side in sides) and all(getattr(side, "name", "") == "workspace_id" for side in sides)


@dataclass(frozen=True, slots=True)
class Transaction:
    """An open transaction, bound to a workspace (or to none, for the installation's own statements)."""

    connection: sa.Connection
    workspace_id: str | None

    def execute(self, statement: Statement, **parameters: Any) -> sa.CursorResult[Any]:
        """Run one statement; `parameters` fill its bind parameters and an insert's columns."""
        if statement.workspace_parameter is not None:
            if self.workspace_id is None:
                raise RuntimeError("a statement confined to a workspace needs a transaction that has one")
            parameters[statement.workspace_parameter] = self.workspace_id
        return self.connection.execute(statement.by_dialect[self.connection.dialect.name], parameters)


Unit = Callable[Concatenate[Transaction, P], T]


class Database:
    """The agent's memory. `write` and `read` run one unit of work each, in one transaction each, off the event loop."""

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        self.url = sa.make_url(url)
        self.many_processes = self.url.get_backend_name() == "postgresql"
        make = postgresql_engine if self.many_processes else sqlite_engine
        if not self.many_processes and read_only and not Path(self.url.database or "").exists():
            raise StorageUnavailable(f"there is no database at {self.url.database} yet")
        self._reading_engine = make(self.url, read_only=True)
        self._readers = ThreadPoolExecutor(4 if self.many_processes else 2, thread_name_prefix="database-reader")
        self._writer = None if read_only else _Writer(make(self.url), alone=not self.many_processes)

    async def write(self, unit: Unit[P, T], workspace_id: str | None, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `unit(tx, *args)` and commit. It is carried out even if the caller is cancelled while it waits."""
        if self._writer is None:
            raise RuntimeError("this database was opened for reading")
        return await self._writer.submit(_bind(unit, workspace_id, *args, **kwargs))

    async def read(self, unit: Unit[P, T], workspace_id: str | None, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `unit(tx, *args)` on a connection that can't write."""
        bound = _bind(unit, workspace_id, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, bound)

    def _read(self, unit: Callable[[sa.Connection], T], *, again: bool = True) -> T:
        try:
            with self._reading_engine.begin() as connection:
                return unit(connection)
        except exc.DBAPIError as error:
            if again and error.connection_invalidated:
                return self._read(unit, again=False)
            raise _translate(error) from error

    async def close(self) -> None:
        """Finish what was submitted. Doing it twice is the same as once."""
        if self._writer is not None:
            await asyncio.to_thread(self._writer.close)
        await asyncio.to_thread(self._readers.shutdown)
        self._reading_engine.dispose()


def _bind(
    unit: Unit[P, T], workspace_id: str | None, *args: P.args, **kwargs: P.kwargs
) -> Callable[[sa.Connection], T]:
    return lambda connection: unit(Transaction(connection, workspace_id), *args, **kwargs)


def _translate(error: exc.DBAPIError) -> Exception:
    """Tell outages, which pass, from mistakes in a query, which don't."""
    if isinstance(error, exc.OperationalError | exc.InterfaceError | exc.InternalError):
        return StorageUnavailable(str(error.orig))
    return error


def _is_passing(error: BaseException) -> bool:
    """A connection that the server closed while it lay idle, a deadlock, or a race between two inserts."""
    if not isinstance(error, exc.DBAPIError):
        return False
    return error.connection_invalidated or getattr(error.orig, "sqlstate", None) in {"40001", "40P01", "23505"}


@dataclass(slots=True)
class _Job:
    unit: Callable[[sa.Connection], Any]
    future: asyncio.Future[Any]
    value: Any = None
    error: BaseException | None = None


class _Writer:
    """One thread that commits all units that wait together in one transaction.

    If one of them fails, none has happened, and each runs again alone: on SQLite (`alone`) in this thread, which has
    the only connection that writes and checkpoints; on PostgreSQL beside it, so that a lock held elsewhere delays one.
    """

    def __init__(self, engine: sa.Engine, *, alone: bool) -> None:
        self._engine = engine
        self._singles = None if alone else ThreadPoolExecutor(4, thread_name_prefix="database-single")
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="database-writer", daemon=True)
        self._thread.start()

    async def submit(self, unit: Callable[[sa.Connection], T]) -> T:
        if self._closed:
            raise StorageUnavailable("the database is closed")
        job = _Job(unit, asyncio.get_running_loop().create_future())
        self._jobs.put(job)
        value: T = await job.future
        return value

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
        self._thread.join()
        if self._singles is not None:
            self._singles.shutdown()
        self._engine.dispose()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            batch = [job]
            while len(batch) < MAX_UNITS_PER_COMMIT and not self._jobs.empty():
                following = self._jobs.get()
                if following is None:
                    self._jobs.put(None)
                    break
                batch.append(following)
            self._commit(batch)

    def _commit(self, batch: list[_Job]) -> None:
        try:
            with self._engine.begin() as connection:
                for job in batch:
                    job.value = job.unit(connection)
        except BaseException:
            for job in batch:
                if self._singles is None:
                    self._commit_single(job)
                else:
                    self._singles.submit(self._commit_single, job)
        else:
            _resolve(batch)

    def _commit_single(self, job: _Job, tries: int = 3) -> None:
        try:
            with self._engine.begin() as connection:
                job.value = job.unit(connection)
        except Rollback as rollback:
            job.value = rollback.value
        except BaseException as error:
            if tries > 1 and _is_passing(error):
                return self._commit_single(job, tries - 1)
            job.error = _translate(error) if isinstance(error, exc.DBAPIError) else error
        return _resolve([job])


def _resolve(batch: list[_Job]) -> None:
    """Hand the results to the callers' loops, with one wake-up a loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
    for job in batch:
        by_loop.setdefault(job.future.get_loop(), []).append(job)
    for loop, jobs in by_loop.items():
        with contextlib.suppress(RuntimeError):  # that loop has ended, and nobody waits there any more
            loop.call_soon_threadsafe(_set_results, jobs)


def _set_results(jobs: list[_Job]) -> None:
    for job in jobs:
        if job.future.done():
            continue
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.value)


def postgresql_engine(url: sa.URL, *, read_only: bool = False) -> sa.Engine:
    """A PostgreSQL engine that waits for nothing longer than a chat can."""
    options = (
        f"-c lock_timeout={LOCK_TIMEOUT_MS} -c idle_in_transaction_session_timeout=5000 -c statement_timeout=30000"
    )
    # A read is one or two statements; without BEGIN and COMMIT around them it saves two round trips.
    reading = {"isolation_level": "AUTOCOMMIT", "pool_reset_on_return": None} if read_only else {}
    return sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_size=5,
        max_overflow=0,
        connect_args={
            "options": options + (" -c default_transaction_read_only=on" if read_only else ""),
            "connect_timeout": 5,
            "tcp_user_timeout": 10_000,
        },
        **reading,
    )


def sqlite_engine(url: sa.URL, *, read_only: bool = False) -> sa.Engine:
    """A SQLite engine whose transactions are real ones; `read_only` connections can neither write nor checkpoint."""
    if url.database in (None, "", ":memory:"):
        raise ValueError("SQLite needs a file: sqlite:////path/to/myna.db")
    engine = sa.create_engine(
        url.set(drivername="sqlite+pysqlite"),
        poolclass=sa.pool.QueuePool,
        pool_size=2 if read_only else 1,
        max_overflow=0,
        connect_args={"check_same_thread": False, "timeout": LOCK_TIMEOUT_MS / 1000},
    )
    pragmas = ["journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "mmap_size=0", "wal_autocheckpoint=1000"]
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
    """The file of a SQLite database, None for PostgreSQL."""
    parsed = sa.make_url(url)
    return Path(parsed.database or "").absolute() if parsed.get_backend_name() == "sqlite" else None


def restrict_file(path: Path) -> None:
    """Conversations are private: make the database file and its folder readable by their owner only."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def sqlite_is_unsafe(url: str) -> str | None:
    """A warning if the SQLite library can corrupt a database that several connections write (sqlite.org/wal.html)."""
    import sqlite3

    if not url.startswith("sqlite") or sqlite3.sqlite_version_info >= (3, 51, 3):
        return None
    return (
        f"SQLite {sqlite3.sqlite_version} has the WAL-reset bug (fixed in 3.51.3). Myna avoids it by writing through "
        "one connection; do not write to its database with other programs while it runs."
    )
