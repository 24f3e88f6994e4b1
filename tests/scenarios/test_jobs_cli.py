"""`myna train`, `myna jobs` and `myna worker`, with small jobs in place of training."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bot.jobs import worker_process
from tests.builders.cli import Cli, CliProcess, remote
from tests.conftest import serve_process
from tests.fakes.openai_server import OpenAIServer
from tests.tools import small_jobs
from tests.tools.small_jobs import hold_counts, let_counts_go_on

pytestmark = pytest.mark.slow

SMALL_JOBS = (sys.executable, "-m", "tests.tools.small_jobs")


@pytest.fixture
def myna(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run `myna` in this process; the workers that it starts do small jobs."""
    monkeypatch.setattr(worker_process, "COMMAND", (*SMALL_JOBS, *worker_process.COMMAND[3:]))
    return Cli(tmp_path, {"MYNA_TRAINING_PRIORITY": "normal"})


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Don't wait for other workers: there are none."""
    monkeypatch.setattr("adapters.cli.job_commands.PATIENCE_SECONDS", 0.0)


@pytest.fixture
def worker(myna: Cli) -> CliProcess:
    """Run `myna` in a process of its own, for commands that do jobs themselves or are ended by a signal."""
    return CliProcess(myna.folder, myna.settings, SMALL_JOBS)


async def until(myna: Cli, job_id: str, **wanted: Any) -> dict[str, Any]:
    async with asyncio.timeout(90):
        while True:
            job: dict[str, Any] = (await myna.beside("jobs", "show", job_id, "--json")).json
            if all(job[name] == value for name, value in wanted.items()):
                return job
            await asyncio.sleep(0.1)


def test_jobs_are_queued_and_controlled_without_a_server(myna: Cli, worker: CliProcess) -> None:
    assert myna("jobs").out == "No job yet. `myna train` starts one.\n"
    begun = myna("train", "--rows", "12", "--name", "first", "--priority", "3")
    assert begun.code == 0
    assert "`myna serve`" in begun.err
    job_id = begun.out.strip()
    again = myna("train", "--rows", "12", "--name", "first")
    assert (again.code, again.out) == (1, "")
    assert "is the same, and it is queued" in again.err
    (row,) = myna("jobs", "--json").json
    assert (row["id"], row["state"], row["priority"]) == (job_id, "queued", 3)
    assert row["settings"] == {"rows": 12, "name": "first"}
    assert row["created_by"].startswith("shell:")
    assert myna("jobs", "pause", job_id[:14]).out.split()[2] == "paused"
    assert myna("jobs", "pause", job_id).code == 1
    assert myna("jobs", "priority", job_id, "-2", "--json").json["priority"] == -2
    assert myna("jobs", "resume", job_id, "--json").json["state"] == "queued"
    assert worker("worker", "--once").code == 0
    shown = myna("jobs", "show", job_id).out
    assert f"job {job_id}: train, done" in shown
    assert "loss: 0.08333 at step 12" in shown
    assert "steps: 12" in shown
    assert myna("jobs", "show", job_id, "--json").json["points"]["loss"][-1] == [12, 1 / 12]
    late = myna("jobs", "cancel", job_id)
    assert late.code == 1
    assert "is done, and can't be cancelled" in late.err
    assert "no job ffffff" in myna("jobs", "show", "ffffff").err


@pytest.mark.usefixtures("no_server")
def test_wait_without_a_server_starts_a_worker(myna: Cli) -> None:
    done = myna("train", "--rows", "8", "--wait")
    assert done.code == 0, done.err
    assert done.out == "steps: 8\nbegun_at: 0\n"
    assert "The job is done." in done.err
    lines = myna("train", "--rows", "9", "--wait", "--json")
    assert lines.code == 0
    assert [row["state"] for row in lines.rows][-1] == "done"
    assert lines.rows[-1]["result"] == {"steps": 9, "begun_at": 0}


@pytest.mark.usefixtures("no_server")
@pytest.mark.parametrize(
    ("name", "code", "words"),
    [("refuse", 3, "There are 3 examples, and 20 are needed."), ("full", 1, "The disk is full")],
)
def test_the_exit_code_tells_how_a_job_ended(myna: Cli, name: str, code: int, words: str) -> None:
    myna.worker_may_fail = True
    done = myna("train", "--name", name, "--wait")
    assert (done.code, done.out) == (code, "")
    assert words in done.err


@pytest.mark.usefixtures("no_server")
def test_a_version_refused_by_the_gate_exits_with_3(myna: Cli) -> None:
    done = myna("train", "--name", "worse", "--wait", "--json")
    assert done.code == 3
    assert (done.rows[-1]["state"], done.rows[-1]["result"]["passed"]) == ("done", False)


def test_wrong_options_queue_nothing(myna: Cli) -> None:
    done = myna("train", "--rows", "0")
    assert done.code == 1
    assert "rows must be a whole number between 1 and" in done.err
    assert myna("jobs", "--json").json == []


def test_ctrl_c_pauses_our_own_job_and_watch_continues_it(myna: Cli, worker: CliProcess) -> None:
    job_id = myna("train", "--rows", "8").out.strip()
    hold_counts(myna.data, 3)
    watching = worker.start("jobs", "watch", job_id)
    while not (myna.data / f"journal-{job_id}").exists():
        assert watching.poll() is None
        time.sleep(0.05)
    os.killpg(watching.pid, signal.SIGINT)
    out, err = watching.communicate(timeout=60)
    assert watching.returncode == 130, err
    assert f"`myna jobs resume {job_id}`" in err
    assert "Traceback" not in out + err
    paused = myna("jobs", "show", job_id, "--json").json
    assert paused["state"] == "paused"
    let_counts_go_on(myna.data)
    assert myna("jobs", "resume", job_id).code == 0
    done = myna("jobs", "watch", job_id)
    assert done.code == 0, done.err
    steps = [int(line.split()[1]) for line in (myna.data / f"journal-{job_id}").read_text().splitlines()]
    assert steps == list(range(1, 9))


async def test_a_server_runs_waiting_jobs_and_ends_its_worker(myna: Cli) -> None:
    model_server = OpenAIServer()
    await model_server.start()
    server = serve_process(myna.data, command=small_jobs.main, **remote(model_server), MYNA_TRAINING_PRIORITY="normal")
    await server.start()
    try:
        first = await myna.beside("train", "--rows", "5", "--wait")
        assert first.code == 0, first.err
        killer = (await myna.beside("train", "--name", "die")).out.strip()
        long = (await myna.beside("train", "--rows", "100000")).out.strip()
        failed = await until(myna, killer, state="failed")
        assert failed["attempts"] == 3, "the worker was started again each time"
        await until(myna, long, state="running")
        assert await server.stop() == 0
        log = await asyncio.to_thread(server.log.read_text)
        assert "Traceback" not in log
        assert "ended with -9; the next one starts" in log
        left = await until(myna, long, state="queued")
        assert left["attempts"] == 0
    finally:
        await server.stop(signal.SIGKILL)
        await model_server.close()


async def test_a_server_with_training_off_leaves_jobs_queued(myna: Cli, worker: CliProcess) -> None:
    model_server = OpenAIServer()
    await model_server.start()
    server = serve_process(myna.data, command=small_jobs.main, **remote(model_server), MYNA_TRAINING="off")
    await server.start()
    try:
        job_id = (await myna.beside("train", "--rows", "5")).out.strip()
        await asyncio.sleep(3)
        assert (await myna.beside("jobs", "show", job_id, "--json")).json["state"] == "queued"
        assert (await worker.beside("worker", "--once")).code == 0
        assert (await myna.beside("jobs", "show", job_id, "--json")).json["state"] == "done"
    finally:
        await server.stop(signal.SIGKILL)
        await model_server.close()
