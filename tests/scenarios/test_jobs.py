"""The job queue and its worker: claims, leases, requests in each state, endings.

The workers run in this process, with small real tasks. Killed processes are in `tests.crash.test_job_kills`.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bot.access.roles import Actor
from bot.errors import Conflict, InvalidInput, ModelError, NotAllowed, NotFound
from bot.jobs.contract import Cancelled, Interrupted, JobContext, JobRefused, Paused, Services, Stopped, Task, explain
from bot.jobs.control import Jobs
from bot.jobs.worker import Worker, training_threads
from bot.settings import Settings
from storage import audit, jobs
from storage.database import Database, StorageUnavailable
from storage.engines import postgresql_engine, sqlite_engine
from storage.jobs import GAVE_UP, JobLease, LeaseLost, Point
from storage.learning_values import OPEN_STATES, Job
from storage.schema import DEFAULT_WORKSPACE, workspace
from storage.scope import Scope
from tests.builders.waiting import until

pytestmark = pytest.mark.both_databases("claims and fencing")

TRAINER, VIEWER = Actor("web:ada", "trainer"), Actor("web:vera", "viewer")
LONG_MS, NO_TIME_MS = 60_000, -1


@dataclass
class Bench:
    """A database with one workspace's jobs, and workers on demand."""

    database: Database
    data: Path
    jobs: Jobs = field(init=False)

    def __post_init__(self) -> None:
        self.jobs = Jobs(Scope(self.database, DEFAULT_WORKSPACE))

    async def claim(self, lease_ms: int = LONG_MS, owner: str = "me") -> JobLease | None:
        return await self.database.write(jobs.claim, None, owner, lease_ms)

    async def must_claim(self, lease_ms: int = LONG_MS) -> JobLease:
        lease = await self.claim(lease_ms)
        assert lease is not None
        return lease

    async def write(self, unit: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await self.database.write(unit, DEFAULT_WORKSPACE, *args, **kwargs)

    async def now(self, job: Job) -> Job:
        return await self.jobs.find(VIEWER, job.id)

    def worker(self, **tasks: Task) -> Worker:
        services = Services(Settings(data=self.data), self.database, 1)
        return Worker(services, tasks, lease_seconds=30.0, heartbeat_seconds=0.05)

    async def do(self, task: Task, settings: Mapping[str, Any] | None = None) -> Job:
        """Create a job, do all waiting jobs, and return the job as it is then."""
        job = await self.jobs.create(TRAINER, "small", settings or {})
        await self.worker(small=task).work(once=True)
        return await self.now(job)

    async def actions(self) -> list[str]:
        return [row.action for row in await self.database.read(audit.page, DEFAULT_WORKSPACE)][::-1]


@pytest.fixture
async def bench(database_url: str, tmp_path: Path) -> AsyncIterator[Bench]:
    database = Database(database_url)
    yield Bench(database, tmp_path)
    await database.close()


def until_stopped(context: JobContext, services: Services) -> Mapping[str, Any]:
    """Run until stopped, and leave a file in the job's folder."""
    (context.folder / "here").touch()
    context.progress(phase="waiting")
    while True:
        context.check()
        time.sleep(0.01)


# --- claims ---


async def test_jobs_run_one_at_a_time_by_priority_then_age(bench: Bench) -> None:
    first, second = [await bench.jobs.create(TRAINER, "small", {"n": n}) for n in (1, 2)]
    urgent = await bench.jobs.create(TRAINER, "small", {"n": 3}, priority=5)
    order = []
    for _ in range(3):
        lease = await bench.must_claim()
        assert await bench.claim(owner="another") is None, "one on a device"
        order.append(lease.job.id)
        await bench.write(jobs.finish, lease, "done")
    assert order == [urgent.id, first.id, second.id]
    assert await bench.claim() is None


async def test_a_priority_can_be_changed_while_a_job_waits(bench: Bench) -> None:
    first, second = [await bench.jobs.create(TRAINER, "small", {"n": n}) for n in (1, 2)]
    assert (await bench.jobs.set_priority(TRAINER, second.id, 7)).priority == 7
    assert (await bench.must_claim()).job.id == second.id
    with pytest.raises(InvalidInput, match="between -100 and 100"):
        await bench.jobs.set_priority(TRAINER, first.id, 101)


async def test_each_device_has_a_running_job_of_its_own(bench: Bench) -> None:
    await bench.jobs.create(TRAINER, "small", {"n": 1})
    await bench.write(jobs.create, "shell:root", "small", {"n": 2}, device="cuda:1")
    leases = [await bench.must_claim(), await bench.must_claim()]
    assert {lease.job.device for lease in leases} == {"default", "cuda:1"}


async def test_simultaneous_claims_give_a_job_to_one_worker(bench: Bench, database_url: str) -> None:
    for number in range(6):
        await bench.jobs.create(TRAINER, "small", {"n": number})
    others = [Database(database_url, guest=True) for _ in range(3)]
    try:
        for _ in range(6):
            claimed = await asyncio.gather(
                *[other.write(jobs.claim, None, f"worker {n}", LONG_MS) for n, other in enumerate(others)]
            )
            (lease,) = [claim for claim in claimed if claim is not None]
            await others[0].write(jobs.finish, DEFAULT_WORKSPACE, lease, "done")
    finally:
        for other in others:
            await other.close()
    assert {job.state for job in await bench.jobs.list(VIEWER)} == {"done"}


async def test_a_job_waits_if_a_claim_would_find_it(bench: Bench) -> None:
    async def waits() -> bool:
        return await bench.database.read(jobs.is_waiting, None)

    assert not await waits()
    for number in (1, 2):
        await bench.jobs.create(TRAINER, "small", {"n": number})
    assert await waits()
    lease = await bench.must_claim()
    assert not await waits(), "the device is taken"
    await bench.write(jobs.heartbeat, lease, NO_TIME_MS)
    assert await waits(), "its worker is dead"


# --- leases ---


async def test_an_expired_lease_is_claimed_again_and_fences_off_its_worker(bench: Bench) -> None:
    job = await bench.jobs.create(TRAINER, "small", {})
    old = await bench.must_claim(NO_TIME_MS)
    new = await bench.must_claim()
    assert (new.job.id, new.job.attempts, new.epoch) == (job.id, 2, old.epoch + 1)
    before = await bench.now(job)
    for call in (
        lambda: bench.write(jobs.heartbeat, old, LONG_MS),
        lambda: bench.write(jobs.hold, old),
        lambda: bench.write(jobs.report, old, {"step": 9}, (Point("loss", 9, 0.1),)),
        lambda: bench.write(jobs.release, old, count_attempt=True),
        lambda: bench.write(jobs.finish, old, "done", result={"stolen": True}),
    ):
        with pytest.raises(LeaseLost):
            await call()
    assert await bench.now(job) == before
    assert await bench.jobs.points(VIEWER, job.id) == []
    assert await bench.write(jobs.heartbeat, new, LONG_MS) == "run"


async def test_three_lost_attempts_fail_a_job_until_it_is_resumed(bench: Bench) -> None:
    job = await bench.jobs.create(TRAINER, "small", {})
    for attempt in (1, 2, 3):
        assert (await bench.must_claim(NO_TIME_MS)).job.attempts == attempt
    assert await bench.claim() is None
    failed = await bench.now(job)
    assert (failed.state, failed.error) == ("failed", GAVE_UP)
    assert failed.ended_at is not None
    resumed = await bench.jobs.resume(TRAINER, job.id)
    assert (resumed.state, resumed.error, resumed.ended_at) == ("queued", None, None)
    assert (await bench.must_claim()).job.attempts == 1


@pytest.mark.parametrize(("asked", "state"), [("pause", "paused"), ("cancel", "cancelled")])
async def test_a_request_is_kept_if_the_worker_dies(bench: Bench, asked: Any, state: str) -> None:
    job = await bench.jobs.create(TRAINER, "small", {})
    lease = await bench.must_claim()
    await bench.write(jobs.request, "shell:root", job.id, asked)
    await bench.write(jobs.heartbeat, lease, NO_TIME_MS)
    assert await bench.claim() is None
    assert (await bench.now(job)).state == state


# --- requests ---


async def bring_to(bench: Bench, state: str) -> Job:
    job = await bench.jobs.create(TRAINER, "small", {})
    if state == "paused":
        await bench.jobs.pause(TRAINER, job.id)
    elif state == "cancelled":
        await bench.jobs.cancel(TRAINER, job.id)
    elif state != "queued":
        lease = await bench.must_claim()
        if state != "running":
            await bench.write(jobs.finish, lease, state)
    assert (await bench.now(job)).state == state
    return job


REQUESTS = {
    ("queued", "pause"): ("paused", "run"),
    ("queued", "cancel"): ("cancelled", "run"),
    ("running", "pause"): ("running", "pause"),
    ("running", "resume"): ("running", "run"),
    ("running", "cancel"): ("running", "cancel"),
    ("paused", "resume"): ("queued", "run"),
    ("paused", "cancel"): ("cancelled", "run"),
    ("failed", "resume"): ("queued", "run"),
}
STATES = ("queued", "running", "paused", "done", "refused", "failed", "cancelled")


@pytest.mark.parametrize("asked", ["pause", "resume", "cancel"])
@pytest.mark.parametrize("state", STATES)
async def test_each_request_in_each_state(bench: Bench, state: str, asked: str) -> None:
    job = await bring_to(bench, state)
    before = await bench.now(job)
    if (state, asked) not in REQUESTS:
        with pytest.raises(Conflict, match=f"is {state}, and can't be"):
            await getattr(bench.jobs, asked)(TRAINER, job.id)
        assert await bench.now(job) == before
        return
    changed = await getattr(bench.jobs, asked)(TRAINER, job.id)
    assert (changed.state, changed.wanted) == REQUESTS[state, asked]
    assert changed == await bench.now(job)
    assert (changed.ended_at is None) == (changed.state in OPEN_STATES)
    assert (await bench.actions())[-1] == f"job.{asked}"


async def test_a_job_being_cancelled_can_not_be_paused_instead(bench: Bench) -> None:
    job = await bring_to(bench, "running")
    await bench.jobs.cancel(TRAINER, job.id)
    for ask in (bench.jobs.pause, bench.jobs.resume):
        with pytest.raises(Conflict, match="about to be cancelled"):
            await ask(TRAINER, job.id)


async def test_the_same_open_job_is_not_created_twice(bench: Bench) -> None:
    job = await bench.jobs.train(TRAINER, {"rows": 20, "name": None})
    with pytest.raises(Conflict, match=f"{job.id[:12]} is the same, and it is queued"):
        await bench.jobs.train(TRAINER, {"rows": 20})
    await bench.jobs.train(TRAINER, {"rows": 21})
    await bench.jobs.cancel(TRAINER, job.id)
    assert (await bench.jobs.train(TRAINER, {"rows": 20})).id != job.id
    assert await bench.actions() == ["job.create", "job.create", "job.cancel", "job.create"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rows": 0}, "rows must be"),
        ({"rows": "many"}, "rows must be"),
        ({"rows": True}, "rows must be"),
        ({"search": 101}, "search must be"),
        ({"name": "../x"}, "A name has"),
        ({"name": ""}, "A name has"),
        ({"name": "x" * 41}, "A name has"),
    ],
)
async def test_impossible_settings_are_refused(sqlite_url: str, settings: dict[str, Any], words: str) -> None:
    database = Database(sqlite_url)
    with pytest.raises(InvalidInput, match=words):
        await Jobs(Scope(database, DEFAULT_WORKSPACE)).train(TRAINER, settings)
    assert await database.read(jobs.list_jobs, DEFAULT_WORKSPACE) == []
    await database.close()


async def test_a_viewer_may_read_and_not_change_jobs(bench: Bench) -> None:
    job = await bench.jobs.create(TRAINER, "small", {})
    assert await bench.jobs.list(VIEWER) == [job]
    assert await bench.jobs.points(VIEWER, job.id) == []
    for attempt in (
        lambda: bench.jobs.train(VIEWER, {}),
        lambda: bench.jobs.pause(VIEWER, job.id),
        lambda: bench.jobs.resume(VIEWER, job.id),
        lambda: bench.jobs.cancel(VIEWER, job.id),
        lambda: bench.jobs.set_priority(VIEWER, job.id, 1),
    ):
        with pytest.raises(NotAllowed):
            await attempt()
    assert await bench.now(job) == job


async def test_a_job_is_found_by_a_prefix_of_its_id(bench: Bench) -> None:
    first, second = [await bench.jobs.create(TRAINER, "small", {"n": n}) for n in (1, 2)]
    assert await bench.jobs.find(VIEWER, first.id.upper()) == first
    common = next(n for n in range(32) if first.id[n] != second.id[n])
    assert await bench.jobs.find(VIEWER, second.id[: common + 1]) == second
    with pytest.raises(InvalidInput, match="Several jobs"):
        await bench.jobs.find(VIEWER, first.id[:4])
    with pytest.raises(NotFound, match="There is no job ffff") as none:
        await bench.jobs.find(VIEWER, "ffff")
    assert none.value.hint == "list_jobs"
    for nonsense in ("", "abc", "%%%%", "zzzz", "0" * 33):
        with pytest.raises(InvalidInput, match="no id of a job"):
            await bench.jobs.find(VIEWER, nonsense)


async def test_wait_yields_each_change_made_by_another_process(bench: Bench, database_url: str) -> None:
    job = await bench.jobs.create(TRAINER, "small", {})
    elsewhere = Database(database_url, guest=True)
    heard: list[Job] = []

    async def listen() -> None:
        async for state in Jobs(Scope(elsewhere, DEFAULT_WORKSPACE)).wait(VIEWER, job.id):
            heard.append(state)

    async with asyncio.timeout(30):
        listening = asyncio.create_task(listen())
        lease = await bench.must_claim()
        await bench.write(jobs.report, lease, {"step": 1}, ())

        async def has_heard_of_the_step() -> bool:
            return bool(heard) and heard[-1].progress == {"step": 1}

        await until(has_heard_of_the_step)
        await bench.write(jobs.finish, lease, "done", result={"steps": 1})
        await listening
    assert (heard[-1].state, heard[-1].result) == ("done", {"steps": 1})
    assert all(state != following for state, following in itertools.pairwise(heard))
    await elsewhere.close()


# --- the worker ---


async def test_a_done_job_has_progress_a_curve_and_a_result(bench: Bench) -> None:
    def task(context: JobContext, services: Services) -> Mapping[str, Any]:
        context.progress(phase="a", steps=3)
        for step in (1, 2, 3):
            context.check()
            context.progress(step=step, loss=float("nan") if step == 2 else 1 / step, note="\x00\ud800")
            context.point("loss", step, float("inf") if step == 2 else 1 / step)
        context.point("loss", 3, 0.25)
        known = context.run(services.database.read(jobs.get, context.workspace_id, context.job.id))
        (context.folder / "words").write_text("private")
        assert context.folder.stat().st_mode & 0o077 == 0
        return {"kind": known.kind if known else None, "values": (1, 2)}

    job = await bench.do(task)
    assert (job.state, job.error, job.attempts) == ("done", None, 1)
    assert job.result == {"kind": "small", "values": [1, 2]}
    assert job.progress == {"phase": "a", "steps": 3, "step": 3, "loss": 1 / 3, "note": "��"}
    assert await bench.jobs.points(VIEWER, job.id) == [Point("loss", 1, 1.0), Point("loss", 3, 0.25)]
    assert list((bench.data / "jobs").iterdir()) == [], "what it held may be people's words"
    assert await bench.actions() == ["job.create", "job.done"]


class OutOfMemoryError(RuntimeError):
    """As torch names it."""


ENDINGS: dict[str, tuple[BaseException, str, str]] = {
    "refused": (JobRefused("There are 3 examples, and 20 are needed."), "refused", "There are 3 examples"),
    "full": (OSError(errno.ENOSPC, "No space left on device"), "failed", "The disk is full"),
    "memory": (MemoryError(), "failed", "The memory ran out"),
    "gpu": (OutOfMemoryError("CUDA out of memory. Tried ..."), "failed", "The memory ran out"),
    "cpu": (RuntimeError("DefaultCPUAllocator: can't allocate memory: you"), "failed", "The memory ran out"),
    "nan": (FloatingPointError("loss is nan at step 7"), "failed", "diverged (loss is nan at step 7)"),
    "model": (ModelError("The model is damaged. Delete the folder."), "failed", "The model is damaged."),
    "file": (PermissionError(errno.EACCES, "Permission denied", "/x/y"), "failed", "/x/y: Permission denied"),
    "other": (KeyError("secret\nline"), "failed", "It failed with KeyError: 'secret"),
    "exit": (SystemExit(3), "failed", "It failed with SystemExit"),
}


@pytest.mark.parametrize("name", ENDINGS)
async def test_each_ending_is_explained_in_words(bench: Bench, name: str) -> None:
    error, state, words = ENDINGS[name]

    def task(context: JobContext, services: Services) -> Mapping[str, Any]:
        raise error

    job = await bench.do(task)
    assert job.state == state
    assert job.error is not None
    assert words in job.error
    assert "\n" not in job.error


def test_explanations_are_short() -> None:
    assert len(explain(ValueError("x" * 10_000))) <= 500


async def test_an_unknown_kind_is_refused(bench: Bench) -> None:
    job = await bench.jobs.create(TRAINER, "dance", {})
    await bench.worker().work(once=True)
    done = await bench.now(job)
    assert (done.state, "'dance'" in (done.error or "")) == ("refused", True)


async def test_a_task_that_loses_the_database_is_retried(bench: Bench) -> None:
    def task(context: JobContext, services: Services) -> Mapping[str, Any]:
        if context.job.attempts < 3:
            raise StorageUnavailable("it is away")
        return {}

    job = await bench.do(task)
    assert (job.state, job.attempts) == ("done", 3)


@pytest.mark.parametrize(("asked", "state", "is_kept"), [("pause", "paused", True), ("cancel", "cancelled", False)])
async def test_a_running_job_stops_at_its_next_step(bench: Bench, asked: str, state: str, is_kept: bool) -> None:
    job = await bench.jobs.create(TRAINER, "small", {})
    stopped: list[type[BaseException]] = []

    def task(context: JobContext, services: Services) -> Mapping[str, Any]:
        try:
            return until_stopped(context, services)
        except Stopped as stop:
            stopped.append(type(stop))
            raise

    working = asyncio.create_task(bench.worker(small=task).work(once=True))

    async def has_begun() -> bool:
        return (await bench.now(job)).progress is not None

    await until(has_begun)
    await getattr(bench.jobs, asked)(TRAINER, job.id)
    await asyncio.wait_for(working, 30)
    assert (await bench.now(job)).state == state
    assert stopped == [Paused if asked == "pause" else Cancelled]
    assert (bench.data / "jobs" / job.id / "here").exists() == is_kept
    if is_kept:
        await bench.jobs.resume(TRAINER, job.id)
        lease = await bench.must_claim()
        assert (lease.job.attempts, lease.job.progress) == (1, {"phase": "waiting"})


async def test_only_folders_of_ended_jobs_are_removed(bench: Bench) -> None:
    kept, gone = [], []
    for number in range(4):
        job = await bench.jobs.create(TRAINER, "unknown here", {"number": number})
        (kept if number < 2 else gone).append(bench.data / "jobs" / job.id)
        if number != 1:
            await bench.jobs.pause(TRAINER, job.id)
        if number >= 2:
            await bench.jobs.cancel(TRAINER, job.id)
    failed = await bench.must_claim()
    await bench.write(jobs.finish, failed, "failed", error="no")
    kept.append(bench.data / "jobs" / "of another database")
    for folder in kept + gone:
        folder.mkdir(parents=True)
        (folder / "words").touch()
    await bench.worker().work(once=True)
    assert [(folder / "words").exists() for folder in kept] == [True] * 3
    assert sorted((bench.data / "jobs").iterdir()) == sorted(kept)


async def test_a_stopped_worker_hands_its_job_back(bench: Bench) -> None:
    job = await bench.jobs.create(TRAINER, "small", {})
    worker = bench.worker(small=until_stopped)
    working = asyncio.create_task(worker.work())

    async def runs() -> bool:
        return (await bench.now(job)).state == "running"

    await until(runs)
    worker.stop()
    await asyncio.wait_for(working, 30)
    handed_back = await bench.now(job)
    assert (handed_back.state, handed_back.attempts) == ("queued", 0), "a stopped worker is no failed attempt"


async def test_a_lost_lease_stops_the_task_and_its_writes(bench: Bench) -> None:
    job = await bench.jobs.create(TRAINER, "small", {})
    stopped, go_on = threading.Event(), threading.Event()

    def task(context: JobContext, services: Services) -> Mapping[str, Any]:
        context.point("loss", 1, 1.0)
        try:
            until_stopped(context, services)
        except Interrupted:
            stopped.set()
            context.progress(phase="too late")
            context.point("loss", 2, 2.0)
            assert go_on.wait(30)
        return {"stolen": True}

    working = asyncio.create_task(bench.worker(small=task).work(once=True))

    async def has_a_point() -> bool:
        return bool(await bench.jobs.points(VIEWER, job.id))

    await until(has_a_point)
    await bench.write(jobs.heartbeat, await lease_in(bench, job), NO_TIME_MS)
    thief: JobLease | None = None
    async with asyncio.timeout(30):
        while thief is None:  # its own heartbeat may come between
            await bench.write(jobs.heartbeat, await lease_in(bench, job), NO_TIME_MS)
            thief = await bench.claim(owner="thief")
    assert await asyncio.to_thread(stopped.wait, 30)
    before = await bench.now(job)
    go_on.set()
    await asyncio.wait_for(working, 30)
    assert await bench.now(job) == before
    assert await bench.jobs.points(VIEWER, job.id) == [Point("loss", 1, 1.0)]
    await bench.write(jobs.finish, thief, "done")


async def lease_in(bench: Bench, job: Job) -> JobLease:
    """Return the lease as stored in the database, for tampering."""
    url = bench.database.url
    engine = (sqlite_engine if url.get_backend_name() == "sqlite" else postgresql_engine)(url, read_only=True)

    def read() -> Any:
        with engine.connect() as connection:
            query = sa.text("SELECT owner, epoch FROM job WHERE id = :id")
            return connection.execute(query, {"id": job.id}).one()

    row = await asyncio.to_thread(read)
    engine.dispose()
    return JobLease(job, DEFAULT_WORKSPACE, row.owner, row.epoch)


def add_shop(url: sa.URL) -> None:
    engine = (sqlite_engine if url.get_backend_name() == "sqlite" else postgresql_engine)(url)
    with engine.begin() as connection:
        connection.execute(workspace.insert().values(id="shop", name="Shop", created_at=0))
    engine.dispose()


async def test_a_worker_serves_all_workspaces_and_keeps_them_apart(bench: Bench) -> None:
    await asyncio.to_thread(add_shop, bench.database.url)
    shop = Jobs(Scope(bench.database, "shop"))
    theirs = await shop.create(TRAINER, "small", {})

    def task(context: JobContext, services: Services) -> Mapping[str, Any]:
        mine = context.run(services.database.read(jobs.list_jobs, context.workspace_id))
        return {"workspace": context.workspace_id, "jobs": [job.id for job in mine]}

    mine = await bench.do(task)
    assert mine.result == {"workspace": DEFAULT_WORKSPACE, "jobs": [mine.id]}
    assert (await shop.find(VIEWER, theirs.id)).result == {"workspace": "shop", "jobs": [theirs.id]}
    with pytest.raises(NotFound):
        await bench.jobs.find(VIEWER, theirs.id)


def test_training_uses_the_cores_left_by_the_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    found = [
        training_threads(Settings(data=Path("/x"), threads=chat, training_threads=own))
        for chat, own in ((0, 0), (6, 0), (8, 0), (0, 3))
    ]
    assert found == [8, 2, 8, 3]
