"""Votes on replies, with their history and the counts a day.

One vote of a person and reply counts; replaced and withdrawn ones are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa
from sqlalchemy import bindparam

from storage.conversations import find_or_create_person, find_person
from storage.schema import conversation, message, vote
from storage.transaction import Transaction, now_ms, scoped
from storage.values import Sender, new_id

Value = Literal[-1, 1]
MINUTE_MS = 60_000
DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Vote:
    """A person's vote on a reply: 1 is a thumb up, -1 a thumb down; `better` is a better answer that they propose."""

    value: Value
    reason: str | None = None
    better: str | None = None


@dataclass(frozen=True, slots=True)
class PastVote:
    """A vote as it was given; a vote with a `replaced_at` no longer counts. Times are milliseconds since 1970 (UTC)."""

    reply_id: str
    value: Value
    reason: str | None
    better: str | None
    created_at: int
    replaced_at: int | None


class TooManyVotes(Exception):
    """A person exceeds the rate limit of votes, and the vote was not stored. Retry after `retry_after_ms`."""

    def __init__(self, retry_after_ms: int) -> None:
        super().__init__(f"too many votes of one person, try again in {retry_after_ms} ms")
        self.retry_after_ms = retry_after_ms


@dataclass(frozen=True, slots=True)
class RatedReply:
    """A reply that can be voted on."""

    id: str
    conversation_id: str
    conversation_key: str


_replies = (
    sa.select(message.c.id, message.c.conversation_id, conversation.c.external_id.label("conversation_key"))
    .join(conversation, conversation.c.id == message.c.conversation_id)
    .where(message.c.author == "bot", conversation.c.channel == bindparam("channel"))
)
_current = sa.and_(
    vote.c.reply_id == bindparam("reply"), vote.c.person_id == bindparam("person"), vote.c.replaced_at.is_(None)
)
_REPLACE = scoped(sa.update(vote).where(_current).values(replaced_at=now_ms()))
_REPLY = scoped(_replies.where(message.c.id == bindparam("reply")))


def find_reply(tx: Transaction, channel: str, reply_id: str) -> RatedReply | None:
    """Return the reply with an id, if it was given on that channel."""
    row = tx.execute(_REPLY, channel=channel, reply=reply_id).first()
    return RatedReply(**row._mapping) if row else None


_LAST_REPLY = scoped(
    _replies.where(message.c.conversation_id == bindparam("conversation"), message.c.superseded_at.is_(None))
    .order_by(message.c.seq.desc())
    .limit(1)
)


def last_reply(tx: Transaction, channel: str, conversation_id: str) -> RatedReply | None:
    """Return the newest reply of a conversation."""
    row = tx.execute(_LAST_REPLY, channel=channel, conversation=conversation_id).first()
    return RatedReply(**row._mapping) if row else None


_CURRENT = scoped(sa.select(vote.c.value, vote.c.reason, vote.c.better).where(_current))
_INSERT = scoped(sa.insert(vote).values(created_at=now_ms(), replaced_at=None))
_minute_ago = now_ms() - MINUTE_MS
# The rate limit: while the oldest of the newest `most_a_minute` votes is not a minute old, one more is too many.
_LIMITING = scoped(
    sa.select((MINUTE_MS - now_ms() + vote.c.created_at).label("retry_after_ms"))
    .where(vote.c.person_id == bindparam("person"), vote.c.created_at > _minute_ago)
    .order_by(vote.c.created_at.desc())
    .offset(bindparam("before", type_=sa.Integer))
    .limit(1)
)


def cast(
    tx: Transaction, reply: RatedReply, channel: str, voter: Sender, opinion: Vote, most_a_minute: int = 60
) -> bool:
    """Store a person's vote in place of an earlier one; False if it changes nothing, or there is no such reply.

    None as reason or better answer keeps the text of an earlier vote of the same value, so that the button may be
    pressed again, and reason and better answer may come in separate requests. An empty text removes the earlier one.
    Idempotent. Raise `TooManyVotes` at more than `most_a_minute`.
    """
    if find_reply(tx, channel, reply.id) is None:
        return False
    person_id = find_or_create_person(tx, channel, voter)
    known = tx.execute(_CURRENT, reply=reply.id, person=person_id).first()
    earlier = Vote(**known._mapping) if known is not None and known.value == opinion.value else Vote(opinion.value)
    opinion = Vote(opinion.value, _newest(opinion.reason, earlier.reason), _newest(opinion.better, earlier.better))
    if known is not None and opinion == Vote(**known._mapping):
        return False
    limiting = tx.execute(_LIMITING, person=person_id, before=most_a_minute - 1).first()
    if limiting is not None:
        raise TooManyVotes(limiting.retry_after_ms)
    tx.execute(_REPLACE, reply=reply.id, person=person_id)
    tx.execute(
        _INSERT,
        id=new_id(),
        conversation_id=reply.conversation_id,
        reply_id=reply.id,
        person_id=person_id,
        value=opinion.value,
        reason=opinion.reason,
        better=opinion.better,
    )
    return True


def _newest(words: str | None, earlier: str | None) -> str | None:
    return earlier if words is None else words or None


def withdraw(tx: Transaction, reply: RatedReply, channel: str, sender_key: str) -> bool:
    """Withdraw a person's vote, which stays in their history; False if there is none."""
    person_id = find_person(tx, channel, sender_key)
    if person_id is None:
        return False
    return bool(tx.execute(_REPLACE, reply=reply.id, person=person_id).rowcount)


_COUNTED = scoped(
    sa.select(vote.c.value, vote.c.reason, vote.c.better)
    .where(vote.c.reply_id == bindparam("reply"), vote.c.replaced_at.is_(None))
    .order_by(vote.c.id)
)


def votes_on(tx: Transaction, reply_id: str) -> list[Vote]:
    """Return the current votes on a reply, oldest first."""
    return [Vote(**row._mapping) for row in tx.execute(_COUNTED, reply=reply_id)]


_OWN = scoped(
    sa.select(vote.c.reply_id, vote.c.value, vote.c.reason, vote.c.better, vote.c.created_at, vote.c.replaced_at)
    .where(vote.c.conversation_id == bindparam("conversation"), vote.c.person_id == bindparam("person"))
    .order_by(vote.c.created_at, vote.c.id)
)


def votes_of(tx: Transaction, channel: str, sender_key: str, conversation_id: str) -> list[PastVote]:
    """Return a person's votes in a conversation, replaced and withdrawn ones included, oldest first."""
    person_id = find_person(tx, channel, sender_key)
    if person_id is None:
        return []
    return [PastVote(**row._mapping) for row in tx.execute(_OWN, conversation=conversation_id, person=person_id)]


@dataclass(frozen=True, slots=True)
class DayCount:
    """The votes of one day; `day` counts from 1970-01-01 (UTC)."""

    day: int
    up: int
    down: int


_day = (vote.c.created_at // DAY_MS).label("day")
_BY_DAY = scoped(
    sa.select(
        _day,
        sa.func.sum(sa.case((vote.c.value > 0, 1), else_=0)).label("up"),
        sa.func.sum(sa.case((vote.c.value < 0, 1), else_=0)).label("down"),
    )
    .where(vote.c.replaced_at.is_(None), vote.c.created_at >= now_ms() - bindparam("past_ms", type_=sa.BigInteger))
    .group_by(_day)
    .order_by(_day)
)


def by_day(tx: Transaction, days: int) -> list[DayCount]:
    """Count the votes of each of the last `days` days on which somebody voted, oldest first."""
    rows = tx.execute(_BY_DAY, past_ms=days * DAY_MS)
    return [DayCount(int(row.day), int(row.up), int(row.down)) for row in rows]
