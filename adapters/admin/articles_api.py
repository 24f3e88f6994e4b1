"""Admin routes for articles and their sources.

Paths on the server's disk can't be added here: an account gives no right to read the server's files.
"""

from __future__ import annotations

from aiohttp import web

from adapters.admin.guard import Route
from adapters.admin.json_values import choice_of, json_response, number_in_query, text_of
from adapters.http.requests import read_json
from adapters.http.uploads import file_in
from bot.access.roles import Actor
from bot.errors import NotFound
from bot.knowledge.grounding import Grounding
from bot.knowledge.library import MAX_UPLOAD_BYTES, Library
from storage.knowledge_values import AUDIENCES

PAGE, MOST = 50, 1000
MAX_ADDRESS_CHARS, MAX_NAME_CHARS, MAX_QUESTION_CHARS = 2000, 200, 2000


class ArticlesApi:
    """Handlers: viewers read and try questions, trainers change."""

    def __init__(self, library: Library, grounding: Grounding) -> None:
        self._library = library
        self._grounding = grounding

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/admin/api/sources", "viewer", self.sources),
            Route("POST", "/admin/api/sources", "trainer", self.add),
            Route("POST", "/admin/api/sources/upload", "trainer", self.upload),
            Route("POST", "/admin/api/sources/sync", "trainer", self.sync),
            Route("POST", "/admin/api/sources/{id}/remove", "trainer", self.remove),
            Route("GET", "/admin/api/articles", "viewer", self.articles),
            Route("GET", "/admin/api/articles/{id}", "viewer", self.article),
            Route("POST", "/admin/api/articles/try", "viewer", self.try_out),
        ]

    async def sources(self, request: web.Request, actor: Actor) -> web.Response:
        """List the first sources, with their count, the progress of reading, and the limits of uploads."""
        known = await self._library.sources(actor)
        reading = await self._library.reading(actor)
        result = (reading.done.result if reading.done else None) or {}
        return json_response(
            {
                "sources": known[: _most_of(request)],
                "count": len(known),
                "underWay": reading.under_way,
                "ended": reading.ended,
                "unreadable": result.get("unreadable", ()),
                "numUnreadable": result.get("num_unreadable", 0),
                "maxBytes": MAX_UPLOAD_BYTES,
                "endings": self._library.endings,
            }
        )

    async def add(self, request: web.Request, actor: Actor) -> web.Response:
        body = await read_json(request)
        target, audience = text_of(body, "target", MAX_ADDRESS_CHARS), choice_of(body, "audience", AUDIENCES)
        source, job = await self._library.add_page(actor, target, audience)
        return json_response({"source": source, "job": job}, status=201)

    async def upload(self, request: web.Request, actor: Actor) -> web.Response:
        """Take a file as the body, with `name` and `audience` in the query."""
        name, audience = text_of(request.query, "name", MAX_NAME_CHARS), choice_of(request.query, "audience", AUDIENCES)
        source, job = await self._library.upload(actor, name, await file_in(request, MAX_UPLOAD_BYTES), audience)
        return json_response({"source": source, "job": job}, status=201)

    async def sync(self, request: web.Request, actor: Actor) -> web.Response:
        await read_json(request)
        return json_response({"job": await self._library.sync(actor)})

    async def remove(self, request: web.Request, actor: Actor) -> web.Response:
        await read_json(request)
        known = await self._library.sources(actor)
        source = next((source for source in known if source.id == request.match_info["id"]), None)
        if source is None:
            raise NotFound("This source is no longer here.")
        location, job = await self._library.remove(actor, source.location)
        return json_response({"removed": location, "job": job})

    async def articles(self, request: web.Request, actor: Actor) -> web.Response:
        """List the first articles by title, and count all; `text` and `audience` filter them."""
        text = text_of(request.query, "text", MAX_NAME_CHARS, optional=True)
        audience = choice_of(request.query, "audience", AUDIENCES) if request.query.get("audience") else None
        listed = await self._library.list(actor, text, audience, _most_of(request))
        return json_response({"articles": listed.articles, "count": listed.count, "most": MOST})

    async def article(self, request: web.Request, actor: Actor) -> web.Response:
        """Return an article with its source and its first passages."""
        shown = await self._library.show(actor, request.match_info["id"])
        sources = await self._library.sources(actor)
        return json_response(
            {
                "article": shown.article,
                "source": next((source for source in sources if source.id == shown.article.source_id), None),
                "passages": [
                    {"headings": headings, "text": text} for headings, text in shown.passages[: _most_of(request)]
                ],
                "count": len(shown.passages),
                "most": MOST,
            }
        )

    async def try_out(self, request: web.Request, _: Actor) -> web.Response:
        body = await read_json(request)
        question, audience = text_of(body, "question", MAX_QUESTION_CHARS), choice_of(body, "audience", AUDIENCES)
        return json_response({"tried": await self._grounding.try_out(audience, question)})


def _most_of(request: web.Request) -> int:
    """Return the number of rows to show."""
    return min(number_in_query(request, "most") or PAGE, MOST)
