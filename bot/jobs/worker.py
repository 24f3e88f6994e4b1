"""Worker: claims jobs, runs tasks in a thread, renews the lease meanwhile.

A task whose lease is lost is told to stop. The lease's epoch is a fencing token: nothing more is written for that run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from bot.errors import MynaError
from bot.jobs.contract import Cancelled, Interrupted, JobRefused, Paused, Services, Stopped, Task, explain
from bot.jobs.job_files import job_folder, lock_file, remove_ended_jobs
from bot.jobs.running_job import RunningJob
from bot.settings import Settings
from storage import jobs
from storage.database import Database, StorageUnavailable
from storage.jobs import JobLease, LeaseLost
from storage.values import new_id, storable

log = logging.getLogger("myna.worker")

CleanUp = Callable[[Database, Path], Awaitable[object]]

LEASE_SECONDS = 30.0
HEARTBEAT_SECONDS = 2.0
LOWEST_NICENESS = 19
GRACE_SECONDS = 60.0
REPORT_SECONDS = 0.5
POLL_SECONDS = 1.0

_STOPS: Mapping[str, type[Stopped] | None] = {"run": None, "pause": Paused, "cancel": Cancelled}


@dataclass(frozen=True, slots=True)
class _JobEnd:
    """The end of a run. `stopped` and `again` hand the job back; `again` counts as a failed attempt."""

    how: Literal["done", "refused", "failed", "stopped", "again"]
    result: Mapping[str, Any] | None = None
    error: str | None = None


class Worker:
    """Does one job after another, for one device or for all.

    After `lease_seconds` without a heartbeat, another worker may take the job over. `clean_up` removes files that ended
    jobs have left behind: at the start, and after each job.
    """

    def __init__(
        self,
        services: Services,
        tasks: Mapping[str, Task],
        *,
        lease_seconds: float,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        only_when_idle: bool = False,
        device: str | None = None,
        clean_up: CleanUp = remove_ended_jobs,
    ) -> None:
        self._services = services
        self._database = services.database
        self._tasks = tasks
        self._lease_seconds = lease_seconds
        self._heartbeat_seconds = min(heartbeat_seconds, lease_seconds / 3)
        self._name = f"{socket.gethostname()}/{os.getpid()}/{new_id()}"
        initializer = run_when_idle if only_when_idle else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="task", initializer=initializer)
        self._device = device
        self._clean_up = clean_up
        self._stopping = asyncio.Event()
        self._running: RunningJob | None = None
        self._reporting = asyncio.Lock()

    async def work(self, *, once: bool = False) -> None:
        """Do jobs until told to stop; with `once`, until no job waits."""
        try:
            await self._remove_leftovers()
            while not self._stopping.is_set():
                try:
                    lease = await self._database.write(jobs.claim, None, self._name, self._lease_ms, self._device)
                except StorageUnavailable as error:
                    log.warning("no job can be claimed: %s", error)
                    await self._pause()
                    continue
                if lease is not None:
                    await self._do(lease)
                elif once:
                    return
                else:
                    await self._pause()
        finally:
            self._thread.shutdown(wait=False)

    def stop(self) -> None:
        """Let the running job save a checkpoint, hand it back, and end `work`."""
        self._stopping.set()
        if self._running is not None:
            self._running.stop(Interrupted)

    @property
    def _lease_ms(self) -> int:
        return round(self._lease_seconds * 1000)

    async def _remove_leftovers(self) -> None:
        """Remove leftover folders: they may hold people's words, which an erasure finds in the database only."""
        try:
            await self._clean_up(self._database, self._services.settings.data)
        except (StorageUnavailable, OSError, MynaError) as error:
            log.warning("folders of ended jobs can't be removed: %s", error)

    async def _pause(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), POLL_SECONDS)

    async def _do(self, lease: JobLease) -> None:
        log.info("%s %s begins, attempt %d", lease.job.kind, lease.job.id, lease.job.attempts)
        loop = asyncio.get_running_loop()
        folder = job_folder(self._services.settings.data, lease.job.id)
        running = self._running = RunningJob(lease, folder, loop, self._flush)
        if self._stopping.is_set():
            running.stop(Interrupted)
        keeping = asyncio.create_task(self._keep_lease(running), name=f"keep-{lease.job.id}")
        try:
            end = await loop.run_in_executor(self._thread, self._perform, running)
        finally:
            self._running = None
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
        state = await self._write_end(running, end)
        log.info("%s %s: %s", lease.job.kind, lease.job.id, state or "given up; its lease runs out")
        await self._remove_leftovers()
        if end.how == "again":
            await self._pause()

    def _perform(self, running: RunningJob) -> _JobEnd:
        """Run the task, in its thread, and return its end."""
        try:
            task = self._tasks.get(running.job.kind)
            if task is None:
                raise JobRefused(f"This worker does not know the job kind {running.job.kind!r}. Update Myna here.")
            with _locked_folder(running.folder, self._lease_seconds):
                running.check()
                result = task(running, self._services)
            return _JobEnd("done", json.loads(json.dumps(dict(result), allow_nan=False)))
        except Stopped:
            return _JobEnd("stopped")
        except JobRefused as refusal:
            return _JobEnd("refused", error=storable(str(refusal)))
        except (StorageUnavailable, LeaseLost, Timeout) as error:
            log.warning("the run of %s ends early: %s", running.job.id, error or "its lease is lost")
            return _JobEnd("again")
        except BaseException as error:
            log.exception("%s %s failed", running.job.kind, running.job.id)
            return _JobEnd("failed", error=explain(error))

    async def _keep_lease(self, running: RunningJob) -> None:
        """Write the task's progress, renew the lease, and pass requests to stop on to the task."""
        renewed_at = tried_at = time.monotonic()
        while True:
            await asyncio.sleep(min(REPORT_SECONDS, self._heartbeat_seconds))
            try:
                await self._report(running)
                if time.monotonic() - tried_at >= self._heartbeat_seconds:
                    tried_at = time.monotonic()
                    wanted = await self._database.write(
                        jobs.heartbeat, running.workspace_id, running.lease, self._lease_ms
                    )
                    renewed_at = tried_at
                    running.stop(Interrupted if self._stopping.is_set() else _STOPS[wanted])
            except LeaseLost:
                log.warning("the lease of %s is lost; its run ends here", running.job.id)
                running.stop(Interrupted)
                return
            except StorageUnavailable as error:
                log.warning("nothing can be written about %s: %s", running.job.id, error)
                if time.monotonic() - renewed_at > self._lease_seconds * 2 / 3:
                    running.stop(Interrupted)  # another worker may soon take the job over
            except Exception:
                log.exception("the lease of %s can't be kept", running.job.id)
                running.stop(Interrupted)
                return

    async def _report(self, running: RunningJob) -> None:
        async with self._reporting:
            news = running.take_news()
            if news is None:
                return
            try:
                await self._database.write(jobs.report, running.workspace_id, running.lease, *news)
            except StorageUnavailable:
                running.put_back(news[1])
                raise

    async def _flush(self, running: RunningJob) -> None:
        """Write the progress for a task. A failure is not its concern: `_keep_lease` retries, or ends the run."""
        with contextlib.suppress(StorageUnavailable, LeaseLost):
            await self._report(running)

    async def _write_end(self, running: RunningJob, end: _JobEnd) -> str | None:
        """Return the job's new state; None if the lease is lost, or the database does not come back in time."""
        until = time.monotonic() + self._lease_seconds
        while True:
            try:
                await self._report(running)
                return await self._hand_back(running, end)
            except LeaseLost:
                return None
            except StorageUnavailable as error:
                log.warning("the end of %s can't be written: %s", running.job.id, error)
                if time.monotonic() > until or self._stopping.is_set():
                    return None
                await asyncio.sleep(POLL_SECONDS)

    async def _hand_back(self, running: RunningJob, end: _JobEnd) -> str:
        lease, workspace_id = running.lease, running.workspace_id
        if end.how == "stopped" or end.how == "again":
            return await self._database.write(jobs.release, workspace_id, lease, count_attempt=end.how == "again")
        await self._database.write(jobs.finish, workspace_id, lease, end.how, result=end.result, error=end.error)
        return end.how


@contextlib.contextmanager
def _locked_folder(folder: Path, wait_seconds: float) -> Iterator[None]:
    """Make and lock the job's folder: an earlier run whose lease ran out may be slow, and still write there."""
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with FileLock(lock_file(folder), timeout=wait_seconds, poll_interval=0.2):
        folder.mkdir(exist_ok=True, mode=0o700)  # under the lock: another process may be removing an old folder
        yield


async def run(
    settings: Settings,
    database: Database,
    tasks: Mapping[str, Task],
    devices: Sequence[str],
    *,
    once: bool,
    is_child: bool,
    clean_up: CleanUp = remove_ended_jobs,
) -> None:
    """Run a worker for each device until SIGTERM or SIGINT; a second signal exits at once.

    A child process also ends at the end of its standard input.
    """
    threads = training_threads(settings)
    only_when_idle = settings.training_priority == "idle"
    if only_when_idle:
        lower_process()
    limit_threads(threads)
    services = Services(settings, database, threads)
    workers = [
        Worker(
            services,
            tasks,
            lease_seconds=LEASE_SECONDS,
            only_when_idle=only_when_idle,
            device=device,
            clean_up=clean_up,
        )
        for device in devices
    ]
    loop = asyncio.get_running_loop()
    was_told = False

    def stop() -> None:
        nonlocal was_told
        if was_told:
            os._exit(1)
        was_told = True
        for worker in workers:
            worker.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    if is_child:
        loop.add_reader(sys.stdin.fileno(), _at_end_of_input, loop, workers)
    async with asyncio.TaskGroup() as group:
        for worker in workers:
            group.create_task(worker.work(once=once))


def _at_end_of_input(loop: asyncio.AbstractEventLoop, workers: Sequence[Worker]) -> None:
    """Stop the workers: the parent process is gone, for whatever reason."""
    if not os.read(sys.stdin.fileno(), 1024):
        loop.remove_reader(sys.stdin.fileno())
        for worker in workers:
            worker.stop()
        # A step may be long, but a new parent's worker must not run beside this process.
        loop.call_later(GRACE_SECONDS, os._exit, 1)


# --- a low priority: jobs take what other programs leave; where the system refuses it, they run at the normal one ---


def lower_process() -> None:
    """Give the whole process the lowest priority. It still gets a small share, enough for its heartbeats."""
    with contextlib.suppress(OSError, AttributeError):
        os.nice(LOWEST_NICENESS)


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
