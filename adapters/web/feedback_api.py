"""HTTP handlers for visitors' votes and learning consent.

Visitors reach only their own chats, as in `adapters.web.chat_api`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from adapters.http.openapi import (
    BOOLEAN,
    TEXT,
    Fragment,
    JsonObject,
    about,
    answer,
    array,
    error_answer,
    nullable,
    one_of_values,
    record,
    ref,
)
from adapters.http.requests import parse_choice, parse_id, parse_words, read_json
from adapters.web.chat_api import CHANNEL, chat_key
from adapters.web.chat_document import CHAT_ID, OPINION, visitor_operation
from adapters.web.visitors import Visitors
from bot.chat.feedback import MAX_WORDS, Feedback
from bot.chat.history import ChatHistory
from bot.errors import InvalidInput, NotFound
from bot.privacy.learning_consent import Consent
from storage.values import Conversation, Sender
from storage.votes import PastVote, RatedReply


class WebFeedback:
    """Handlers of votes and consent in a workspace's web chat."""

    def __init__(
        self, history: ChatHistory, visitors: Visitors, feedback: Feedback, consent: Consent, workspace_id: str
    ) -> None:
        self._history = history
        self._visitors = visitors
        self._feedback = feedback
        self._consent = consent
        self._workspace_id = workspace_id

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/chat/{id}/votes", self.votes),
            web.post("/api/chat/{id}/votes", self.vote),
            web.get("/api/privacy", self.privacy),
            web.post("/api/privacy", self.set_privacy),
            web.get("/api/chat/{id}/privacy", self.chat_privacy),
            web.post("/api/chat/{id}/privacy", self.set_chat_privacy),
        ]

    def document(self) -> Fragment:
        return DOCUMENT

    async def votes(self, request: web.Request) -> web.Response:
        visitor = self._visitors.identify(request)
        known = await self._own_conversation(request, visitor)
        found = await self._feedback.votes_of(CHANNEL, visitor, known.id)
        return web.json_response({"votes": [_vote(vote) for vote in found]})

    async def vote(self, request: web.Request) -> web.Response:
        """Cast or withdraw a vote; repeating the request changes nothing."""
        visitor = self._visitors.identify(request)
        body = await read_json(request)
        reply_id, value = parse_id(body.get("replyId"), "replyId"), _value(body)
        # None keeps the words of an earlier vote, and "" takes them back.
        reason, better = parse_words(body, "reason", MAX_WORDS), parse_words(body, "better", MAX_WORDS)
        known = await self._own_conversation(request, visitor)
        reply = await self._reply(known, reply_id)
        if value == 0:
            await self._feedback.withdraw(reply, CHANNEL, visitor)
        else:
            voter = Sender(visitor)
            await self._feedback.vote(reply, CHANNEL, voter, 1 if value > 0 else -1, reason, better)
        found = await self._feedback.votes_of(CHANNEL, visitor, known.id)
        current = next((vote for vote in found if vote.reply_id == reply.id and vote.replaced_at is None), None)
        return web.json_response({"vote": _vote(current) if current else None})

    async def _reply(self, known: Conversation, reply_id: str) -> RatedReply:
        try:
            reply = await self._feedback.reply(CHANNEL, reply_id)
        except NotFound:
            reply = None
        if reply is None or reply.conversation_id != known.id:
            raise NotFound("There is no such reply in this conversation.")
        return reply

    async def privacy(self, request: web.Request) -> web.Response:
        return await self._choices(self._visitors.identify(request), None)

    async def set_privacy(self, request: web.Request) -> web.Response:
        visitor = self._visitors.identify(request)
        choice = _choice(await read_json(request))
        await self._consent.set_person(CHANNEL, Sender(visitor), choice)
        return await self._choices(visitor, None)

    async def chat_privacy(self, request: web.Request) -> web.Response:
        visitor = self._visitors.identify(request)
        return await self._choices(visitor, await self._own_conversation(request, visitor))

    async def set_chat_privacy(self, request: web.Request) -> web.Response:
        visitor = self._visitors.identify(request)
        choice = _choice(await read_json(request))
        known = await self._own_conversation(request, visitor)
        await self._consent.set_conversation(known.id, CHANNEL, visitor, choice)
        return await self._choices(visitor, known)

    async def _choices(self, visitor: str, known: Conversation | None) -> web.Response:
        said = await self._consent.choices(CHANNEL, visitor, known.id if known else None)
        return web.json_response(
            {
                "policy": self._consent.policy,
                "allChats": said.person,
                "thisChat": said.conversation,
                "mayLearn": self._consent.allows(said),
            }
        )

    async def _own_conversation(self, request: web.Request, visitor: str) -> Conversation:
        chat_id = parse_id(request.match_info["id"], "id")
        return await self._history.find(self._workspace_id, CHANNEL, chat_key(visitor, chat_id))


def _value(body: Mapping[str, Any]) -> int:
    value = body.get("value")
    if isinstance(value, bool) or not isinstance(value, int) or value not in (-1, 0, 1):
        raise InvalidInput("`value` must be 1 (good), -1 (bad), or 0 to withdraw your vote.", field="value")
    return value


def _choice(body: Mapping[str, Any]) -> bool | None:
    return parse_choice({"mayLearn": "missing", **body})


def _vote(vote: PastVote) -> JsonObject:
    return {
        "replyId": vote.reply_id,
        "value": vote.value,
        "reason": vote.reason,
        "better": vote.better,
        "createdAt": vote.created_at,
        "replacedAt": vote.replaced_at,
    }


def _privacy_operation(operation_id: str, summary: str, chat: bool, body: JsonObject | None = None) -> JsonObject:
    said = answer("The choices, and what follows from them.", ref("Privacy"))
    return visitor_operation(operation_id, summary, said, parameters=(CHAT_ID,) if chat else (), body=body)


_STAYS = "Left out, that of an earlier vote of the same value stays. An empty text takes it back."

DOCUMENT = Fragment(
    operations={
        "GET /api/chat/{id}/votes": visitor_operation(
            "getVotes",
            "The visitor's votes in a chat",
            answer(
                "All of them, oldest first, with those that no longer count.", record({"votes": array(ref("Vote"))})
            ),
            parameters=(CHAT_ID,),
        ),
        "POST /api/chat/{id}/votes": visitor_operation(
            "vote",
            "Say what a reply was worth",
            answer("The vote as it counts now; null once it is withdrawn.", record({"vote": nullable(ref("Vote"))})),
            parameters=(CHAT_ID,),
            body=ref("VoteRequest"),
            errors=(429,),
            description="One vote counts for each reply; a new one takes the place of the earlier one. The same "
            "request once more changes nothing.",
        ),
        "GET /api/chat/{id}/privacy": _privacy_operation(
            "getChatPrivacy", "Read the learning consent for a chat", True
        ),
        "POST /api/chat/{id}/privacy": _privacy_operation(
            "setChatPrivacy", "Set the consent for a chat", True, ref("PrivacyRequest")
        ),
        "GET /api/privacy": _privacy_operation("getPrivacy", "Read the consent for all chats", False),
        "POST /api/privacy": _privacy_operation(
            "setPrivacy", "Set the consent for all chats", False, ref("PrivacyRequest")
        ),
    },
    responses={
        "TooMany": error_answer(
            "Rate limit of votes exceeded; Retry-After says when to send this vote again. The others are kept.",
            "Error",
            retry_after=True,
        )
    },
    schemas={
        "Vote": record(
            {
                "replyId": TEXT,
                **OPINION,
                "createdAt": ref("Time"),
                "replacedAt": about(
                    nullable(ref("Time")), "Time of its replacement or withdrawal; null while it counts."
                ),
            },
            closed=True,
        ),
        "VoteRequest": record(
            {
                "replyId": about(
                    ref("Id"), "The reply's id, as in GET /api/chat/{id} and as the `messageId` of a stream's start."
                ),
                "value": about(one_of_values(1, -1, 0), "1 is good, -1 is bad, 0 withdraws the vote."),
            },
            {
                "reason": about(nullable(TEXT), f"What was good or wrong; at most {MAX_WORDS:,} characters. {_STAYS}"),
                "better": about(
                    nullable(TEXT), f"What would have been a better answer; at most {MAX_WORDS:,} characters. {_STAYS}"
                ),
            },
        ),
        "Privacy": record(
            {
                "policy": about(
                    one_of_values("opt-out", "opt-in"),
                    "Default for people without a choice: opt-out learns from them, opt-in does not.",
                ),
                "allChats": about(nullable(BOOLEAN), "The visitor's choice for all chats; null: none."),
                "thisChat": about(nullable(BOOLEAN), "The choice for this chat; null: none, or no chat was asked for."),
                "mayLearn": about(BOOLEAN, "The result. A no in either choice always wins."),
            },
            closed=True,
        ),
        "PrivacyRequest": record({"mayLearn": about(nullable(BOOLEAN), "Null takes the choice back.")}),
    },
)
