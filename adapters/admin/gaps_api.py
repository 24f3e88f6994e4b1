"""Admin routes for knowledge gaps: questions without an answer."""

from __future__ import annotations

import asyncio

from aiohttp import web

from adapters.admin.guard import Route
from adapters.admin.json_values import choice_of, json_response, text_of
from adapters.http.requests import read_json
from bot.access.roles import Actor
from bot.knowledge.knowledge_gaps import DAYS, PLACE_FOR_THE_ANSWER, Gap, Gaps
from storage.knowledge_values import AUDIENCES

MAX_DRAFT_CHARS = 100_000


class GapsApi:
    """Handlers: viewers read, trainers write articles and close gaps."""

    def __init__(self, gaps: Gaps) -> None:
        self._gaps = gaps
        # Each request compares all questions: several at once would slow down chats.
        self._one_at_a_time = asyncio.Lock()

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/admin/api/gaps", "viewer", self.gaps),
            Route("POST", "/admin/api/gaps/{id}/approve", "trainer", self.approve),
            Route("POST", "/admin/api/gaps/{id}/close", "trainer", self.close),
        ]

    async def gaps(self, _: web.Request, actor: Actor) -> web.Response:
        """List the gaps, most asked first."""
        async with self._one_at_a_time:
            found = await self._gaps.list(actor)
        return json_response(
            {"gaps": [_shown(gap) for gap in found], "days": DAYS, "placeForTheAnswer": PLACE_FOR_THE_ANSWER}
        )

    async def approve(self, request: web.Request, actor: Actor) -> web.Response:
        body = await read_json(request)
        text, audience = text_of(body, "text", MAX_DRAFT_CHARS), choice_of(body, "audience", AUDIENCES)
        async with self._one_at_a_time:
            source, job = await self._gaps.approve(actor, request.match_info["id"], text, audience)
        return json_response({"source": source, "job": job}, status=201)

    async def close(self, request: web.Request, actor: Actor) -> web.Response:
        await read_json(request)
        async with self._one_at_a_time:
            gap = await self._gaps.close(actor, request.match_info["id"])
        return json_response({"closed": gap.count})


def _shown(gap: Gap) -> dict[str, object]:
    """Return a gap as JSON, without the ids of its replies, which the page does not need."""
    return {
        "id": gap.id,
        "questions": gap.questions,
        "count": gap.count,
        "lastAskedAt": gap.last_asked_at,
        "draft": gap.draft,
    }
