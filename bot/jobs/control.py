"""Job control: create, find, wait, pause, resume, cancel, set priority."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from bot.access.roles import Actor
from bot.errors import Conflict, InvalidInput, NotFound
from storage import jobs
from storage.jobs import Point, Request
from storage.learning_values import OPEN_STATES, Job
from storage.scope import Scope

MAX_PRIORITY = 100
MAX_ROWS = 10_000_000
MAX_SEARCH = 20
MAX_RATIO = {"learning_rate": 1.0, "epochs": 100.0}
POLL_SECONDS = 0.5
# The shown part of an id: its timestamp in milliseconds.
SHORT_ID = 12

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
_PREFIX = re.compile(r"[0-9a-f]{4,32}")
_TOO_LATE = {"pause": "paused", "resume": "resumed", "cancel": "cancelled"}


class Jobs:
    """The jobs of one workspace. A viewer may read them; changes need a trainer."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def train(self, actor: Actor, settings: Mapping[str, Any], priority: int = 0) -> Job:
        """Queue a training.

        `rows` limits the examples, `search` is the number of recipes to try, `name` is a label for people,
        `learning_rate` and `epochs` override the defaults; other settings are passed on to the task.

        Raises `InvalidInput`, and `Conflict` if an open training has the same settings.
        """
        chosen = {name: value for name, value in settings.items() if value is not None}
        _check_number(chosen, "rows", 1, MAX_ROWS)
        _check_number(chosen, "search", 1, MAX_SEARCH)
        for name in ("learning_rate", "epochs"):
            if name in chosen and not (isinstance(chosen[name], float) and 0 < chosen[name] <= MAX_RATIO[name]):
                raise InvalidInput(f"{name} must be a number above 0, and at most {MAX_RATIO[name]:g}.", field=name)
        if "name" in chosen and not (isinstance(chosen["name"], str) and _NAME.fullmatch(chosen["name"])):
            raise InvalidInput(
                "A name has up to 40 letters, digits and . _ -, and begins with a letter or digit.", field="name"
            )
        return await self.create(actor, "train", chosen, priority)

    async def create(self, actor: Actor, kind: str, settings: Mapping[str, Any], priority: int = 0) -> Job:
        """Queue a job of any kind; `settings` must be JSON values. Raises `Conflict` if the same job is open."""
        actor.check("trainer")
        _check_number({"priority": priority}, "priority", -MAX_PRIORITY, MAX_PRIORITY)
        job, is_new = await self._scope.write(jobs.create, actor.name, kind, settings, priority=priority)
        if not is_new:
            raise Conflict(
                f"The job {short_id(job)} is the same, and it is {job.state}. Wait for it, or choose other settings."
            )
        return job

    async def list(self, actor: Actor, most: int = 100) -> Sequence[Job]:
        """Return at most `most` jobs, newest first."""
        actor.check("viewer")
        return await self._scope.read(jobs.list_jobs, most)

    async def list_open(self, actor: Actor) -> Sequence[Job]:
        """Return the jobs that wait, run or are paused."""
        actor.check("viewer")
        return await self._scope.read(jobs.list_open)

    async def find(self, actor: Actor, id: str) -> Job:
        """Return the job by a prefix of its id. Raises `NotFound`, and `InvalidInput` if several jobs match."""
        actor.check("viewer")
        prefix = id.strip().lower()
        if not _PREFIX.fullmatch(prefix):
            raise InvalidInput(f"{id!r} is no id of a job: write 4 or more of its digits.", field="id")
        matches = await self._scope.read(jobs.find, prefix)
        if not matches:
            raise NotFound(f"There is no job {prefix}.", hint="list_jobs")
        if len(matches) > 1:
            raise InvalidInput(f"Several jobs begin with {prefix}; write more of the id.", field="id")
        return matches[0]

    async def points(self, actor: Actor, id: str) -> Sequence[Point]:
        """Return the points of a job's curves, by series and step."""
        job = await self.find(actor, id)
        return await self._scope.read(jobs.points, job.id)

    async def pause(self, actor: Actor, id: str) -> Job:
        """Pause a job at its next step, with a checkpoint. Raises `Conflict` if it neither waits nor runs."""
        return await self._request(actor, id, "pause")

    async def resume(self, actor: Actor, id: str) -> Job:
        """Resume a paused or failed job, or call a pause off. Raises `Conflict` in any other state."""
        return await self._request(actor, id, "resume")

    async def cancel(self, actor: Actor, id: str) -> Job:
        """Cancel a job, at its next step if it runs. Raises `Conflict` if it has ended."""
        return await self._request(actor, id, "cancel")

    async def set_priority(self, actor: Actor, id: str, priority: int) -> Job:
        """Set the priority in the queue; running jobs are not preempted. Raises `Conflict` if the job has ended."""
        actor.check("trainer")
        _check_number({"priority": priority}, "priority", -MAX_PRIORITY, MAX_PRIORITY)
        job = await self.find(actor, id)
        changed = await self._scope.write(jobs.set_priority, actor.name, job.id, priority)
        if changed is None:
            raise Conflict(f"The job {short_id(job)} has ended.")
        return changed

    async def wait(self, actor: Actor, id: str) -> AsyncIterator[Job]:
        """Yield the job now, and again after each change, until it has ended."""
        job = await self.find(actor, id)
        yield job
        while job.state in OPEN_STATES:
            await asyncio.sleep(POLL_SECONDS)
            newer = await self._scope.read(jobs.get, job.id)
            if newer is None:
                raise NotFound(f"The job {short_id(job)} is gone.")
            if newer != job:
                job = newer
                yield job

    async def _request(self, actor: Actor, id: str, request: Request) -> Job:
        actor.check("trainer")
        job = await self.find(actor, id)
        changed = await self._scope.write(jobs.request, actor.name, job.id, request)
        if changed is None:
            now = await self.find(actor, job.id)
            state = "about to be cancelled" if now.wanted == "cancel" else now.state
            raise Conflict(f"The job {short_id(job)} is {state}, and can't be {_TOO_LATE[request]}.")
        return changed


def short_id(job: Job) -> str:
    """Return the first characters of a job's id, as people see and type it."""
    return job.id[:SHORT_ID]


def _check_number(settings: Mapping[str, Any], name: str, low: int, high: int) -> None:
    value = settings.get(name, low)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidInput(f"{name} must be a whole number between {low:,} and {high:,}.", field=name)
