"""Staff's reviews of replies, and the queue of unreviewed replies.

One review of a reply counts; replaced ones are kept as history.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import bindparam

from storage.audit import record
from storage.learning_schema import review
from storage.schema import conversation, message, vote
from storage.transaction import Transaction, now_ms, scoped
from storage.values import new_id, text_of
from storage.votes import Vote

Verdict = Literal["approve", "correct", "exclude"]
NEWEST = "~"  # after every id
MAX_QUESTION_MESSAGES = 20


@dataclass(frozen=True, slots=True)
class WaitingReply:
    """A reply that waits for a review. `proposed` is the newest better answer in its votes, if any.

    Pass the last `cursor` of a page as `before` to get the next page.
    """

    reply_id: str
    conversation_id: str
    channel: str
    question: str
    text: str
    votes: tuple[Vote, ...]
    proposed: str | None
    cursor: str


@dataclass(frozen=True, slots=True)
class Review:
    """A decision about a reply; `replaced_at` is None for the current decision."""

    decision: Verdict
    better: str | None
    reviewer: str
    created_at: int
    replaced_at: int | None


_newest_vote = sa.func.max(vote.c.id)
_WAITING = scoped(
    sa.select(vote.c.reply_id, _newest_vote.label("cursor"))
    .select_from(
        vote.outerjoin(
            review,
            sa.and_(
                review.c.reply_id == vote.c.reply_id,
                review.c.replaced_at.is_(None),
                review.c.workspace_id == vote.c.workspace_id,
            ),
        )
    )
    .where(vote.c.replaced_at.is_(None), sa.or_(vote.c.value == -1, vote.c.better.is_not(None)), review.c.id.is_(None))
    .group_by(vote.c.reply_id)
    .having(_newest_vote < bindparam("before"))
    .order_by(_newest_vote.desc())
    .limit(bindparam("most", type_=sa.Integer))
)
_ids: sa.BindParameter[str] = bindparam("ids", expanding=True)
_REPLIES = scoped(
    sa.select(message.c.id, message.c.conversation_id, message.c.seq, message.c.parts, conversation.c.channel)
    .join(conversation, conversation.c.id == message.c.conversation_id)
    .where(message.c.id.in_(_ids), message.c.author == "bot")
)
_VOTES = scoped(
    sa.select(vote.c.reply_id, vote.c.value, vote.c.reason, vote.c.better)
    .where(vote.c.reply_id.in_(_ids), vote.c.replaced_at.is_(None))
    .order_by(vote.c.id)
)
_current = sa.and_(review.c.reply_id == bindparam("reply"), review.c.replaced_at.is_(None))


def waiting_page(tx: Transaction, before: str = NEWEST, most: int = 50) -> list[WaitingReply]:
    """Return unreviewed replies with a thumb down or a proposed better answer, the newest vote first."""
    cursors = {row.reply_id: row.cursor for row in tx.execute(_WAITING, before=before, most=most)}
    if not cursors:
        return []
    votes: dict[str, list[Vote]] = defaultdict(list)
    for row in tx.execute(_VOTES, ids=list(cursors)):
        votes[row.reply_id].append(Vote(row.value, row.reason, row.better))
    replies = {row.id: row for row in tx.execute(_REPLIES, ids=list(cursors))}
    return [
        _waiting(tx, replies[reply_id], votes[reply_id], cursor)
        for reply_id, cursor in cursors.items()
        if reply_id in replies
    ]


def count_waiting(tx: Transaction, most: int) -> int:
    """Count the replies that wait for a review, up to `most`."""
    return len(tx.execute(_WAITING, before=NEWEST, most=most).all())


def _waiting(tx: Transaction, row: Any, votes: list[Vote], cursor: str) -> WaitingReply:
    return WaitingReply(
        row.id,
        row.conversation_id,
        row.channel,
        question_before(tx, row.conversation_id, row.seq),
        text_of(tuple(row.parts)),
        tuple(votes),
        next((given.better for given in reversed(votes) if given.better), None),
        cursor,
    )


_BEFORE = scoped(
    sa.select(message.c.author, message.c.parts)
    .where(
        message.c.conversation_id == bindparam("conversation"),
        message.c.seq <= bindparam("seq"),
        sa.or_(message.c.rank == 0, message.c.seq < bindparam("seq")),
        message.c.superseded_at.is_(None),
    )
    .order_by(message.c.seq.desc(), message.c.rank.desc())
    .limit(MAX_QUESTION_MESSAGES)
)


def question_before(tx: Transaction, conversation_id: str, seq: int) -> str:
    """Return the text of the person's messages directly before a reply, joined by blank lines."""
    said: list[str] = []
    for row in tx.execute(_BEFORE, conversation=conversation_id, seq=seq):
        if row.author != "person":
            break
        said.append(text_of(tuple(row.parts)))
    return "\n\n".join(reversed(said))


_REPLACE = scoped(sa.update(review).where(_current).values(replaced_at=now_ms()))
_INSERT = scoped(sa.insert(review).values(created_at=now_ms(), replaced_at=None))


def decide(tx: Transaction, reply_id: str, decision: Verdict, better: str | None, reviewer: str) -> bool:
    """Store a decision and replace an earlier one; False if the bot gave no such reply."""
    row = tx.execute(_REPLIES, ids=[reply_id]).first()
    if row is None:
        return False
    tx.execute(_REPLACE, reply=reply_id)
    tx.execute(
        _INSERT,
        id=new_id(),
        conversation_id=row.conversation_id,
        reply_id=reply_id,
        decision=decision,
        better=better,
        reviewer=reviewer,
    )
    record(tx, reviewer, f"reply.{decision}", reply_id)
    return True


_WITHDRAW = scoped(sa.update(review).where(_current, review.c.reviewer == bindparam("by")).values(replaced_at=now_ms()))


def withdraw(tx: Transaction, reply_id: str, reviewer: str) -> bool:
    """Withdraw the reviewer's own decision, so that the reply waits again; False if the current one is not theirs."""
    if tx.execute(_WITHDRAW, reply=reply_id, by=reviewer).rowcount == 0:
        return False
    record(tx, reviewer, "reply.withdraw", reply_id)
    return True


def proposed_answer(tx: Transaction, reply_id: str) -> str | None:
    """Return the newest better answer that was proposed for a reply."""
    betters = [row.better for row in tx.execute(_VOTES, ids=[reply_id]) if row.better]
    return betters[-1] if betters else None


_HISTORY = scoped(
    sa.select(review.c.decision, review.c.better, review.c.reviewer, review.c.created_at, review.c.replaced_at)
    .where(review.c.reply_id == bindparam("reply"))
    .order_by(review.c.id.desc())
)


def history(tx: Transaction, reply_id: str) -> list[Review]:
    """Return all decisions about a reply, newest first."""
    return [Review(**row._mapping) for row in tx.execute(_HISTORY, reply=reply_id)]
