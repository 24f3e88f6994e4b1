"""Following a reply from outside: live where it is made in this process, else as it is stored.

Knows: running turns, the stored reply, when to look again. Does not know: how replies are made.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator

from bot.chat.live import Batch, Ended, Live, Started, Text, Waiting, wait_for
from bot.chat.memory import Memory
from storage import conversations
from storage.database import Database, StorageUnavailable
from storage.values import Accepted, Message

POLL_SECONDS = 0.5
MAX_POLL_SECONDS = 4.0
SIGN_OF_LIFE_SECONDS = 15.0


class Following(Memory):
    """Stored conversations, and those replies that are being made here."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._live = Live()
        self._closed = False

    async def follow(self, workspace_id: str, accepted: Accepted) -> AsyncGenerator[Batch, None]:
        """The reply to an accepted message, from its start: live if it is made here, else some time after it is stored.

        Ends without `Ended` only when this process shuts down first.
        """
        conversation_id, seq = accepted.conversation_id, accepted.seq
        worth_a_look = accepted.duplicate
        with self._live.watch(conversation_id) as arrived:
            last_sign, patience = time.monotonic(), POLL_SECONDS
            while not self._closed:
                if (turn := self._live.find(conversation_id, seq)) is not None:
                    async for batch in turn.read(seq, SIGN_OF_LIFE_SECONDS):
                        yield batch
                        if isinstance(batch[-1], Ended):
                            return
                elif worth_a_look and (reply := await self._stored_reply(workspace_id, conversation_id, seq)):
                    ended = Ended(reply.reply_state or "answered", sources=reply.sources)
                    yield Started(reply.id), Text(reply.text), ended
                    return
                if not await wait_for(arrived, patience):
                    patience = min(patience * 2, MAX_POLL_SECONDS)
                arrived.clear()
                running = self._live.get(conversation_id)
                worth_a_look = running is None or running.first_seq > seq
                if time.monotonic() - last_sign >= SIGN_OF_LIFE_SECONDS:
                    last_sign = time.monotonic()
                    yield (Waiting(),)

    async def _stored_reply(self, workspace_id: str, conversation_id: str, seq: int) -> Message | None:
        try:
            return await self._database.read(conversations.reply_to, workspace_id, conversation_id, seq)
        except StorageUnavailable:
            return None
