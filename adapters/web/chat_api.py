"""HTTP handlers of the web chat under /api.

A visitor's chats have a name space of their own, so another visitor's chat id does not exist for them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import Any

from aiohttp import web

from adapters.article_links import ArticleLinks, SourceLink
from adapters.http.markdown import render_markdown
from adapters.http.openapi import Fragment
from adapters.http.requests import RegenerateRequest, SubmitRequest, parse_chat, parse_id, read_json
from adapters.http.sse import send_events
from adapters.web.chat_document import DOCUMENT
from adapters.web.chat_steering import WebSteering, notice
from adapters.web.ui_stream import HEADERS, UiStream, citations, source_part
from adapters.web.visitors import Visitors
from bot.chat.feedback import Feedback
from bot.chat.live import LiveEvents
from bot.chat.turns import Conversations
from bot.errors import Conflict, InvalidInput, NotFound
from bot.metrics import Metrics
from storage.values import Accepted, Conversation, Incoming, Message, Sender, new_id, text_part
from storage.votes import PastVote

CHANNEL = "web"


@dataclass(frozen=True, slots=True)
class ChatPage:
    """Settings that the chat page shows."""

    title: str
    greeting: str
    max_message_chars: int


class ChatApi:
    """Handlers of a workspace's web chat."""

    def __init__(
        self,
        conversations: Conversations,
        feedback: Feedback,
        visitors: Visitors,
        page: ChatPage,
        metrics: Metrics,
        steering: WebSteering,
        links: ArticleLinks,
        workspace_id: str,
    ) -> None:
        self._links = links
        self._steering = steering
        self._conversations = conversations
        self._history = conversations.history
        self._feedback = feedback
        self._visitors = visitors
        self._page = page
        self._metrics = metrics
        self._workspace_id = workspace_id

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/config", self.config),
            web.post("/api/visitor", self.visitor),
            web.get("/api/chats", self.chats),
            web.post("/api/chat", self.chat),
            web.get("/api/chat/{id}", self.history),
            web.get("/api/chat/{id}/stream", self.stream, allow_head=False),
            web.post("/api/chat/{id}/stop", self.stop),
        ]

    def document(self) -> Fragment:
        return DOCUMENT

    async def config(self, _: web.Request) -> web.Response:
        page = self._page
        return web.json_response(
            {"title": page.title, "greeting": page.greeting, "maxMessageChars": page.max_message_chars}
        )

    async def visitor(self, request: web.Request) -> web.Response:
        await read_json(request)
        visitor, token = self._visitors.welcome(request)
        response = web.json_response({"visitor": visitor, "token": token}, headers={"Cache-Control": "no-store"})
        self._visitors.set_cookie(response, visitor)
        return response

    async def chats(self, request: web.Request) -> web.Response:
        visitor = self._visitors.identify(request)
        found = await self._history.list_of(self._workspace_id, CHANNEL, visitor)
        return web.json_response({"chats": [_chat_summary(conversation) for conversation in found]})

    async def history(self, request: web.Request) -> web.Response:
        visitor = self._visitors.identify(request)
        known = await self._own_conversation(request)
        # In this order: a reply stored in between may be shown as running, but is never missing.
        running = await self._history.pending_seq(self._workspace_id, known.id) is not None
        messages = await self._history.messages(self._workspace_id, known.id)
        own_votes = await self._feedback.votes_of(CHANNEL, visitor, known.id)
        current = {vote.reply_id: vote for vote in own_votes if vote.replaced_at is None}
        link = self._link(request)
        shown = await asyncio.to_thread(
            lambda: [_to_ui(message, current.get(message.id), link) for message in messages]
        )
        return web.json_response({**_chat_summary(known), "running": running, "messages": shown})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        visitor = self._visitors.identify(request)
        wanted = parse_chat(await read_json(request), self._page.max_message_chars)
        asked = wanted if isinstance(wanted, SubmitRequest) else wanted.asked
        if asked is not None and (answer := await self._steering.answer(request, asked.text)):
            return await asyncio.to_thread(notice, answer, html=request.query.get("html") == "1")
        if isinstance(wanted, SubmitRequest):
            accepted = await self._accept(visitor, wanted)
        else:
            accepted = await self._regenerate(visitor, wanted)
        return await self._stream(request, accepted)

    async def _accept(self, visitor: str, wanted: SubmitRequest) -> Accepted:
        return await self._conversations.accept(self._workspace_id, _incoming(visitor, wanted))

    async def _regenerate(self, visitor: str, wanted: RegenerateRequest) -> Accepted:
        """Request another reply. The AI SDK also retries failed sends this way; then the message or edit may be new."""
        try:
            known = await self._history.find(self._workspace_id, CHANNEL, chat_key(visitor, wanted.chat_id))
        except NotFound:
            if wanted.asked is None:
                raise
            return await self._accept(visitor, wanted.asked)
        # Read first, so that a reply stored in between is not taken for missing.
        pending = await self._history.pending_seq(self._workspace_id, known.id)
        said = await self._history.messages(self._workspace_id, known.id)
        newest = next((message for message in reversed(said) if message.author == "person"), None)
        if wanted.asked is not None:
            stored = next(
                (message for message in reversed(said) if message.external_id == wanted.asked.message_id), None
            )
            if stored is None:
                return await self._accept(visitor, wanted.asked)
            if stored.text != wanted.asked.text:
                return await self._accept(visitor, replace(wanted.asked, replaces=wanted.asked.message_id))
            if stored is not newest:
                raise Conflict("Something newer was said. Reload the conversation.")
        if pending is not None:
            return Accepted(known.id, pending, duplicate=True)
        if newest is None:
            raise Conflict("There is no message to reply to.")
        reply_id = said[-1].id if wanted.target in (None, newest.external_id) else wanted.target
        dedupe_key = f"{chat_key(visitor, wanted.chat_id)}/again/{reply_id}"
        return await self._conversations.regenerate(self._workspace_id, known, reply_id, f"{CHANNEL}/{dedupe_key}")

    async def stream(self, request: web.Request) -> web.StreamResponse:
        known = await self._own_conversation(request)
        seq = await self._history.pending_seq(self._workspace_id, known.id)
        if seq is None:
            return web.Response(status=204)
        return await self._stream(request, Accepted(known.id, seq, duplicate=True))

    async def stop(self, request: web.Request) -> web.Response:
        known = await self._own_conversation(request)
        stream_id = (await read_json(request)).get("streamId")
        if stream_id is not None and not isinstance(stream_id, str):
            raise InvalidInput("`streamId` must be a string or null.", field="streamId")
        stopped = await self._conversations.stop(self._workspace_id, known.id, stream_id)
        return web.json_response({"stopped": stopped})

    async def _own_conversation(self, request: web.Request) -> Conversation:
        visitor = self._visitors.identify(request)
        chat_id = parse_id(request.match_info["id"], "id")
        return await self._history.find(self._workspace_id, CHANNEL, chat_key(visitor, chat_id))

    async def _stream(self, request: web.Request, accepted: Accepted) -> web.StreamResponse:
        """Stream the reply to a message. A reader who leaves or is too slow ends only this stream."""
        encoder = UiStream(html=request.query.get("html") == "1", link=self._link(request))
        events = self._history.follow(self._workspace_id, accepted)
        with self._metrics.streams.track_inprogress():
            return await send_events(request, _encoded(encoder, events), HEADERS)

    def _link(self, request: web.Request) -> SourceLink:
        return lambda source: self._links.link(source, f"{request.scheme}://{request.host}")


async def _encoded(encoder: UiStream, events: AsyncGenerator[LiveEvents, None]) -> AsyncGenerator[bytes, None]:
    """Encode a whole stream. If this process shuts down first, the stream ends with an abort, to be resumed."""
    async with contextlib.aclosing(events):
        async for batch in events:
            yield await asyncio.to_thread(encoder.encode, batch) if encoder.is_slow else encoder.encode(batch)
            if encoder.finished:
                return
    yield encoder.broken_off("restarting")


def chat_key(visitor: str, chat_id: str) -> str:
    """Return a visitor's chat's key in storage. Ids contain no slash."""
    return f"{visitor}/{chat_id}"


def _incoming(visitor: str, wanted: SubmitRequest) -> Incoming:
    key = chat_key(visitor, wanted.chat_id)
    dedupe_key = f"{CHANNEL}/{key}/{wanted.message_id}"
    if wanted.replaces == wanted.message_id:
        # The AI SDK edits a message under its old id, so the id cannot tell a second delivery from an edit. Each then
        # counts as an edit: if it comes twice, one message and one reply are left all the same.
        dedupe_key += f"/edit/{new_id()}"
    return Incoming(
        channel=CHANNEL,
        conversation_key=key,
        sender=Sender(visitor),
        dedupe_key=dedupe_key,
        parts=(text_part(wanted.text),),
        external_id=wanted.message_id,
        replaces=wanted.replaces,
        may_learn=wanted.may_learn,
    )


def _chat_summary(conversation: Conversation) -> dict[str, Any]:
    chat_id = conversation.external_id.partition("/")[2]
    return {"id": chat_id, "title": conversation.title, "updatedAt": conversation.updated_at}


def _to_ui(message: Message, vote: PastVote | None, link: SourceLink) -> dict[str, Any]:
    """Convert a message to the AI SDK's UI form, with its rendered text and the visitor's vote."""
    by_person = message.author == "person"
    opinion = None if vote is None else {"value": vote.value, "reason": vote.reason, "better": vote.better}
    return {
        "id": message.external_id if by_person and message.external_id else message.id,
        "role": "user" if by_person else "assistant",
        "parts": [source_part(part, link) if part["type"] == "source" else part for part in message.parts],
        "html": None if by_person else render_markdown(message.text, citations(message.sources, link)),
        "metadata": {"state": message.reply_state, "createdAt": message.created_at, "vote": opinion},
    }
