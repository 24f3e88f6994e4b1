"""Steering commands (`/myna ...`) in the web chat.

They come from a browser that is logged in to the admin page. Neither the line nor its answer becomes part of the
conversation; the answer is streamed as a notice.
"""

from __future__ import annotations

from typing import Protocol

from aiohttp import web

from adapters.http import sse
from adapters.web.ui_stream import HEADERS, UiStream
from bot.access.roles import Actor
from bot.chat.live import Ended, Started, Text
from bot.steering.line_grammar import begins_with_verb, is_steering
from bot.steering.line_words import say
from bot.steering.steering import Answer, Steering
from storage.values import new_id

# Tells our own page to keep the answer out of the chat.
NOTICE = {"X-Myna-Notice": "1"}


class Logins(Protocol):
    """Lookup of the admin login that a request carries."""

    async def actor_on_own_page(self, request: web.Request) -> Actor | None:
        """Return the logged-in account. None without a login, and for pages of other sites, which may not use it."""


class WebSteering:
    """Runs steering lines from browsers."""

    def __init__(self, steering: Steering, logins: Logins) -> None:
        self._steering = steering
        self._logins = logins

    async def answer(self, request: web.Request, text: str) -> Answer | None:
        """Run a steering line and return its answer; None for an ordinary message.

        A line with a steering verb is never a message, even after the login has expired: it may name things that the
        public must not read.
        """
        if not is_steering(text):
            return None
        actor = await self._logins.actor_on_own_page(request)
        if actor is not None:
            return await self._steering.run(actor, text, _locale(request))
        return Answer(say("not_logged_in", _locale(request)), is_refusal=True) if begins_with_verb(text) else None


def notice(answer: Answer, *, html: bool) -> web.Response:
    """Encode an answer as the complete stream of a reply."""
    encoder = UiStream(html=html)
    events = (Started(f"notice-{new_id()}"), Text(answer.whole_text), Ended("answered"))
    return web.Response(body=encoder.encode(events), headers=sse.HEADERS | HEADERS | NOTICE)


def _locale(request: web.Request) -> str:
    """Return the browser's preferred language."""
    return request.headers.get("Accept-Language", "").split(",")[0].split(";")[0].strip()
