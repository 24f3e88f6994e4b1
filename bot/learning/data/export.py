"""Conversations as rows in the chat `messages` form, for people and for training, and what the API was used for.

Knows: the form of a row. Does not know: where the lines go.
"""

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
# Of what a person said and what was said for the conversation (None: nothing), whether it may be learnt from.
MayLearn = Callable[[bool | None, bool | None], bool]
_ROLES = {"person": "user", "bot": "assistant", "agent": "assistant"}


async def export_rows(
    scope: Scope, *, since_ms: int = 0, channel: str | None = None, may_learn: MayLearn | None = None
) -> AsyncIterator[dict[str, Any]]:
    """One row a conversation, oldest first: `{"id", "channel", "title", "messages": [{"role", "content", ...}]}`.

    `may_learn` leaves out the words of those for whom it says no.
    """
    async for one in _pages(scope, since_ms, channel, may_learn):
        yield _row(one)


async def pair_rows(
    scope: Scope, *, may_learn: MayLearn, since_ms: int = 0, channel: str | None = None
) -> AsyncIterator[dict[str, Any]]:
    """Pairs to learn preferences from, each `{"prompt", "chosen", "rejected"}` of `{"role", "content"}` messages.

    They come from a human's answer in place of the bot's draft, and from better answers that people or staff wrote;
    never from the words of those for whom `may_learn` says no.
    """
    async for one in _pages(scope, since_ms, channel, may_learn):
        for number, answer in enumerate(one.messages):
            for chosen, rejected in _choices(answer):
                yield {
                    "prompt": _prompt(one, number),
                    "chosen": [{"role": "assistant", "content": chosen}],
                    "rejected": [{"role": "assistant", "content": rejected}],
                }


async def _pages(
    scope: Scope, since_ms: int, channel: str | None, may_learn: MayLearn | None
) -> AsyncIterator[ExportedConversation]:
    after = ""
    while page := await scope.read(exports.page, after, since_ms, channel):
        for one in page:
            if may_learn is None:
                yield one
            elif all(may_learn(said, one.may_learn) for said in _said_by_all(one)):
                yield _without_refused(one, may_learn)
        after = page[-1].id


def _said_by_all(one: ExportedConversation) -> list[bool | None]:
    """In a thread of several people, each is asked: what one said stands before what the others were answered."""
    return [one.person_may_learn, *(each.may_learn for each in one.messages if each.message.author == "person")]


def _without_refused(one: ExportedConversation, may_learn: MayLearn) -> ExportedConversation:
    """Without the votes of those who may not be learnt from; who votes need not have said anything in it."""

    def counted(each: ExportedMessage) -> ExportedMessage:
        return replace(each, votes=tuple(vote for vote in each.votes if may_learn(vote.may_learn, one.may_learn)))

    return replace(one, messages=tuple(map(counted, one.messages)))


async def usage_rows(scope: Scope, since_ms: int = 0) -> AsyncIterator[dict[str, Any]]:
    """What the API was used for, a request a row, oldest first. `key` is the name of who asked."""
    after = ""
    while page := await scope.read(api_keys.usage_page, after, since_ms):
        for row in page:
            after = row.pop("id")
            moment = datetime.datetime.fromtimestamp(row.pop("created_at") / 1000, datetime.UTC)
            yield {"time": moment.isoformat(timespec="milliseconds"), **row}


def _row(one: ExportedConversation) -> dict[str, Any]:
    # An imported conversation keeps the id of its file, so that it is known when it is imported again.
    row: dict[str, Any] = {
        "id": one.external_id if one.channel == IMPORTED else one.id,
        "channel": one.channel,
        "title": one.title,
        "group": one.split_group,
        "person": one.person_id,
        "may_learn": _consent(one),
    }
    said = [_turn(each) for each in one.messages]
    return _without_none(row) | {"messages": [*_system(one), *said]}


def _consent(one: ExportedConversation) -> bool | None:
    """What holds for the conversation; the no of anybody who wrote in it goes with their words."""
    said = {one.may_learn, one.person_may_learn}
    if any(each.may_learn is False for each in one.messages):
        return False
    return False if False in said else True if True in said else None


def _system(one: ExportedConversation) -> list[dict[str, str]]:
    return [{"role": "system", "content": one.instructions}] if one.instructions else []


def _turn(one: ExportedMessage) -> dict[str, Any]:
    message = one.message
    turn: dict[str, Any] = {
        "role": _ROLES[message.author],
        "content": message.text,
        "id": message.id,
        "created_at": message.created_at,
        "author": message.author if message.author != "person" else None,
        "state": message.reply_state,
        "draft": one.draft,
    }
    votes = [each for each in one.votes if each.may_learn is not False]
    if votes:  # the form has room for one: the newest
        newest = votes[-1]
        turn |= {"rating": newest.value, "reason": newest.reason, "better": newest.better}
    return _without_none(turn)


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _choices(answer: ExportedMessage) -> list[tuple[str, str]]:
    """`(better, worse)` of one answer. What staff wrote counts in place of what others did."""
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


def _prompt(one: ExportedConversation, number: int) -> list[dict[str, str]]:
    """What was said before an answer, as a model is shown it."""
    before = merge_same_role(to_chat(without_failures([each.message for each in one.messages[:number]])))
    return [*_system(one), *({"role": each.role, "content": each.content} for each in before)]
