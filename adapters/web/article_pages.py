"""Article pages, the targets of citations. They need no script."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from html import escape

from aiohttp import web

from adapters.article_links import PATH, ArticleLinks
from adapters.http.markdown import render_markdown
from bot.errors import NotFound
from bot.knowledge.library import Library, Shown
from storage.knowledge_values import Audience

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Cache-Control": "no-cache",
}
MAX_LEVEL = 6
UNDETERMINED = "und"  # code for an undetermined language, ISO 639-2


class ArticlePages:
    """Pages of the articles that the web audience may read."""

    def __init__(self, library: Library, links: ArticleLinks, site_title: str) -> None:
        self._library = library
        self._audience: Audience = links.audience
        self._site_title = site_title

    def routes(self) -> list[web.RouteDef]:
        return [web.get(PATH + "/{id}/{name:[^/]+}", self.article)]

    async def article(self, request: web.Request) -> web.Response:
        try:
            shown = await self._library.read(self._audience, request.match_info["id"], request.match_info["name"])
        except NotFound as error:
            body = f"<h1>{escape(error.message)}</h1><p>It may have been taken out since it was cited.</p>"
            return self._page("404", body, 404)
        body = await asyncio.to_thread(article_html, shown)
        return self._page(shown.article.title, body, 200, language=shown.article.language)

    def _page(self, title: str, body: str, status: int, *, language: str | None = None) -> web.Response:
        text = (
            f'<!doctype html><html lang="{escape(language or UNDETERMINED)}"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">'
            f"<title>{escape(title)} - {escape(self._site_title)}</title>"
            '<link rel="stylesheet" href="/static/article.css"><link rel="icon" href="/favicon.ico"></head>'
            f"<body><main>{body}</main></body></html>"
        )
        return web.Response(text=text, status=status, content_type="text/html", headers=_HEADERS)


def article_html(shown: Shown) -> str:
    """Render an article: its passages under their headings."""
    parts = [f"<h1>{escape(shown.article.title)}</h1>"]
    before: Sequence[str] = ()
    for headings, text in shown.passages:
        parts += _new_headings(before, headings)
        parts.append(render_markdown(text))
        before = headings
    return "".join(parts)


def _new_headings(before: Sequence[str], now: Sequence[str]) -> list[str]:
    """Return the headings that the passage before did not have, each at its level."""
    same = 0
    while same < min(len(before), len(now)) and before[same] == now[same]:
        same += 1
    levels = ((min(number + 2, MAX_LEVEL), now[number]) for number in range(same, len(now)))
    return [f"<h{level}>{escape(text)}</h{level}>" for level, text in levels]
