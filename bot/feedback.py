"""What people think of replies: the same for every channel.

Knows: who may vote on what, and that a person's newest vote counts. Does not know: buttons, forms, what is learnt.
"""

from __future__ import annotations

from bot.errors import NotFound
from storage import votes
from storage.database import Database
from storage.values import Sender
from storage.votes import RatedReply, Value, Vote

MAX_WORDS = 3_000


class Feedback:
    """Votes on replies, and better answers."""

    def __init__(self, database: Database, workspace_id: str) -> None:
        self._database = database
        self._workspace_id = workspace_id

    async def reply(self, channel: str, reply_id: str) -> RatedReply:
        """A reply that was given on a channel. Raises `NotFound`."""
        found = await self._database.read(votes.find_reply, self._workspace_id, channel, reply_id)
        if found is None:
            raise NotFound
        return found

    async def last_reply(self, channel: str, conversation_id: str) -> RatedReply:
        """The newest reply of a conversation. Raises `NotFound`."""
        found = await self._database.read(votes.last_reply, self._workspace_id, channel, conversation_id)
        if found is None:
            raise NotFound
        return found

    async def vote(
        self, reply: RatedReply, channel: str, voter: Sender, value: Value, reason: str = "", better: str = ""
    ) -> None:
        """Count an opinion in place of the person's earlier one on the same reply."""
        opinion = Vote(value, reason.strip()[:MAX_WORDS] or None, better.strip()[:MAX_WORDS] or None)
        await self._database.write(votes.cast, self._workspace_id, reply, channel, voter, opinion)

    async def votes_on(self, reply_id: str) -> list[Vote]:
        """The votes that count."""
        return await self._database.read(votes.votes_on, self._workspace_id, reply_id)
