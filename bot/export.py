"""Conversations as rows in the chat `messages` form, for people and for training, and what the API was used for.

Knows: the form of a row. Does not know: where the lines go.
"""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator
from typing import Any

from storage import api_keys, conversations
from storage.database import Database
from storage.values import Conversation, Message

USAGE_COLUMNS = (
    "time", "key", "api_key_id", "endpoint", "model", "version", "prompt_tokens", "completion_tokens",
    "first_token_ms", "total_ms", "outcome",
)  # fmt: skip
_ROLES = {"person": "user", "bot": "assistant", "agent": "assistant"}


async def export_rows(
    database: Database, workspace_id: str, *, since_ms: int = 0, channel: str | None = None
) -> AsyncIterator[dict[str, Any]]:
    """One row a conversation, oldest first: `{"id", "channel", "title", "messages": [{"role", "content", ...}]}`."""
    after = ""
    while page := await database.read(conversations.export_page, workspace_id, after, since_ms, channel):
        for one, messages in page:
            yield _row(one, list(messages))
        after = page[-1][0].id


async def usage_rows(database: Database, workspace_id: str, since_ms: int = 0) -> AsyncIterator[dict[str, Any]]:
    """What the API was used for, a request a row, oldest first. `key` is the name of who asked."""
    after = ""
    while page := await database.read(api_keys.usage_page, workspace_id, after, since_ms):
        for row in page:
            after = row.pop("id")
            moment = datetime.datetime.fromtimestamp(row.pop("created_at") / 1000, datetime.UTC)
            yield {"time": moment.isoformat(timespec="milliseconds"), **row}


def _row(one: Conversation, messages: list[Message]) -> dict[str, Any]:
    return {"id": one.id, "channel": one.channel, "title": one.title, "messages": [_turn(each) for each in messages]}


def _turn(message: Message) -> dict[str, Any]:
    turn = {"role": _ROLES[message.author], "content": message.text, "id": message.id, "created_at": message.created_at}
    if message.author == "agent":
        turn["author"] = "agent"
    if message.reply_state is not None:
        turn["state"] = message.reply_state
    return turn
