"""Stored conversations, and replies followed while they are made.

A reply is read live where this process makes it, and from the database otherwise.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator

from bot.chat.live import Ended, Live, LiveEvents, Started, Text, Waiting, wait_for
from bot.errors import NotFound
from storage import conversations, inbox
from storage.database import Database, StorageUnavailable
from storage.values import Accepted, Conversation, Message

POLL_SECONDS = 0.5
MAX_POLL_SECONDS = 4.0
SIGN_OF_LIFE_SECONDS = 15.0


class ChatHistory:
    """The conversations of all channels: read their messages, follow a reply, and set where the model stops reading.

    `live` holds the replies that this process is making.
    """

    def __init__(self, database: Database, live: Live) -> None:
        self._database = database
        self._live = live
        self._closed = False

    async def find(self, workspace_id: str, channel: str, key: str) -> Conversation:
        """Return the conversation that a channel knows by `key`. Raises `NotFound`."""
        found = await self._database.read(conversations.find_conversation, workspace_id, channel, key)
        if found is None:
            raise NotFound("There is no such conversation.")
        return found

    async def list_of(self, workspace_id: str, channel: str, sender_key: str) -> list[Conversation]:
        """List a person's conversations, the most recently used first."""
        return await self._database.read(conversations.list_conversations, workspace_id, channel, sender_key)

    async def messages(self, workspace_id: str, conversation_id: str) -> list[Message]:
        """Return the newest messages of a conversation, oldest first."""
        return await self._database.read(conversations.newest_messages, workspace_id, conversation_id)

    async def pending_seq(self, workspace_id: str, conversation_id: str) -> int | None:
        """Return the number of the newest message if it has no reply yet, else None."""
        done, enqueued = await self._database.read(inbox.progress, workspace_id, conversation_id)
        return enqueued if enqueued > done else None

    async def forget(self, workspace_id: str, conversation_id: str) -> None:
        """Hide everything said before now from the model."""
        await self._database.write(conversations.forget_context, workspace_id, conversation_id)

    async def set_left(self, workspace_id: str, conversation_id: str, *, left: bool) -> None:
        """Leave a thread of several people, or return to it."""
        await self._database.write(conversations.set_left, workspace_id, conversation_id, left=left)

    async def follow(self, workspace_id: str, accepted: Accepted) -> AsyncGenerator[LiveEvents, None]:
        """Yield the reply to an accepted message from its start: live if it is made here, else soon after it is stored.

        Ends without `Ended` only when this process shuts down first.
        """
        conversation_id, seq = accepted.conversation_id, accepted.seq
        may_be_stored = accepted.duplicate
        with self._live.watch(conversation_id) as arrived:
            last_sign, patience = time.monotonic(), POLL_SECONDS
            while not self._closed:
                if (turn := self._live.find(conversation_id, seq)) is not None:
                    async for batch in turn.read(seq, SIGN_OF_LIFE_SECONDS):
                        yield batch
                        if isinstance(batch[-1], Ended):
                            return
                elif may_be_stored and (reply := await self._stored_reply(workspace_id, conversation_id, seq)):
                    ended = Ended(reply.reply_state or "answered", sources=reply.sources)
                    yield Started(reply.id), Text(reply.text), ended
                    return
                if not await wait_for(arrived, patience):
                    patience = min(patience * 2, MAX_POLL_SECONDS)
                arrived.clear()
                running = self._live.get(conversation_id)
                may_be_stored = running is None or running.first_seq > seq
                if time.monotonic() - last_sign >= SIGN_OF_LIFE_SECONDS:
                    last_sign = time.monotonic()
                    yield (Waiting(),)

    async def _stored_reply(self, workspace_id: str, conversation_id: str, seq: int) -> Message | None:
        try:
            return await self._database.read(conversations.reply_to, workspace_id, conversation_id, seq)
        except StorageUnavailable:
            return None

    def close(self) -> None:
        """End the streams of all readers; a reply that is not stored by now is made after the restart."""
        self._closed = True
