"""Votes and corrections on replies, for every channel.

Only a person's newest vote on a reply counts.
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
    """Cast, withdraw and read votes; a vote may carry a reason and a better answer."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def reply(self, channel: str, reply_id: str) -> RatedReply:
        """Return a reply of a channel. Raises `NotFound`."""
        found = await self._scope.read(votes.find_reply, channel, reply_id)
        if found is None:
            raise NotFound("There is no such reply.")
        return found

    async def last_reply(self, channel: str, conversation_id: str) -> RatedReply:
        """Return the newest reply of a conversation. Raises `NotFound`."""
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
        """Cast a vote in place of the voter's earlier one on the reply. Repeating a vote changes nothing.

        `reason` or `better` None keeps the words of an earlier vote of the same value; "" removes them. Raises
        `QuotaExceeded` above `most_a_minute` votes.
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
        """Withdraw a person's vote."""
        await self._scope.write(votes.withdraw, reply, channel, sender_key)

    async def votes_of(self, channel: str, sender_key: str, conversation_id: str) -> list[PastVote]:
        """List a person's votes in a conversation, oldest first, replaced and withdrawn votes included."""
        return await self._scope.read(votes.votes_of, channel, sender_key, conversation_id)

    async def votes_on(self, reply_id: str) -> list[Vote]:
        """List the votes on a reply that count."""
        return await self._scope.read(votes.votes_on, reply_id)


def _kept(words: str | None) -> str | None:
    return None if words is None else words.strip()[:MAX_WORDS]
