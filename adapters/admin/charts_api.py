"""Admin routes for charts of jobs, evaluations, votes and canaries.

A chart is drawn in a thread, and only if the browser's cached one (ETag) is out of date.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import hashlib
import json
from collections.abc import Callable

from aiohttp import web

from adapters.admin.guard import Route
from bot.access.roles import Actor
from bot.errors import InvalidInput, NotFound
from bot.jobs.control import Jobs
from bot.learning.judge import charts
from bot.learning.judge.charts import DayOfVotes, Format
from bot.learning.judge.evaluation_report import report_from_json
from bot.learning.release import canary_watch
from bot.learning.release.canary_harm import GUARD_RAILS, CanarySettings
from storage import canary_outcomes, evaluations, releases, votes
from storage.scope import Scope

TYPES: dict[str, str] = {"svg": "image/svg+xml", "png": "image/png"}
VOTE_DAYS = 90
# Raised when the look of charts changes, so that no browser keeps the old ones.
LOOK = 1
_EPOCH = datetime.date(1970, 1, 1)


class ChartsApi:
    """Handlers for charts as SVG, or as PNG with `?format=png`."""

    def __init__(self, scope: Scope, jobs: Jobs) -> None:
        self._scope = scope
        self._jobs = jobs

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/admin/api/jobs/{id}/chart", "viewer", self.job),
            Route("GET", "/admin/api/evaluations/{id}/chart", "viewer", self.evaluation),
            Route("GET", "/admin/api/votes/chart", "viewer", self.votes),
            Route("GET", "/admin/api/canaries/{id}/{rail}/chart", "viewer", self.canary),
        ]

    async def job(self, request: web.Request, actor: Actor) -> web.Response:
        """Draw loss over steps: the series of held-out rows, and the training loss."""
        points = [point for point in await self._jobs.points(actor, request.match_info["id"]) if "loss" in point.series]
        held_out = [(point.step, point.value) for point in points if "held_out" in point.series]
        training = [(point.step, point.value) for point in points if "held_out" not in point.series]
        return await _chart_response(
            request, [training, held_out], lambda kind: charts.loss_chart(training, held_out, kind)
        )

    async def evaluation(self, request: web.Request, _: Actor) -> web.Response:
        found = await self._scope.read(evaluations.find, request.match_info["id"])
        if found is None:
            raise NotFound("There is no such evaluation.")
        report = report_from_json(found.report)
        return await _chart_response(request, found.id, lambda kind: charts.evaluation_chart(report, kind))

    async def votes(self, request: web.Request, _: Actor) -> web.Response:
        """Draw votes per day over the last 90 days."""
        counts = await self._scope.read(votes.by_day, VOTE_DAYS)
        days = [DayOfVotes(_EPOCH + datetime.timedelta(days=count.day), count.up, count.down) for count in counts]
        drawn_of = [[count.day, count.up, count.down] for count in counts]
        return await _chart_response(request, drawn_of, lambda kind: charts.votes_chart(days, kind))

    async def canary(self, request: web.Request, _: Actor) -> web.Response:
        """Draw a canary's course by one guard rail: `thumbs_down`, `hand_off`, `error` or `latency`."""
        known = await self._scope.read(releases.canaries)
        found = next((canary for canary in known if canary.id == request.match_info["id"]), None)
        if found is None:
            raise NotFound("There is no such trial.")
        rail = request.match_info["rail"]
        tried, now = await self._scope.read(canary_outcomes.tried_since, found.created_at)
        until = found.ended_at or now
        of_canary = [conversation for conversation in tried if conversation.began_at <= until]
        try:
            points = await asyncio.to_thread(canary_watch.points_of, of_canary, until, found, rail)
        except KeyError as error:
            raise NotFound(f'The trial has no guard rail "{rail}".') from error
        threshold = len(GUARD_RAILS) / CanarySettings(**found.settings).alpha
        drawn_of = [rail, threshold, [dataclasses.astuple(point) for point in points]]
        name = rail.replace("_", " ")
        return await _chart_response(request, drawn_of, lambda kind: charts.canary_chart(points, threshold, name, kind))


async def _chart_response(request: web.Request, drawn_of: object, draw: Callable[[Format], bytes]) -> web.Response:
    """Answer with a chart, or with 304 if the browser has it. `drawn_of` is all data that the chart shows."""
    kind = request.query.get("format", "svg")
    if kind not in ("svg", "png"):
        raise InvalidInput("`format` must be svg or png.", field="format")
    content = json.dumps([LOOK, kind, drawn_of])
    tag = f'"{hashlib.sha256(content.encode()).hexdigest()[:32]}"'
    # The browser asks each time; an unchanged chart is not drawn again.
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if request.headers.get("If-None-Match") == tag:
        return web.Response(status=304, headers=headers)
    body = await asyncio.to_thread(draw, kind)  # type: ignore[arg-type]
    return web.Response(body=body, headers={**headers, "Content-Type": TYPES[kind]})
