"""Export of conversations, preference pairs and API usage as rows."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

from bot.generation.prompt import merge_same_role, to_chat, without_failures
from storage import api_keys, exports
from storage.exports import ExportedConversation, ExportedMessage
from storage.imports import CHANNEL as IMPORTED
from storage.scope import Scope

USAGE_COLUMNS = (
    "time",
    "key",
    "api_key_id",
    "endpoint",
    "model",
    "version",
    "prompt_tokens",
    "completion_tokens",
    "first_token_ms",
    "total_ms",
    "outcome",
)
# Decides from the consent of a person and of the conversation (None: undecided) if words may be learnt from.
MayLearn = Callable[[bool | None, bool | None], bool]
_ROLES = {"person": "user", "bot": "assistant", "agent": "assistant"}


async def export_rows(
    scope: Scope, *, since_ms: int = 0, channel: str | None = None, may_learn: MayLearn | None = None
) -> AsyncIterator[dict[str, Any]]:
    """Yield a row for each conversation, oldest first: `{"id", "channel", "messages": [{"role", "content", ...}]}`.

    Words of people for whom `may_learn` returns False are left out.
    """
    async for conversation in _pages(scope, since_ms, channel, may_learn):
        yield _row(conversation)


async def pair_rows(
    scope: Scope, *, may_learn: MayLearn, since_ms: int = 0, channel: str | None = None
) -> AsyncIterator[dict[str, Any]]:
    """Yield preference pairs `{"prompt", "chosen", "rejected"}`, each a list of `{"role", "content"}` messages.

    They come from a human's answer in place of the bot's draft, and from better answers that people or staff wrote.
    Words of people for whom `may_learn` returns False are left out.
    """
    async for conversation in _pages(scope, since_ms, channel, may_learn):
        for number, answer in enumerate(conversation.messages):
            for chosen, rejected in _choices(answer):
                yield {
                    "prompt": _prompt(conversation, number),
                    "chosen": [{"role": "assistant", "content": chosen}],
                    "rejected": [{"role": "assistant", "content": rejected}],
                }


async def _pages(
    scope: Scope, since_ms: int, channel: str | None, may_learn: MayLearn | None
) -> AsyncIterator[ExportedConversation]:
    after = ""
    while page := await scope.read(exports.page, after, since_ms, channel):
        for conversation in page:
            if may_learn is None:
                yield conversation
            elif all(may_learn(said, conversation.may_learn) for said in _said_by_all(conversation)):
                yield _without_refused(conversation, may_learn)
        after = page[-1].id


def _said_by_all(conversation: ExportedConversation) -> list[bool | None]:
    """Return the consent of every author: in a thread, an answer follows the words of several people."""
    return [
        conversation.person_may_learn,
        *(message.may_learn for message in conversation.messages if message.message.author == "person"),
    ]


def _without_refused(conversation: ExportedConversation, may_learn: MayLearn) -> ExportedConversation:
    """Drop the votes of people who refuse: a voter need not be an author in the conversation."""

    def counted(message: ExportedMessage) -> ExportedMessage:
        return replace(
            message, votes=tuple(vote for vote in message.votes if may_learn(vote.may_learn, conversation.may_learn))
        )

    return replace(conversation, messages=tuple(map(counted, conversation.messages)))


async def usage_rows(scope: Scope, since_ms: int = 0) -> AsyncIterator[dict[str, Any]]:
    """Yield a row for each API request, oldest first. `key` is the name of the API key."""
    after = ""
    while page := await scope.read(api_keys.usage_page, after, since_ms):
        for row in page:
            after = row.pop("id")
            moment = datetime.datetime.fromtimestamp(row.pop("created_at") / 1000, datetime.UTC)
            yield {"time": moment.isoformat(timespec="milliseconds"), **row}


def _row(conversation: ExportedConversation) -> dict[str, Any]:
    # An imported conversation keeps the id of its file, so that it is known when it is imported again.
    row: dict[str, Any] = {
        "id": conversation.external_id if conversation.channel == IMPORTED else conversation.id,
        "channel": conversation.channel,
        "title": conversation.title,
        "group": conversation.split_group,
        "person": conversation.person_id,
        "may_learn": _consent(conversation),
    }
    said = [_turn(each) for each in conversation.messages]
    return _without_none(row) | {"messages": [*_system(conversation), *said]}


def _consent(conversation: ExportedConversation) -> bool | None:
    """Return the consent for the conversation: False if any of its authors or the conversation refuses."""
    said = {conversation.may_learn, conversation.person_may_learn}
    if any(each.may_learn is False for each in conversation.messages):
        return False
    return False if False in said else True if True in said else None


def _system(conversation: ExportedConversation) -> list[dict[str, str]]:
    return [{"role": "system", "content": conversation.instructions}] if conversation.instructions else []


def _turn(exported: ExportedMessage) -> dict[str, Any]:
    message = exported.message
    turn: dict[str, Any] = {
        "role": _ROLES[message.author],
        "content": message.text,
        "id": message.id,
        "created_at": message.created_at,
        "author": message.author if message.author != "person" else None,
        "state": message.reply_state,
        "draft": exported.draft,
    }
    votes = [each for each in exported.votes if each.may_learn is not False]
    if votes:  # the form holds a single vote: the newest
        newest = votes[-1]
        turn |= {"rating": newest.value, "reason": newest.reason, "better": newest.better}
    return _without_none(turn)


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _choices(answer: ExportedMessage) -> list[tuple[str, str]]:
    """Return the `(better, worse)` texts of an answer. A decision of staff replaces the votes."""
    text, review = answer.message.text, answer.review
    found: list[tuple[str | None, str | None]]
    if review is not None and review.decision == "exclude":
        return []
    if answer.message.author == "agent":
        found = [(text, answer.draft)]
    elif review is not None and review.decision == "correct":
        found = [(review.better, text)]
    else:
        found = [(vote.better, text) for vote in answer.votes]
    return list(dict.fromkeys((good, bad) for good, bad in found if good and bad and good.strip() != bad.strip()))


def _prompt(conversation: ExportedConversation, number: int) -> list[dict[str, str]]:
    """Return the messages before an answer as the model reads them."""
    before = merge_same_role(to_chat(without_failures([each.message for each in conversation.messages[:number]])))
    return [*_system(conversation), *({"role": each.role, "content": each.content} for each in before)]
