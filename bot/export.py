"""Conversations as JSON lines in the chat `messages` form, for people and for training.

Knows: the form of a row. Does not know: where the lines go.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from storage import conversations
from storage.database import Database
from storage.values import Conversation, Message

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


def _row(one: Conversation, messages: list[Message]) -> dict[str, Any]:
    return {"id": one.id, "channel": one.channel, "title": one.title, "messages": [_turn(each) for each in messages]}


def _turn(message: Message) -> dict[str, Any]:
    turn = {"role": _ROLES[message.author], "content": message.text, "id": message.id, "created_at": message.created_at}
    if message.author == "agent":
        turn["author"] = "agent"
    if message.reply_state is not None:
        turn["state"] = message.reply_state
    return turn
