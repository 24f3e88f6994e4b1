"""Where people read the articles that a reply cites.

Knows: the address of an article's page here, and for whom that page is. Does not know: who asks, how articles are kept.
"""

from __future__ import annotations

import urllib.parse
from dataclasses import dataclass

from storage.knowledge_values import Audience, audiences_of
from storage.values import Part

PATH = "/articles"


@dataclass(frozen=True, slots=True)
class ArticleLinks:
    """`public_url` is where people reach this server, if that is known; `audience` who may read articles there."""

    public_url: str
    audience: Audience

    def link(self, source: Part, reached_at: str = "") -> str | None:
        """The address of a cited article: its own, or of its page here. None if people can't reach either.

        `reached_at` is how the one who asks has reached this server.
        """
        if source["url"]:
            return str(source["url"])
        here = self.public_url.rstrip("/") or reached_at
        if not here or source["audience"] not in audiences_of(self.audience):
            return None
        return f"{here}{PATH}/{source['article']}/{urllib.parse.quote(source['name'], safe='')}"
