"""Knowledge gaps: questions for which no article was found."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy import bindparam

from storage import audit
from storage.knowledge_values import UnansweredQuestion
from storage.learning_schema import review
from storage.reviews import question_before
from storage.schema import conversation, message, reply
from storage.transaction import Transaction, now_ms, scoped

CLOSED_AT_ONCE = 500
_UNANSWERED = scoped(
    sa.select(
        reply.c.message_id,
        message.c.conversation_id,
        message.c.seq,
        conversation.c.channel,
        reply.c.created_at,
        review.c.better,
    )
    .join(message, message.c.id == reply.c.message_id)
    .join(conversation, conversation.c.id == message.c.conversation_id)
    .outerjoin(
        review,
        sa.and_(
            review.c.reply_id == reply.c.message_id,
            review.c.workspace_id == reply.c.workspace_id,
            review.c.replaced_at.is_(None),
            review.c.decision == "correct",
        ),
    )
    .where(
        reply.c.origin == "unknown",
        reply.c.gap_closed_at.is_(None),
        message.c.superseded_at.is_(None),
        reply.c.created_at >= now_ms() - bindparam("since_ms", type_=sa.BigInteger),
    )
    .order_by(reply.c.created_at.desc(), reply.c.message_id)
    .limit(bindparam("most", type_=sa.Integer))
)


def unanswered(tx: Transaction, days: int, most: int) -> list[UnansweredQuestion]:
    """Return the open gaps of the last `days` days, newest first, each with staff's correction if there is one."""
    rows = tx.execute(_UNANSWERED, since_ms=days * 86_400_000, most=most).all()
    return [
        UnansweredQuestion(
            row.message_id, question_before(tx, row.conversation_id, row.seq), row.channel, row.created_at, row.better
        )
        for row in rows
    ]


_CLOSE = scoped(
    sa.update(reply)
    .where(reply.c.message_id.in_(bindparam("ids", expanding=True)), reply.c.gap_closed_at.is_(None))
    .values(gap_closed_at=now_ms())
)


def close(tx: Transaction, actor: str, reply_ids: Sequence[str]) -> int:
    """Close the gaps of these replies and return their number."""
    closed = 0
    for start in range(0, len(reply_ids), CLOSED_AT_ONCE):
        closed += tx.execute(_CLOSE, ids=list(reply_ids[start : start + CLOSED_AT_ONCE])).rowcount
    if closed:
        audit.record(tx, actor, "gap.close", reply_ids[0], {"questions": closed})
    return closed
