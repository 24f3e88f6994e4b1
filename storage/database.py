"""Run units of work off the event loop, with group commit.

A unit of work is a plain function `unit(tx, ...) -> value` in one transaction. It runs in a thread, on SQLAlchemy's
ordinary engine. The asynchronous engine was measured and dropped: 0.7 ms a statement on SQLite (each takes several hops
to a thread and back) against 0.04 ms here, and a third of the replies a second on PostgreSQL. With one writer thread,
units that wait together share a single fsync (group commit). A unit may run again after a failure, so it must change
nothing but the database.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc

from storage.engines import postgresql_engine, sqlite_engine
from storage.schema import workspace
from storage.transaction import PostponedInserts, Rollback, Transaction, across_workspaces, is_urgent

P = ParamSpec("P")
T = TypeVar("T")

# Enough to share the cost of a commit, and few enough that an urgent unit does not wait long.
MAX_UNITS_PER_COMMIT = 16
_URGENT, _IN_ORDER, _END = range(3)
MAX_REFUSED = 4
# Every other process that adds to the audit log at the same moment may cost one try.
MAX_TRIES = 8

Unit = Callable[Concatenate[Transaction, P], T]


class StorageUnavailable(Exception):
    """The database can't be reached, is locked by another program, or has no space left."""


class Database:
    """The agent's database. `write` and `read` run one unit of work each, in one transaction each, off the event loop.

    A `guest` writes little beside a running agent, and leaves checkpoints of the SQLite file to the agent.
    """

    def __init__(self, url: str, *, read_only: bool = False, guest: bool = False) -> None:
        self.url = sa.make_url(url)
        self.many_processes = self.url.get_backend_name() == "postgresql"
        make = postgresql_engine if self.many_processes else functools.partial(sqlite_engine, guest=guest)
        if not self.many_processes and read_only and not Path(self.url.database or "").exists():
            raise StorageUnavailable(f"there is no database at {self.url.database} yet")
        self._reading_engine = make(self.url, read_only=True)
        self._readers = ThreadPoolExecutor(4 if self.many_processes else 2, thread_name_prefix="database-reader")
        self._writer = None if read_only else _Writer(make(self.url), alone=not self.many_processes)

    async def write(self, unit: Unit[P, T], workspace_id: str | None, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `unit(tx, *args)` and commit. The unit runs even if the caller is cancelled while waiting.

        Raise `StorageUnavailable` on an outage, and the unit's own errors.
        """
        if self._writer is None:
            raise RuntimeError("this database was opened for reading")
        return await self._writer.submit(
            lambda connection, postponed: unit(Transaction(connection, workspace_id, postponed), *args, **kwargs),
            is_urgent=is_urgent(unit),
        )

    async def read(self, unit: Unit[P, T], workspace_id: str | None, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `unit(tx, *args)` on a connection that can't write."""
        return await asyncio.get_running_loop().run_in_executor(
            self._readers, self._read, lambda connection: unit(Transaction(connection, workspace_id), *args, **kwargs)
        )

    def _read(self, unit: Callable[[sa.Connection], T], *, again: bool = True) -> T:
        try:
            with self._reading_engine.begin() as connection:
                return unit(connection)
        except exc.DBAPIError as error:
            if again and error.connection_invalidated:
                return self._read(unit, again=False)
            raise _translate(error) from error

    async def answers(self) -> bool:
        """Return True if a query comes back (for the readiness check)."""
        try:
            return await self.read(_find_workspace, None)
        except StorageUnavailable:
            return False

    async def close(self) -> None:
        """Finish what was submitted. Closing twice is the same as once."""
        if self._writer is not None:
            await asyncio.to_thread(self._writer.close)
        await asyncio.to_thread(self._readers.shutdown)
        self._reading_engine.dispose()


_ANY_WORKSPACE = across_workspaces(sa.select(workspace.c.id).limit(1))


def _find_workspace(tx: Transaction) -> bool:
    return tx.execute(_ANY_WORKSPACE).first() is not None


def _translate(error: exc.DBAPIError) -> Exception:
    """Turn an outage into `StorageUnavailable`; return errors in a query as they are."""
    if isinstance(error, exc.OperationalError | exc.InterfaceError | exc.InternalError):
        return StorageUnavailable(str(error.orig))
    return error


def _is_passing(error: BaseException) -> bool:
    """Return True for errors worth a retry.

    These are an idle connection that the server closed, a serialization failure, a deadlock, and a race with another
    insert or with the deletion of a referenced row.
    """
    if not isinstance(error, exc.DBAPIError):
        return False
    return error.connection_invalidated or getattr(error.orig, "sqlstate", None) in {"40001", "40P01", "23503", "23505"}


_BoundUnit = Callable[[sa.Connection, PostponedInserts], T]


@dataclass(slots=True)
class _Job:
    unit: _BoundUnit[Any]
    future: asyncio.Future[Any]
    value: Any = None
    error: BaseException | None = None


class _Refused(Exception):
    """A unit raised an error of its own; the database works."""

    def __init__(self, job: _Job) -> None:
        super().__init__("a unit of work refused")
        self.job = job


class _Writer:
    """One thread that commits all waiting units in one transaction.

    If a unit raises, it runs again alone and the others again together. If the database fails, the batch is rolled back
    and each unit runs alone: on SQLite (`alone`) in this thread, which has the only connection that writes and
    checkpoints; on PostgreSQL in other threads, so that a lock held elsewhere delays only one unit.
    """

    def __init__(self, engine: sa.Engine, *, alone: bool) -> None:
        self._engine = engine
        self._singles = None if alone else ThreadPoolExecutor(4, thread_name_prefix="database-single")
        # Urgent units first, then the others in their order, then None, which ends the thread.
        self._jobs: queue.PriorityQueue[tuple[int, int, _Job | None]] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._closed = False
        self._closing = threading.Lock()  # no unit may be queued behind the end
        self._thread = threading.Thread(target=self._work, name="database-writer", daemon=True)
        self._thread.start()

    async def submit(self, unit: _BoundUnit[T], *, is_urgent: bool = False) -> T:
        job = _Job(unit, asyncio.get_running_loop().create_future())
        with self._closing:
            if self._closed:
                raise StorageUnavailable("the database is closed")
            self._put(_URGENT if is_urgent else _IN_ORDER, job)
        value: T = await job.future
        return value

    def close(self) -> None:
        with self._closing:
            if not self._closed:
                self._closed = True
                self._put(_END, None)
        self._thread.join()
        if self._singles is not None:
            self._singles.shutdown()
        self._engine.dispose()

    def _put(self, priority: int, job: _Job | None) -> None:
        self._jobs.put((priority, next(self._numbers), job))

    def _work(self) -> None:
        while (job := self._jobs.get()[2]) is not None:
            batch = [job]
            while len(batch) < MAX_UNITS_PER_COMMIT and not self._jobs.empty():
                following = self._jobs.get()[2]
                if following is None:
                    self._put(_END, None)
                    break
                batch.append(following)
            self._commit(batch)

    def _commit(self, batch: list[_Job]) -> None:
        refused: list[_Job] = []
        while batch and len(refused) < MAX_REFUSED:
            try:
                self._carry_out(batch)
            except _Refused as error:
                batch.remove(error.job)
                refused.append(error.job)
            except BaseException:
                break
            else:
                _resolve(batch)
                batch = []
        for job in [*batch, *refused]:
            if self._singles is None:
                self._commit_single(job)
            else:
                self._singles.submit(self._commit_single, job)

    def _carry_out(self, jobs: list[_Job]) -> None:
        with self._engine.begin() as connection:
            postponed = PostponedInserts(connection)
            for job in jobs:
                try:
                    job.value = job.unit(connection, postponed)
                except exc.DBAPIError:
                    raise
                except Exception as error:
                    raise _Refused(job) from error
            postponed.send()

    def _commit_single(self, job: _Job, tries: int = MAX_TRIES) -> None:
        try:
            self._carry_out([job])
        except _Refused as refusal:
            if isinstance(refusal.__cause__, Rollback):
                job.value = refusal.__cause__.value
            else:
                job.error = refusal.__cause__
        except BaseException as error:
            if tries > 1 and _is_passing(error):
                return self._commit_single(job, tries - 1)
            job.error = _translate(error) if isinstance(error, exc.DBAPIError) else error
        return _resolve([job])


def _resolve(batch: list[_Job]) -> None:
    """Hand the results to the callers' event loops, with one wake-up a loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
    for job in batch:
        by_loop.setdefault(job.future.get_loop(), []).append(job)
    for loop, jobs in by_loop.items():
        with contextlib.suppress(RuntimeError):  # that loop has ended: nobody waits for these results
            loop.call_soon_threadsafe(_set_results, jobs)


def _set_results(jobs: list[_Job]) -> None:
    for job in jobs:
        if job.future.done():
            continue
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.value)
