"""Curated answers, their counts, and corrections to make some from."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from storage import audit
from storage.knowledge_schema import curated_answer
from storage.knowledge_values import Audience, Correction, CuratedAnswer
from storage.learning_schema import review
from storage.reviews import question_before
from storage.schema import conversation, message, reply
from storage.transaction import Transaction, now_ms, scoped
from storage.values import new_id

_EMPTY = sa.update(curated_answer).values(
    question="", answer="", person_id=None, removed_at=now_ms(), version=bindparam("next_version")
)
_columns = [getattr(curated_answer.c, name) for name in CuratedAnswer.__slots__]
_ALL = scoped(sa.select(*_columns).where(curated_answer.c.removed_at.is_(None)).order_by(curated_answer.c.id))


def all_answers(tx: Transaction) -> list[CuratedAnswer]:
    """Return all answers in use, oldest first."""
    return [CuratedAnswer(**row._mapping) for row in tx.execute(_ALL)]


_GIVEN = scoped(
    sa.select(reply.c.curated_id, sa.func.count().label("replies"))
    .where(reply.c.curated_id.is_not(None))
    .group_by(reply.c.curated_id)
)


def given(tx: Transaction) -> dict[str, int]:
    """Count the replies with each answer, by its id; removed answers are counted, too."""
    return {row.curated_id: row.replies for row in tx.execute(_GIVEN)}


_INSERT = scoped(sa.insert(curated_answer).values(created_at=now_ms()))


def add(
    tx: Transaction, actor: str, question: str, answer: str, audience: Audience, reply_id: str | None = None
) -> str:
    """Add an answer and return its id.

    `reply_id` names the corrected reply that the answer comes from; `corrections` then no longer lists that correction.
    """
    person = _asked_by(tx, reply_id) if reply_id else None
    added = new_id()
    tx.insert(
        _INSERT,
        id=added,
        version=_next_version(tx),
        question=question,
        answer=answer,
        audience=audience,
        reply_id=reply_id,
        person_id=person,
        created_by=actor,
    )
    audit.record(tx, actor, "curated.add", added)
    return added


_REMOVE = scoped(
    sa.update(curated_answer)
    .where(curated_answer.c.id == bindparam("which"), curated_answer.c.removed_at.is_(None))
    .values(removed_at=now_ms(), version=bindparam("next_version"))
)


def remove(tx: Transaction, actor: str, which: str) -> bool:
    """Take an answer out of use; False if no answer in use has this id."""
    if not tx.execute(_REMOVE, which=which, next_version=_next_version(tx)).rowcount:
        return False
    audit.record(tx, actor, "curated.remove", which)
    return True


_CORRECTIONS = scoped(
    sa.select(
        review.c.reply_id,
        review.c.better,
        review.c.reviewer,
        review.c.created_at,
        message.c.conversation_id,
        message.c.seq,
        conversation.c.person_id,
        conversation.c.channel,
    )
    .join(message, message.c.id == review.c.reply_id)
    .join(conversation, conversation.c.id == message.c.conversation_id)
    .outerjoin(
        curated_answer,
        sa.and_(curated_answer.c.reply_id == review.c.reply_id, curated_answer.c.workspace_id == review.c.workspace_id),
    )
    .where(
        review.c.decision == "correct",
        review.c.replaced_at.is_(None),
        review.c.better.is_not(None),
        curated_answer.c.id.is_(None),
    )
    .order_by(review.c.id.desc())
    .limit(bindparam("most", type_=sa.Integer))
)


def corrections(tx: Transaction, most: int = 50) -> list[Correction]:
    """Return staff's corrections that are no curated answers yet, newest first, each with its question."""
    return [_correction(tx, row) for row in tx.execute(_CORRECTIONS, most=most).all()]


_EMPTY_OF = scoped(_EMPTY.where(curated_answer.c.person_id == bindparam("who")))


def forget_person(tx: Transaction, person_id: str) -> int:
    """Empty the answers to a person's questions and take them out of use; return their number."""
    return tx.execute(_EMPTY_OF, who=person_id, next_version=_next_version(tx)).rowcount


_EMPTY_FROM = scoped(
    _EMPTY.where(
        curated_answer.c.reply_id == bindparam("reply"),
        sa.or_(bindparam("words", type_=sa.String).is_(None), curated_answer.c.answer == bindparam("words")),
    )
)


def forget_reply(tx: Transaction, reply_id: str, words: str | None = None) -> int:
    """Empty the answers that come from the correction of a reply; return their number.

    With `words`, only an answer of exactly these words is emptied.
    """
    return tx.execute(_EMPTY_FROM, reply=reply_id, words=words, next_version=_next_version(tx)).rowcount


_PLACE_OF = scoped(
    sa.select(message.c.conversation_id, message.c.seq, conversation.c.person_id)
    .join(conversation, conversation.c.id == message.c.conversation_id)
    .where(message.c.id == bindparam("reply"))
)
_ASKED_BY = scoped(
    sa.select(message.c.person_id)
    .where(
        message.c.conversation_id == bindparam("conversation"),
        message.c.author == "person",
        message.c.seq <= bindparam("at_seq"),
    )
    .order_by(message.c.seq.desc())
    .limit(1)
)


def _asked_by(tx: Transaction, reply_id: str) -> str | None:
    """Return the last person to write before a reply; if unknown, as in imports, the conversation's person."""
    place = tx.execute(_PLACE_OF, reply=reply_id).first()
    if place is None:
        return None
    asked_by = tx.execute(_ASKED_BY, conversation=place.conversation_id, at_seq=place.seq).scalar()
    return str(asked_by or place.person_id or "") or None


_VERSION = scoped(sa.select(sa.func.max(curated_answer.c.version)))


def _next_version(tx: Transaction) -> int:
    return int(tx.execute(_VERSION).scalar() or 0) + 1


def _correction(tx: Transaction, row: Any) -> Correction:
    question = question_before(tx, row.conversation_id, row.seq)
    return Correction(row.reply_id, question, row.better, row.channel, row.reviewer, row.created_at)
