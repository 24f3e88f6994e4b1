"""Training and other jobs: `myna train`, `myna jobs ...` and `myna worker`."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from adapters.cli import job_display
from adapters.cli.terminal import Commands, add, add_yes, confirm, print_value, say, shell_actor, with_database
from bot.errors import Conflict
from bot.settings import Settings

if TYPE_CHECKING:
    from bot.jobs.control import Jobs
    from bot.jobs.worker_process import WorkerProcess
    from storage.learning_values import Job

T = TypeVar("T")

DONE, FAILED, REFUSED = 0, 1, 3
# Time that `--wait` and `watch` leave the worker of a server to claim the job, before they start a worker themselves.
PATIENCE_SECONDS = 4.0


def add_to(commands: Commands) -> None:
    """Add `train`, `jobs ...` and `worker`."""
    train = add(
        commands, "train", "train a new version on the stored conversations, votes and reviews", _train, reports=True
    )
    train.add_argument("--rows", type=int, metavar="N", help="use at most N examples")
    train.add_argument(
        "--search",
        type=int,
        metavar="N",
        help="hyperparameter search: try N settings for a quarter of a training each, and keep the best",
    )
    train.add_argument("--learning-rate", type=float, metavar="X", help="learning rate; default: 0.001")
    train.add_argument(
        "--epochs", type=float, metavar="X", help="train at most X epochs; default: 2, or 1 from 2,000 answers on"
    )
    train.add_argument("--name", help="a name for this training, shown with its job and its version")
    train.add_argument(
        "--priority", type=int, default=0, metavar="N", help="jobs of a higher priority run first; default: 0"
    )
    train.add_argument("--wait", action="store_true", help="show the progress until the training has ended")
    _add_jobs_to(commands)
    worker = add(commands, "worker", "run the waiting jobs, with or without a server", _worker)
    worker.add_argument("--once", action="store_true", help="end when no job waits")
    worker.add_argument(
        "--device",
        choices=("default", "knowledge"),
        help="run only the jobs of this device: default (training) or knowledge (articles); without it, of both",
    )
    worker.add_argument(
        "--child", action="store_true", help="end when standard input closes, for the program that starts this worker"
    )


def _add_jobs_to(commands: Commands) -> None:
    parser = commands.add_parser("jobs", help="list and control jobs", description="List and control jobs.")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON value")
    parser.set_defaults(command=_list)
    jobs = parser.add_subparsers(metavar="ACTION")
    add(jobs, "list", "list the newest jobs, as `myna jobs` does", _list, reports=True)
    for name, about, command in (
        ("show", "show a job: settings, progress, curves and result", _show),
        ("pause", "pause a job at its next step; `resume` continues it", _pause),
        ("resume", "continue a job that is paused or failed", _resume),
        ("cancel", "cancel a job for good", _cancel),
        ("watch", "show the progress of a job until it has ended", _watch),
    ):
        action = add(jobs, name, about, command, reports=True)
        action.add_argument("id", help="the job's id, or its start")
        if name == "cancel":
            add_yes(action)
    priority = add(jobs, "priority", "change the priority of a job", _priority, reports=True)
    priority.add_argument("id", help="the job's id, or its start")
    priority.add_argument("priority", type=int, help="jobs of a higher priority run first; default: 0")


def _with_jobs(settings: Settings, work: Callable[[Jobs], Awaitable[T]]) -> T:
    from bot.jobs.control import Jobs

    return with_database(settings, lambda scope: work(Jobs(scope)))


def _train(settings: Settings, arguments: argparse.Namespace) -> int:
    chosen = {name: getattr(arguments, name) for name in ("rows", "search", "learning_rate", "epochs", "name")}
    job = _with_jobs(settings, lambda jobs: jobs.train(shell_actor(), chosen, arguments.priority))
    if arguments.wait:
        return _wait(settings, job.id, as_json=arguments.json)
    if arguments.json:
        print_value(job_display.job_row(job))
    else:
        print_value(job.id)
        say("The job waits for a worker. `myna serve` runs one; `myna jobs watch ID` starts one if there is none.")
    return 0


def _list(settings: Settings, arguments: argparse.Namespace) -> int:
    found = _with_jobs(settings, lambda jobs: jobs.list(shell_actor()))
    if arguments.json:
        print_value([job_display.job_row(job) for job in found])
    elif not found:
        print_value("No job yet. `myna train` starts one.")
    for job in () if arguments.json else found:
        print_value(job_display.list_line(job))
    return 0


def _show(settings: Settings, arguments: argparse.Namespace) -> int:
    async def look(jobs: Jobs) -> tuple[Job, Any]:
        job = await jobs.find(shell_actor(), arguments.id)
        return job, await jobs.points(shell_actor(), job.id)

    job, points = _with_jobs(settings, look)
    if arguments.json:
        curves: dict[str, list[list[float]]] = {}
        for point in points:
            curves.setdefault(point.series, []).append([point.step, point.value])
        print_value(job_display.job_row(job) | {"points": curves})
    for line in () if arguments.json else job_display.describe(job, points):
        print_value(line)
    return 0


def _pause(settings: Settings, arguments: argparse.Namespace) -> int:
    return _change(settings, arguments, lambda jobs: jobs.pause(shell_actor(), arguments.id))


def _resume(settings: Settings, arguments: argparse.Namespace) -> int:
    return _change(settings, arguments, lambda jobs: jobs.resume(shell_actor(), arguments.id))


def _cancel(settings: Settings, arguments: argparse.Namespace) -> int:
    job = _with_jobs(settings, lambda jobs: jobs.find(shell_actor(), arguments.id))
    if job.state == "running":
        confirm(
            arguments,
            f"Cancel the {job.kind} job {job.id} for good? `myna jobs pause {job.id}` would keep its progress.",
        )
    return _change(settings, arguments, lambda jobs: jobs.cancel(shell_actor(), job.id))


def _priority(settings: Settings, arguments: argparse.Namespace) -> int:
    return _change(settings, arguments, lambda jobs: jobs.set_priority(shell_actor(), arguments.id, arguments.priority))


def _change(settings: Settings, arguments: argparse.Namespace, change: Callable[[Jobs], Awaitable[Job]]) -> int:
    job = _with_jobs(settings, change)
    print_value(job_display.job_row(job) if arguments.json else job_display.list_line(job))
    return 0


def _watch(settings: Settings, arguments: argparse.Namespace) -> int:
    job = _with_jobs(settings, lambda jobs: jobs.find(shell_actor(), arguments.id))
    return _wait(settings, job.id, as_json=arguments.json)


def _wait(settings: Settings, job_id: str, *, as_json: bool) -> int:
    """Show a job until it has ended, with `follow`, and return its exit code."""
    with job_display.display(as_json=as_json) as show:
        job = asyncio.run(follow(settings, job_id, show))
    if not as_json:
        say(
            f"The job is {job.state}."
            + (f" `myna jobs resume {job.id}` continues it." if job.state == "paused" else "")
        )
        for line in job_display.result_lines(job):
            (print_value if job.state == "done" else say)(line)
    return _exit_code(job)


def _exit_code(job: Job) -> int:
    """Return the exit code of a job: refused if it had too little to train on, or its version did not pass the gate."""
    if job.state == "refused" or (job.state == "done" and (job.result or {}).get("passed") is False):
        return REFUSED
    return DONE if job.state == "done" else FAILED


async def follow(settings: Settings, job_id: str, show: job_display.Show) -> Job:
    """Show a job until it has ended or was paused; start a worker of our own if no other takes the job."""
    from bot.access import installation
    from bot.jobs.control import Jobs
    from bot.jobs.worker_process import WorkerProcess
    from storage.schema import DEFAULT_WORKSPACE
    from storage.scope import Scope

    async with installation.open_database(settings, guest=True) as database:
        jobs = Jobs(Scope(database, DEFAULT_WORKSPACE))
        waited_for = await jobs.find(shell_actor(), job_id)
        worker = WorkerProcess(database, waited_for.device, patience=PATIENCE_SECONDS)
        try:
            async with asyncio.TaskGroup() as group:
                keeping = group.create_task(worker.keep(), name="keep-worker")
                try:
                    job = await _until_it_rests(jobs, job_id, show)
                except asyncio.CancelledError:
                    await _leave(jobs, worker, job_id)
                    raise
                finally:
                    keeping.cancel()
        finally:
            await worker.close(settings.grace_seconds)
    return job


async def _until_it_rests(jobs: Jobs, job_id: str, show: job_display.Show) -> Job:
    async for job in jobs.wait(shell_actor(), job_id):
        show(job)
        if job.state == "paused":
            break
    return job


async def _leave(jobs: Jobs, worker: WorkerProcess, job_id: str) -> None:
    """Handle Ctrl-C: pause the job if our own worker runs it; leave it to other workers else."""
    if not worker.is_running:
        say(f"The job continues on another worker; `myna jobs watch {job_id}` shows its progress.")
        return
    say("Pausing the job ...")
    try:
        await jobs.pause(shell_actor(), job_id)
    except Conflict:
        return
    async for job in jobs.wait(shell_actor(), job_id):
        if job.state != "running":
            break
    say(f"`myna jobs resume {job_id}` and `myna jobs watch {job_id}` continue it.")


def _worker(settings: Settings, arguments: argparse.Namespace) -> int:
    from adapters.cli import job_kinds
    from bot.access import installation
    from bot.jobs import worker
    from storage.jobs import DEVICES

    async def run() -> None:
        async with installation.open_database(settings, guest=True) as database:
            await worker.run(
                settings,
                database,
                job_kinds.all_tasks(),
                [arguments.device] if arguments.device else DEVICES,
                once=arguments.once,
                is_child=arguments.child,
                clean_up=job_kinds.clean_up,
            )

    asyncio.run(run())
    return 0
