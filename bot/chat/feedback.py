"""What people think of replies: the same for every channel.

Knows: who may vote on what, and that a person's newest vote counts. Does not know: buttons, forms, what is learnt.
"""

from __future__ import annotations

from bot.errors import NotFound, QuotaExceeded
from storage import votes
from storage.scope import Scope
from storage.values import Sender
from storage.votes import PastVote, RatedReply, TooManyVotes, Value, Vote

MAX_WORDS = 3_000
MOST_A_MINUTE = 60


class Feedback:
    """Votes on replies, and better answers."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def reply(self, channel: str, reply_id: str) -> RatedReply:
        """A reply that was given on a channel. Raises `NotFound`."""
        found = await self._scope.read(votes.find_reply, channel, reply_id)
        if found is None:
            raise NotFound("There is no such reply.")
        return found

    async def last_reply(self, channel: str, conversation_id: str) -> RatedReply:
        """The newest reply of a conversation. Raises `NotFound`."""
        found = await self._scope.read(votes.last_reply, channel, conversation_id)
        if found is None:
            raise NotFound("There is no such reply.")
        return found

    async def vote(
        self,
        reply: RatedReply,
        channel: str,
        voter: Sender,
        value: Value,
        reason: str | None = None,
        better: str | None = None,
        *,
        most_a_minute: int = MOST_A_MINUTE,
    ) -> None:
        """Count an opinion in place of the person's earlier one on the same reply. The same once more changes nothing.

        Words that are left out (None) are those of the earlier one if its value is the same; empty ones take those
        back. Raises `QuotaExceeded` for more votes than a person gives.
        """
        opinion = Vote(value, _kept(reason), _kept(better))
        try:
            await self._scope.write(votes.cast, reply, channel, voter, opinion, most_a_minute)
        except TooManyVotes as error:
            raise QuotaExceeded(
                f"These are more than {most_a_minute} votes within a minute. Wait a little and send this one again; "
                "the others are kept.",
                retry_after=error.retry_after_ms / 1000,
            ) from error

    async def withdraw(self, reply: RatedReply, channel: str, sender_key: str) -> None:
        """Let a person's vote no longer count."""
        await self._scope.write(votes.withdraw, reply, channel, sender_key)

    async def votes_of(self, channel: str, sender_key: str, conversation_id: str) -> list[PastVote]:
        """All that a person has voted in a conversation, oldest first, with what no longer counts."""
        return await self._scope.read(votes.votes_of, channel, sender_key, conversation_id)

    async def votes_on(self, reply_id: str) -> list[Vote]:
        """The votes that count."""
        return await self._scope.read(votes.votes_on, reply_id)


def _kept(words: str | None) -> str | None:
    return None if words is None else words.strip()[:MAX_WORDS]
