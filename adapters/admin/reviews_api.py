"""The admin page's feedback queue: replies that somebody complained of, and what staff decide.

Knows: its routes. Does not know: what is learnt from a decision.
"""

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
    """Approve, correct, exclude, and take that back."""

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
        """What would have been better must be said here: a text that was cleared is no wish for what was proposed."""
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
