"""Outcomes of conversations since a canary began, for its guard rails."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import bindparam

from storage.schema import conversation, message, reply, vote
from storage.transaction import Transaction, now_ms, scoped


@dataclass(frozen=True, slots=True)
class Tried:
    """One conversation since a canary began: the time of its first reply and of its first failure of each kind.

    Times are milliseconds since 1970, by the database's clock. `first_ms` is the duration of the first reply.
    """

    conversation_id: str
    began_at: int
    version: str | None
    first_ms: int | None
    failed_at: int | None = None
    disliked_at: int | None = None
    handed_off_at: int | None = None


_NOW = scoped(sa.select(now_ms()).select_from(reply).limit(1))
# No statement counts imported conversations: they were assigned to no arm, and their times are those of the import.
_REPLIES = scoped(
    sa.select(reply.c.conversation_id, reply.c.created_at, reply.c.version, reply.c.total_ms, reply.c.state)
    .join(conversation, conversation.c.id == reply.c.conversation_id)
    .where(reply.c.created_at >= bindparam("since"), conversation.c.import_id.is_(None))
    .order_by(reply.c.created_at, reply.c.message_id)
)
# Withdrawn votes count, too: the test is valid at every look only if a counted event stays counted.
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
    """Return every conversation with a reply since then, in the order of first replies, and the time now."""
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
        Tried(key, failed_at=failed.get(key), disliked_at=disliked.get(key), handed_off_at=handed_off.get(key), **known)  # type: ignore[arg-type]
        for key, known in began.items()
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
    """Return the durations in milliseconds of a version's newest replies (None: of the base model)."""
    return [int(value) for value in tx.execute(_DURATIONS, by=version, most=most).scalars()]
