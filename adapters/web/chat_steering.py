"""Steering from the chat page: `/myna ...`, written in a browser that is logged in to the admin page.

Knows: when a message is such a line, and how its answer is streamed as a notice. Does not know: what a line does, how a
login is proved. Neither the line nor its answer becomes part of the conversation.
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

# Tells our own page that the answer is not part of the chat.
NOTICE = {"X-Myna-Notice": "1"}


class Logins(Protocol):
    """Who is logged in where a request comes from."""

    async def actor_on_own_page(self, request: web.Request) -> Actor | None:
        """None without a login, and for a page of another site, which may not use one."""


class WebSteering:
    """Lines from browsers."""

    def __init__(self, steering: Steering, logins: Logins) -> None:
        self._steering = steering
        self._logins = logins

    async def answer(self, request: web.Request, text: str) -> Answer | None:
        """The answer to a line that steers; None for what is a message like any other.

        A line with a verb of ours is never one, also after the login has ended: it may name what the public must not
        read.
        """
        if not is_steering(text):
            return None
        actor = await self._logins.actor_on_own_page(request)
        if actor is not None:
            return await self._steering.run(actor, text, _locale(request))
        return Answer(say("not_logged_in", _locale(request)), is_refusal=True) if begins_with_verb(text) else None


def notice(answer: Answer, *, html: bool) -> web.Response:
    """An answer as a whole stream of a reply."""
    encoder = UiStream(html=html)
    events = (Started(f"notice-{new_id()}"), Text(answer.whole_text), Ended("answered"))
    return web.Response(body=encoder.encode(events), headers=sse.HEADERS | HEADERS | NOTICE)


def _locale(request: web.Request) -> str:
    """The language that the browser likes best."""
    return request.headers.get("Accept-Language", "").split(",")[0].split(";")[0].strip()
