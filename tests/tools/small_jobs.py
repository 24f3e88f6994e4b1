"""`myna` with small jobs in place of training: `python -m tests.tools.small_jobs train --wait`.

A task counts, fails or dies as its settings say. A count keeps a checkpoint and writes each step into a journal, so
that a test sees which process did a step. `hold_counts` keeps counts from ending before a test is ready, however slow
the machine is.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapters.cli import job_kinds
from adapters.cli import main as cli
from bot.jobs import worker, worker_process
from bot.jobs.contract import JobContext, JobRefused, Services, Stopped, Task

LEASE_SECONDS = 3.0
FIRST_PAUSE_SECONDS = 0.25
CHECKPOINT_EVERY = 5
HOLD_FILE = "hold"


def hold_counts(data: Path, step: int) -> None:
    """Make every count of a data folder wait after this step until `let_counts_go_on`."""
    (data / HOLD_FILE).write_text(str(step))


def let_counts_go_on(data: Path) -> None:
    (data / HOLD_FILE).unlink()


def is_held(data: Path, step: int) -> bool:
    hold = data / HOLD_FILE
    return hold.exists() and step >= int(hold.read_text())


def count(context: JobContext, services: Services) -> Mapping[str, Any]:
    """Count to `rows`, `step_seconds` each; die by SIGKILL before the step `die_before` in the first attempt."""
    wanted = context.job.settings
    steps = int(wanted.get("rows", 10))
    checkpoint = context.folder / "checkpoint.json"
    done: int = json.loads(checkpoint.read_text())["step"] if checkpoint.exists() else 0
    begun_at = done
    journal = services.settings.data / f"journal-{context.job.id}"
    context.progress(phase="counting", steps=steps)
    try:
        while done < steps:
            context.check()
            while is_held(services.settings.data, done):
                time.sleep(0.01)
                context.check()
            if done == wanted.get("die_before") and context.job.attempts == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(float(wanted.get("step_seconds", 0.01)))
            done += 1
            with journal.open("a") as file:
                file.write(f"{os.getpid()} {done} {time.time()}\n")
            context.progress(step=done, loss=1 / done, tokens_per_second=100.0, seconds_left=float(steps - done))
            context.point("loss", done, 1 / done)
            if done % CHECKPOINT_EVERY == 0:
                context.flush()
                save(checkpoint, done)
    except Stopped:
        save(checkpoint, done)
        raise
    return {"steps": steps, "begun_at": begun_at}


def save(checkpoint: Path, step: int) -> None:
    draft = checkpoint.with_suffix(".part")
    draft.write_text(json.dumps({"step": step}))
    draft.replace(checkpoint)


def refuse(context: JobContext, services: Services) -> Mapping[str, Any]:
    raise JobRefused("There are 3 examples, and 20 are needed.")


def fill_the_disk(context: JobContext, services: Services) -> Mapping[str, Any]:
    raise OSError(errno.ENOSPC, "No space left on device", "/data/checkpoint")


def die(context: JobContext, services: Services) -> Mapping[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def make_a_worse_version(context: JobContext, services: Services) -> Mapping[str, Any]:
    return {"version": "bot-v1-0a1b2c3d", "passed": False, "reasons": ["Held-out loss rose: REFUSED"]}


def train(context: JobContext, services: Services) -> Mapping[str, Any]:
    """Run the task that the job's name chooses."""
    by_name = {"refuse": refuse, "full": fill_the_disk, "die": die, "worse": make_a_worse_version}
    return by_name.get(str(context.job.settings.get("name")), count)(context, services)


SMALL_TASKS: dict[str, Task] = {
    "count": count,
    "refuse": refuse,
    "fill_the_disk": fill_the_disk,
    "die": die,
    "train": train,
}


def main(argv: list[str]) -> int:
    job_kinds.all_tasks = lambda: SMALL_TASKS
    worker.LEASE_SECONDS = LEASE_SECONDS
    worker_process.FIRST_PAUSE_SECONDS = FIRST_PAUSE_SECONDS
    worker_process.COMMAND = (sys.executable, "-m", "tests.tools.small_jobs", *worker_process.COMMAND[3:])
    return cli.main(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
