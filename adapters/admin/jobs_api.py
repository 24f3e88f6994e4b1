"""Admin routes for jobs: list, start, pause, resume and cancel."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from adapters.admin.guard import Route
from adapters.admin.json_values import json_response, number_of, optional_number
from adapters.http.requests import read_json
from bot.access.roles import Actor
from bot.errors import InvalidInput
from bot.jobs.control import Jobs

TRAINING_OPTIONS = ("rows", "search", "name")


class JobsApi:
    """Handlers for jobs and their progress."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/admin/api/jobs", "viewer", self.jobs),
            Route("GET", "/admin/api/jobs/{id}", "viewer", self.job),
            Route("POST", "/admin/api/jobs/train", "trainer", self.train),
            Route("POST", "/admin/api/jobs/{id}/pause", "trainer", self.pause),
            Route("POST", "/admin/api/jobs/{id}/resume", "trainer", self.resume),
            Route("POST", "/admin/api/jobs/{id}/cancel", "trainer", self.cancel),
            Route("POST", "/admin/api/jobs/{id}/priority", "trainer", self.set_priority),
        ]

    async def jobs(self, _: web.Request, actor: Actor) -> web.Response:
        return json_response({"jobs": await self._jobs.list(actor)})

    async def job(self, request: web.Request, actor: Actor) -> web.Response:
        job = await self._jobs.find(actor, request.match_info["id"])
        points = await self._jobs.points(actor, job.id)
        return json_response({"job": job, "series": sorted({point.series for point in points}), "points": len(points)})

    async def train(self, request: web.Request, actor: Actor) -> web.Response:
        body = await read_json(request)
        if unknown := set(body) - {*TRAINING_OPTIONS, "priority"}:
            raise InvalidInput(f"A training has no option {', '.join(sorted(unknown))}.", field="body")
        wanted: dict[str, Any] = {name: body[name] for name in TRAINING_OPTIONS if body.get(name) not in (None, "")}
        job = await self._jobs.train(actor, wanted, optional_number(body, "priority") or 0)
        return json_response({"job": job}, status=201)

    async def pause(self, request: web.Request, actor: Actor) -> web.Response:
        await read_json(request)
        return json_response({"job": await self._jobs.pause(actor, request.match_info["id"])})

    async def resume(self, request: web.Request, actor: Actor) -> web.Response:
        await read_json(request)
        return json_response({"job": await self._jobs.resume(actor, request.match_info["id"])})

    async def cancel(self, request: web.Request, actor: Actor) -> web.Response:
        await read_json(request)
        return json_response({"job": await self._jobs.cancel(actor, request.match_info["id"])})

    async def set_priority(self, request: web.Request, actor: Actor) -> web.Response:
        priority = number_of(await read_json(request), "priority")
        return json_response({"job": await self._jobs.set_priority(actor, request.match_info["id"], priority)})
