"""What became of the conversations that a canary may have touched: the rows that its guard rails count.

Knows: replies, votes and hand-offs since a canary began. Does not know: arms, tests, what is too much harm.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import bindparam

from storage.schema import conversation, message, reply, vote
from storage.transaction import Transaction, now_ms, scoped


@dataclass(frozen=True, slots=True)
class Tried:
    """One conversation since a canary began: when its first reply was given, and when it first went wrong, and how.

    Times are milliseconds since 1970, by the database's clock. `first_ms` is how long the first reply took.
    """

    conversation_id: str
    began_at: int
    version: str | None
    first_ms: int | None
    failed_at: int | None = None
    disliked_at: int | None = None
    handed_off_at: int | None = None


_NOW = scoped(sa.select(now_ms()).select_from(reply).limit(1))
# No statement counts what an import brings: nobody drew lots for that, and its times are of the import.
_REPLIES = scoped(
    sa.select(reply.c.conversation_id, reply.c.created_at, reply.c.version, reply.c.total_ms, reply.c.state)
    .join(conversation, conversation.c.id == reply.c.conversation_id)
    .where(reply.c.created_at >= bindparam("since"), conversation.c.import_id.is_(None))
    .order_by(reply.c.created_at, reply.c.message_id)
)
# Also those that were taken back: what has been counted once stays counted, or looking often would not be safe.
_DISLIKED = scoped(
    sa.select(vote.c.conversation_id, sa.func.min(vote.c.created_at).label("at"))
    .join(reply, reply.c.message_id == vote.c.reply_id)
    .join(conversation, conversation.c.id == vote.c.conversation_id)
    .where(
        vote.c.value == -1,
        vote.c.created_at >= bindparam("since"),
        reply.c.created_at >= bindparam("since"),
        conversation.c.import_id.is_(None),
    )
    .group_by(vote.c.conversation_id)
)
_HANDED_OFF = scoped(
    sa.select(message.c.conversation_id, sa.func.min(message.c.created_at).label("at"))
    .join(reply, reply.c.conversation_id == message.c.conversation_id)
    .join(conversation, conversation.c.id == message.c.conversation_id)
    .where(
        message.c.author == "agent",
        conversation.c.import_id.is_(None),
        message.c.created_at >= bindparam("since"),
        reply.c.created_at >= bindparam("since"),
        reply.c.created_at <= message.c.created_at,
    )
    .group_by(message.c.conversation_id)
)


def tried_since(tx: Transaction, since_ms: int) -> tuple[list[Tried], int]:
    """Every conversation with a reply since then, in the order of their first replies, and what time it is now."""
    began: dict[str, dict[str, object]] = {}
    failed: dict[str, int] = {}
    for row in tx.execute(_REPLIES, since=since_ms):
        began.setdefault(
            row.conversation_id, {"began_at": row.created_at, "version": row.version, "first_ms": row.total_ms}
        )
        if row.state == "failed":
            failed.setdefault(row.conversation_id, row.created_at)
    disliked = {row.conversation_id: row.at for row in tx.execute(_DISLIKED, since=since_ms)}
    handed_off = {row.conversation_id: row.at for row in tx.execute(_HANDED_OFF, since=since_ms)}
    now: int = tx.execute(_NOW).scalar() or 0
    return [
        Tried(one, failed_at=failed.get(one), disliked_at=disliked.get(one), handed_off_at=handed_off.get(one), **known)  # type: ignore[arg-type]
        for one, known in began.items()
    ], now


_DURATIONS = scoped(
    sa.select(reply.c.total_ms)
    .join(conversation, conversation.c.id == reply.c.conversation_id)
    .where(
        reply.c.state == "answered",
        reply.c.total_ms.is_not(None),
        conversation.c.import_id.is_(None),
        reply.c.version.is_not_distinct_from(bindparam("by", type_=sa.Text)),
    )
    .order_by(reply.c.created_at.desc())
    .limit(bindparam("most", type_=sa.Integer))
)


def durations(tx: Transaction, version: str | None, most: int = 1000) -> list[int]:
    """Milliseconds that the newest replies of a version took (None: of the base)."""
    return [int(value) for value in tx.execute(_DURATIONS, by=version, most=most).scalars()]
