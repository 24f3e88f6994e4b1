"""Links to cited articles: their own page, or their page here."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass

from storage.knowledge_values import Audience, audiences_of
from storage.values import Part

PATH = "/articles"
# Maps a cited source to its address, None if people can't reach one.
SourceLink = Callable[[Part], str | None]


@dataclass(frozen=True, slots=True)
class ArticleLinks:
    """Builds links to articles. `public_url` is this server's address if known, `audience` the readers of its pages."""

    public_url: str
    audience: Audience

    def link(self, source: Part, reached_at: str = "") -> str | None:
        """Return the address of a cited article: its own, or its page here. None if the reader can reach neither.

        `reached_at` is the base URL of the current request, used where `public_url` is not set.
        """
        if source["url"]:
            return str(source["url"])
        here = self.public_url.rstrip("/") or reached_at
        if not here or source["audience"] not in audiences_of(self.audience):
            return None
        return f"{here}{PATH}/{source['article']}/{urllib.parse.quote(source['name'], safe='')}"
