"""Workers that die, end or meet: a job resumes from its checkpoint and ends once."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bot.access.roles import Actor
from bot.jobs.control import Jobs
from storage import audit
from storage.database import Database
from storage.jobs import GAVE_UP
from storage.learning_values import Job
from storage.schema import DEFAULT_WORKSPACE
from storage.scope import Scope
from tests.builders.forked import ROOT, ForkedProcess, RunningProcess
from tests.tools import small_jobs
from tests.tools.small_jobs import hold_counts, let_counts_go_on

pytestmark = pytest.mark.slow

ME = Actor("shell:root", "admin")


@dataclass
class Yard:
    """A database, a data folder and worker processes."""

    url: str
    data: Path
    database: Database
    processes: list[RunningProcess] = field(default_factory=list)

    @property
    def jobs(self) -> Jobs:
        return Jobs(Scope(self.database, DEFAULT_WORKSPACE))

    def start(self, *options: str, priority: str = "normal") -> ForkedProcess:
        process = ForkedProcess(small_jobs.main, ["worker", *options], self._environment(priority), self.data / "log")
        self.processes.append(process)
        return process

    def start_with_input(self) -> subprocess.Popen[bytes]:
        """Start a worker that ends when its standard input does."""
        with (self.data / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.tools.small_jobs", "worker", "--child"],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                env=self._environment("normal"),
                stderr=log,
            )
        self.processes.append(process)
        return process

    def _environment(self, priority: str) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MYNA_")}
        return inherited | {
            "MYNA_DATA": str(self.data),
            "MYNA_DATABASE_URL": self.url,
            "MYNA_TRAINING_PRIORITY": priority,
        }

    async def create(self, kind: str = "count", **settings: Any) -> Job:
        return await self.jobs.create(ME, kind, settings)

    async def until(self, condition: Callable[[], Awaitable[Any]], seconds: float = 90) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not await condition():
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pytest.fail(f"{[await self.jobs.list(ME)]} {(self.data / 'log').read_text()}")

    async def until_step(self, job: Job, step: int) -> None:
        await self.until(lambda: self.reached(job, step))

    async def reached(self, job: Job, step: int) -> bool:
        return len(await asyncio.to_thread(self.journal, job)) >= step

    async def until_state(self, job: Job, *states: str) -> Job:
        async def is_there() -> bool:
            return (await self.jobs.find(ME, job.id)).state in states

        await self.until(is_there)
        return await self.jobs.find(ME, job.id)

    async def ended(self, process: RunningProcess) -> int:
        return await asyncio.to_thread(process.wait, 60)

    def journal(self, job: Job) -> list[tuple[int, int, float]]:
        """Return `(process, step, time)` of every step done for a job."""
        file = self.data / f"journal-{job.id}"
        if not file.exists():
            return []
        rows = [line.split() for line in file.read_text().splitlines()]
        return [(int(process), int(step), float(at)) for process, step, at in rows]


@pytest.fixture
async def yard(database_url: str, tmp_path: Path) -> AsyncIterator[Yard]:
    database = Database(database_url)
    made = Yard(database_url, tmp_path, database)
    yield made
    for process in made.processes:
        process.kill()
        await asyncio.to_thread(process.wait)
    await database.close()


async def test_a_killed_job_goes_on_from_its_checkpoint_and_ends_once(yard: Yard) -> None:
    job = await yard.create(rows=30, step_seconds=0.02, die_before=13)
    assert await yard.ended(yard.start()) == -signal.SIGKILL
    assert (await yard.jobs.find(ME, job.id)).state == "running", "nobody could say anything"
    assert await yard.ended(yard.start("--once")) == 0, "once the lease has run out, or there is nothing to do"
    if (await yard.jobs.find(ME, job.id)).state == "running":  # the second worker came before that
        yard.start()
    done = await yard.until_state(job, "done", "failed")
    assert (done.state, done.attempts, done.result) == ("done", 2, {"steps": 30, "begun_at": 10})
    steps = [step for _, step, _ in yard.journal(job)]
    assert steps == [*range(1, 14), *range(11, 31)]
    points = await yard.jobs.points(ME, job.id)
    assert [point.step for point in points] == list(range(1, 31)), "a step that was done twice has one point"
    actions = [row.action for row in await yard.database.read(audit.page, DEFAULT_WORKSPACE)]
    assert actions.count("job.done") == 1


async def test_a_job_that_kills_every_worker_fails_in_the_end(yard: Yard) -> None:
    job = await yard.create("die")

    async def another_worker_fails_it() -> bool:
        await yard.ended(yard.start("--once"))
        return (await yard.jobs.find(ME, job.id)).state == "failed"

    await yard.until(another_worker_fails_it)
    failed = await yard.jobs.find(ME, job.id)
    assert (failed.attempts, failed.error) == (3, GAVE_UP)


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "input ends"])
async def test_a_worker_told_to_end_saves_and_releases_its_job(yard: Yard, how: str) -> None:
    hold_counts(yard.data, 7)
    job = await yard.create(rows=12)
    process = yard.start_with_input()
    await yard.until_step(job, 7)
    if how == "input ends":
        assert process.stdin is not None
        process.stdin.close()
    else:
        process.send_signal(getattr(signal, how))
    assert await yard.ended(process) == 0
    handed_back = await yard.jobs.find(ME, job.id)
    assert (handed_back.state, handed_back.attempts) == ("queued", 0)
    let_counts_go_on(yard.data)
    assert await yard.ended(yard.start("--once")) == 0
    done = await yard.jobs.find(ME, job.id)
    assert (done.state, done.result) == ("done", {"steps": 12, "begun_at": 7})
    assert [step for _, step, _ in yard.journal(job)] == list(range(1, 13)), "no step is lost or done twice"


async def test_two_workers_never_run_two_jobs_on_one_device(yard: Yard) -> None:
    waiting = [await yard.create(rows=6, step_seconds=0.02, number=number) for number in range(8)]
    workers = [yard.start("--once"), yard.start("--once")]
    await asyncio.gather(*[yard.ended(worker) for worker in workers])
    yard.start()  # a worker may find the device taken, and end
    for job in waiting:
        assert (await yard.until_state(job, "done", "failed")).result == {"steps": 6, "begun_at": 0}
    times = sorted((at, job.id) for job in waiting for _, _, at in yard.journal(job))
    changes = sum(earlier[1] != later[1] for earlier, later in itertools.pairwise(times))
    assert changes == len(waiting) - 1, "no other job's steps stand between the steps of a job"


async def test_pause_and_resume_reach_a_worker_process(yard: Yard) -> None:
    hold_counts(yard.data, 3)
    job = await yard.create(rows=12)
    yard.start()
    await yard.until_step(job, 3)
    await yard.jobs.pause(ME, job.id)
    await yard.until_state(job, "paused")
    let_counts_go_on(yard.data)
    await yard.jobs.resume(ME, job.id)
    done = await yard.until_state(job, "done", "failed")
    assert done.result == {"steps": 12, "begun_at": 3}


async def test_training_runs_at_the_lowest_priority(yard: Yard) -> None:
    hold_counts(yard.data, 2)
    job = await yard.create(rows=3)
    process = yard.start(priority="idle")
    await yard.until_step(job, 2)
    policies = {
        int(thread.name): (os.sched_getscheduler(int(thread.name)), os.getpriority(os.PRIO_PROCESS, int(thread.name)))
        for thread in Path(f"/proc/{process.pid}/task").iterdir()
    }
    assert policies[process.pid][1] == 19
    assert [policy for policy, _ in policies.values()].count(os.SCHED_IDLE) == 1, "the thread of the task"
