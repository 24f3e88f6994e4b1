"""`POST /v1/feedback`: votes and consent for conversations with memory.

OpenAI has no such route; errors are in the format of the other routes under /v1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from aiohttp import web

from adapters.http.openapi import BOOLEAN, TEXT, Fragment, about, answer, const, nullable, one_of_values, record, ref
from adapters.http.requests import parse_id, parse_words, read_json
from adapters.openai.api import CHANNEL, LIMIT_HEADERS, admit, conversation_key, key_operation
from adapters.openai.request_form import conversation_name
from adapters.openai.response_form import ChatAnswer
from bot.chat.feedback import MAX_WORDS, Feedback
from bot.chat.history import ChatHistory
from bot.completions.api_keys_access import ApiAccess
from bot.errors import InvalidInput, NotFound
from bot.privacy.learning_consent import Consent
from storage.values import Conversation, Sender
from storage.votes import RatedReply

# High, as a program passes on the votes of many people.
MOST_A_MINUTE = 600


@dataclass(frozen=True, slots=True)
class FeedbackRequest:
    """A parsed body. `reply` None means the newest reply; `value` 0 withdraws the vote, None leaves it."""

    conversation: str
    reply: str | None
    value: int | None
    reason: str | None
    better: str | None
    says_may_learn: bool
    may_learn: bool | None


class OpenAiFeedback:
    """Handler of a workspace's `/v1/feedback`."""

    def __init__(
        self, history: ChatHistory, feedback: Feedback, consent: Consent, access: ApiAccess, workspace_id: str
    ) -> None:
        self._history = history
        self._feedback = feedback
        self._consent = consent
        self._access = access
        self._workspace_id = workspace_id

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/v1/feedback", self.feedback)]

    def document(self) -> Fragment:
        return DOCUMENT

    async def feedback(self, request: web.Request) -> web.Response:
        """Apply a vote and a consent; repeating the request changes nothing."""
        caller = await admit(self._access, request)
        wanted = parse_feedback(await read_json(request))
        known = await self._find(conversation_key(caller, wanted.conversation))
        answer: dict[str, Any] = {"object": "feedback", "conversation": wanted.conversation}
        if wanted.value is not None:
            reply = await self._reply(known, wanted.reply)
            await self._vote(reply, caller.name, wanted)
            answer |= await self._counted(reply, caller.name)
        if wanted.says_may_learn:
            await self._consent.set_conversation(known.id, CHANNEL, caller.name, wanted.may_learn)
        said = await self._consent.choices(CHANNEL, caller.name, known.id)
        return web.json_response(answer | {"may_learn": said.conversation}, headers=request[LIMIT_HEADERS])

    async def _find(self, key: str) -> Conversation:
        try:
            return await self._history.find(self._workspace_id, CHANNEL, key)
        except NotFound:
            raise NotFound("This key has no such conversation.") from None

    async def _reply(self, known: Conversation, reply_id: str | None) -> RatedReply:
        try:
            if reply_id is None:
                return await self._feedback.last_reply(CHANNEL, known.id)
            reply = await self._feedback.reply(CHANNEL, reply_id.removeprefix(ChatAnswer.prefix))
        except NotFound:
            reply = None
        if reply is None or reply.conversation_id != known.id:
            raise NotFound("There is no such reply in this conversation.")
        return reply

    async def _vote(self, reply: RatedReply, caller: str, wanted: FeedbackRequest) -> None:
        if wanted.value == 0:
            await self._feedback.withdraw(reply, CHANNEL, caller)
            return
        await self._feedback.vote(
            reply,
            CHANNEL,
            Sender(caller),
            1 if wanted.value == 1 else -1,
            wanted.reason,
            wanted.better,
            most_a_minute=MOST_A_MINUTE,
        )

    async def _counted(self, reply: RatedReply, caller: str) -> dict[str, Any]:
        """Return the vote as it counts now; its words may come from an earlier vote of the same value."""
        found = await self._feedback.votes_of(CHANNEL, caller, reply.conversation_id)
        vote = next((vote for vote in found if vote.reply_id == reply.id and vote.replaced_at is None), None)
        return {
            "reply": ChatAnswer.prefix + reply.id,
            "value": vote.value if vote else 0,
            "reason": vote.reason if vote else None,
            "better": vote.better if vote else None,
        }


def parse_feedback(body: Mapping[str, Any]) -> FeedbackRequest:
    """Parse a body. Raises `InvalidInput`, or `TooLarge` for words that are too long."""
    value = body.get("value")
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value not in (-1, 0, 1)):
        _refuse("value", "must be 1 (good), -1 (bad), or 0 to withdraw the vote.")
    may_learn = body.get("may_learn")
    if may_learn is not None and not isinstance(may_learn, bool):
        _refuse("may_learn", "must be true, false, or null to take back what was said.")
    if value is None and "may_learn" not in body:
        _refuse("value", "is missing: 1 (good), -1 (bad), or 0 to withdraw the vote.")
    reply = None if body.get("reply") is None else parse_id(body["reply"], "reply")
    reason, better = parse_words(body, "reason", MAX_WORDS), parse_words(body, "better", MAX_WORDS)
    if value != -1 and better:
        _refuse("better", "goes with a `value` of -1.")
    if value in (None, 0) and reason:
        _refuse("reason", "goes with a `value` of 1 or -1.")
    name = conversation_name(body.get("conversation"), "conversation")
    return FeedbackRequest(name, reply, value, reason, better, "may_learn" in body, may_learn)


def _refuse(field: str, complaint: str) -> NoReturn:
    raise InvalidInput(f"`{field}` {complaint}", field=field)


_TAKES_BACK = "An empty text takes an earlier one back."

DOCUMENT = Fragment(
    operations={
        "POST /v1/feedback": key_operation(
            "createFeedback",
            "Vote on a reply, or set the learning consent",
            {
                200: answer(
                    "The vote as it counts now, and the learning consent for the conversation. A `value` of 0 means "
                    "no vote.",
                    ref("Feedback"),
                )
            },
            (400,),
            body=ref("FeedbackRequest"),
            description="For a conversation named by `metadata.conversation`. A new vote replaces the earlier one; "
            "repeating a request changes nothing.",
        )
    },
    schemas={
        "FeedbackRequest": record(
            {
                "conversation": about(TEXT, "The name given as `metadata.conversation`.")
                | {"minLength": 1, "maxLength": 128}
            },
            {
                "reply": about(
                    nullable(ref("Id")), "The `id` of the completion; by default the newest reply of the conversation."
                ),
                "value": about(
                    one_of_values(1, -1, 0, None),
                    "1 is good, -1 is bad, 0 withdraws the vote. Optional if `may_learn` is given.",
                ),
                "reason": about(
                    nullable(TEXT),
                    f"What was good or wrong; at most {MAX_WORDS:,} characters, and only beside 1 or -1. {_TAKES_BACK}",
                ),
                "better": about(
                    nullable(TEXT),
                    f"What would have been a better answer; at most {MAX_WORDS:,} characters, and only beside -1. "
                    f"{_TAKES_BACK}",
                ),
                "may_learn": about(
                    nullable(BOOLEAN), "Learning consent for this conversation; null takes the choice back."
                ),
            },
        ),
        "Feedback": record(
            {"object": const("feedback"), "conversation": TEXT, "may_learn": nullable(BOOLEAN)},
            {"reply": TEXT, "value": one_of_values(1, -1, 0), "reason": nullable(TEXT), "better": nullable(TEXT)},
            closed=True,
        ),
    },
)
