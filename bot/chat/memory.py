"""What has been said, to look up: conversations by their channel's name, histories, how far each is answered.

Knows: storage's reads, and what hides earlier words or keeps the bot out of a thread. Does not know: how replies are
made.
"""

from __future__ import annotations

from bot.errors import NotFound
from storage import conversations, inbox
from storage.database import Database
from storage.values import Conversation, Message


class Memory:
    """The stored conversations of all channels."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, workspace_id: str, channel: str, key: str) -> Conversation:
        """The conversation a channel knows by `key`. Raises `NotFound`."""
        found = await self._database.read(conversations.find_conversation, workspace_id, channel, key)
        if found is None:
            raise NotFound("There is no such conversation.")
        return found

    async def list_of(self, workspace_id: str, channel: str, sender_key: str) -> list[Conversation]:
        """A person's conversations, the most recently used first."""
        return await self._database.read(conversations.list_conversations, workspace_id, channel, sender_key)

    async def history(self, workspace_id: str, conversation_id: str) -> list[Message]:
        """What was said, oldest first."""
        return await self._database.read(conversations.newest_messages, workspace_id, conversation_id)

    async def pending_seq(self, workspace_id: str, conversation_id: str) -> int | None:
        """The newest message that has no reply yet, if there is one."""
        done, enqueued = await self._database.read(inbox.progress, workspace_id, conversation_id)
        return enqueued if enqueued > done else None

    async def forget(self, workspace_id: str, conversation_id: str) -> None:
        """Show the model nothing from before now."""
        await self._database.write(conversations.forget_context, workspace_id, conversation_id)

    async def set_left(self, workspace_id: str, conversation_id: str, *, left: bool) -> None:
        """Leave a thread of several people, or come back to it."""
        await self._database.write(conversations.set_left, workspace_id, conversation_id, left=left)
