"""The admin page's articles: where they come from, adding and removing them, what stands in them, trying a question.

Knows: its routes. Does not know: formats, how articles are read or found. Folders and files of
the server's own disk are not added here: an account is no reason to read them.
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
    """Look and try for everybody, change for trainers."""

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
        """The first places that articles come from, how many there are, how far they are read, and what can be sent."""
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
        """A file as the body; its name and audience stand in the address."""
        name, audience = text_of(request.query, "name", MAX_NAME_CHARS), choice_of(request.query, "audience", AUDIENCES)
        source, job = await self._library.upload(actor, name, await file_in(request, MAX_UPLOAD_BYTES), audience)
        return json_response({"source": source, "job": job}, status=201)

    async def sync(self, request: web.Request, actor: Actor) -> web.Response:
        await read_json(request)
        return json_response({"job": await self._library.sync(actor)})

    async def remove(self, request: web.Request, actor: Actor) -> web.Response:
        await read_json(request)
        known = await self._library.sources(actor)
        source = next((one for one in known if one.id == request.match_info["id"]), None)
        if source is None:
            raise NotFound("This source is no longer here.")
        location, job = await self._library.remove(actor, source.location)
        return json_response({"removed": location, "job": job})

    async def articles(self, request: web.Request, actor: Actor) -> web.Response:
        """The first articles by title, and how many there are; `text` and `audience` filter them."""
        text = text_of(request.query, "text", MAX_NAME_CHARS, optional=True)
        audience = choice_of(request.query, "audience", AUDIENCES) if request.query.get("audience") else None
        listed = await self._library.list(actor, text, audience, _most_of(request))
        return json_response({"articles": listed.articles, "count": listed.count, "most": MOST})

    async def article(self, request: web.Request, actor: Actor) -> web.Response:
        """An article, its source, and its first passages."""
        shown = await self._library.show(actor, request.match_info["id"])
        sources = await self._library.sources(actor)
        return json_response(
            {
                "article": shown.article,
                "source": next((one for one in sources if one.id == shown.article.source_id), None),
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
    """How many of a list to show."""
    return min(number_in_query(request, "most") or PAGE, MOST)
