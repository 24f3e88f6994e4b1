"""Admin routes for the review queue of replies with complaints."""

from __future__ import annotations

from aiohttp import web

from adapters.admin.guard import Route
from adapters.admin.json_values import json_response, text_of
from adapters.http.requests import parse_id, read_json
from bot.access.roles import Actor
from bot.learning.data.review_queue import MAX_BETTER, Reviews
from storage.reviews import NEWEST

PAGE = 20


class ReviewsApi:
    """Handlers that approve, correct and exclude replies, and withdraw such decisions."""

    def __init__(self, reviews: Reviews) -> None:
        self._reviews = reviews

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/admin/api/feedback", "agent", self.queue),
            Route("POST", "/admin/api/feedback/{reply}/approve", "agent", self.approve),
            Route("POST", "/admin/api/feedback/{reply}/correct", "agent", self.correct),
            Route("POST", "/admin/api/feedback/{reply}/exclude", "agent", self.exclude),
            Route("POST", "/admin/api/feedback/{reply}/withdraw", "agent", self.withdraw),
        ]

    async def queue(self, request: web.Request, actor: Actor) -> web.Response:
        before = parse_id(request.query["before"], "before") if "before" in request.query else NEWEST
        page = await self._reviews.queue(actor, before, PAGE + 1)
        return json_response({"waiting": page[:PAGE], "more": len(page) > PAGE})

    async def approve(self, request: web.Request, actor: Actor) -> web.Response:
        await read_json(request)
        await self._reviews.approve(actor, request.match_info["reply"])
        return json_response({})

    async def correct(self, request: web.Request, actor: Actor) -> web.Response:
        """Store a better answer. It must not be empty: a cleared text does not accept the proposed one."""
        better = text_of(await read_json(request), "better", MAX_BETTER)
        return json_response({"better": await self._reviews.correct(actor, request.match_info["reply"], better)})

    async def exclude(self, request: web.Request, actor: Actor) -> web.Response:
        await read_json(request)
        await self._reviews.exclude(actor, request.match_info["reply"])
        return json_response({})

    async def withdraw(self, request: web.Request, actor: Actor) -> web.Response:
        await read_json(request)
        await self._reviews.withdraw(actor, request.match_info["reply"])
        return json_response({})
