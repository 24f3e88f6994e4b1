"""Transactional outbox: replies to post to channels, in order.

Failed posts are retried. A post is recorded as `sending` before the call, so that after a crash `bot.chat.delivery` can
ask the channel for it before it posts again. Every function is a unit of work for `Database.write`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from storage import shown_parts
from storage.schema import conversation, conversation_send, outbox
from storage.transaction import Transaction, across_workspaces, now_ms, scoped
from storage.values import Lease, Outgoing, Reply

send = conversation_send.c


@dataclass(frozen=True, slots=True)
class SendLease:
    """The right to post to one conversation's channel, as long as `epoch` (the fencing token) is the newest."""

    conversation_id: str
    workspace_id: str
    epoch: int
    owner: str


_INSERT = scoped(sa.insert(outbox).values(created_at=now_ms()))


def _ensure_sender(insert: Any) -> sa.Executable:
    clause: sa.Executable = insert(conversation_send).values(retry_at=0).on_conflict_do_nothing()
    return clause


_ENSURE_SENDER = scoped(_ensure_sender)


def enqueue(tx: Transaction, lease: Lease, answer: Reply, channel: str) -> None:
    """Queue a reply for posting, in the transaction that stores it."""
    tx.execute(_ENSURE_SENDER, conversation_id=lease.conversation_id)
    tx.insert(
        _INSERT,
        id=f"{lease.reply_id}.0",
        conversation_id=lease.conversation_id,
        reply_id=lease.reply_id,
        last_seq=answer.last_seq,
        part=0,
        channel=channel,
        state="pending",
        body={"text": answer.text, "state": answer.state, "sources": list(answer.sources)},
    )


_open = outbox.c.state.in_(("pending", "sending"))
_sendable = (
    sa.select(send.conversation_id)
    .where(
        send.retry_at <= now_ms(),
        sa.or_(send.lease_until.is_(None), send.lease_until < now_ms()),
        sa.exists().where(outbox.c.conversation_id == send.conversation_id, _open),
    )
    .limit(bindparam("most", type_=sa.Integer))
    .with_for_update(skip_locked=True)
)
_CLAIM = across_workspaces(
    sa.update(conversation_send)
    .where(send.conversation_id.in_(_sendable))
    .values(
        owner=bindparam("me"), lease_until=now_ms() + bindparam("lease_ms", type_=sa.BigInteger), epoch=send.epoch + 1
    )
    .returning(send.conversation_id, send.workspace_id, send.epoch)
)


def claim(tx: Transaction, owner: str, most: int, lease_ms: int) -> list[SendLease]:
    """Lease up to `most` conversations that have an open post and no sender."""
    rows = tx.execute(_CLAIM, me=owner, most=most, lease_ms=lease_ms)
    return [SendLease(owner=owner, **row._mapping) for row in rows]


_FREE_ALL = across_workspaces(sa.update(conversation_send).values(owner=None, lease_until=None))


def free_all_leases(tx: Transaction) -> None:
    """Free every lease at start, where there is only one process (SQLite): they belong to a dead process."""
    tx.execute(_FREE_ALL)


_held = sa.and_(
    send.conversation_id == bindparam("conversation"),
    send.owner == bindparam("me"),
    send.epoch == bindparam("at_epoch"),
)
_EXTEND = scoped(
    sa.update(conversation_send)
    .where(_held)
    .values(lease_until=now_ms() + bindparam("lease_ms", type_=sa.BigInteger))
    .returning(send.conversation_id)
)
_HEAD = scoped(
    sa.select(
        outbox.c.id,
        outbox.c.workspace_id,
        outbox.c.conversation_id,
        outbox.c.channel,
        outbox.c.reply_id,
        outbox.c.part,
        outbox.c.body,
        outbox.c.state,
        outbox.c.attempts,
        conversation.c.external_id.label("conversation_key"),
        (now_ms() - outbox.c.created_at).label("age_ms"),
    )
    .join(conversation, conversation.c.id == outbox.c.conversation_id)
    .where(outbox.c.conversation_id == bindparam("conversation"), _open)
    .order_by(outbox.c.last_seq, outbox.c.part)
    .limit(1)
)
_INTEND = scoped(
    sa.update(outbox)
    .where(outbox.c.id == bindparam("post"))
    .values(state="sending", epoch=bindparam("at_epoch"), attempts=outbox.c.attempts + 1)
)


def intend(tx: Transaction, lease: SendLease, lease_ms: int) -> Outgoing | None:
    """Mark the conversation's first open post as `sending`, and return it with the state it had before.

    Return None if no post is open or the lease is lost. A post that was `sending` before may have been posted already.
    """
    if tx.execute(_EXTEND, **_of(lease), lease_ms=lease_ms).first() is None:
        return None
    row = tx.execute(_HEAD, conversation=lease.conversation_id).first()
    if row is None:
        return None
    tx.execute(_INTEND, post=row.id, at_epoch=lease.epoch)
    return Outgoing(**{**row._mapping, "attempts": row.attempts + 1, "epoch": lease.epoch})


_RECORD = scoped(
    sa.update(outbox)
    .where(outbox.c.id == bindparam("post"), outbox.c.epoch == bindparam("at_epoch"), outbox.c.state == "sending")
    .values(
        state=bindparam("new_state"),
        provider_id=bindparam("provider"),
        error=bindparam("problem"),
        attempts=outbox.c.attempts - bindparam("undone", type_=sa.Integer),
    )
)


def record(
    tx: Transaction, post: Outgoing, state: str, *, provider_id: str | None = None, error: str | None = None
) -> None:
    """Store a post's outcome: `sent`, `ambiguous`, `failed`, or back to `pending`, which does not count as an attempt.

    An ended post also settles the messages that showed its reply live. An older epoch changes nothing.
    """
    undone = 1 if state == "pending" else 0
    done = tx.execute(
        _RECORD, post=post.id, at_epoch=post.epoch, new_state=state, provider=provider_id, problem=error, undone=undone
    )
    if done.rowcount and state not in ("pending", "sending"):
        shown_parts.settle(tx, post.conversation_id, post.reply_id)


def record_and_go_on(
    tx: Transaction,
    post: Outgoing,
    state: str,
    lease: SendLease,
    lease_ms: int,
    *,
    provider_id: str | None = None,
    error: str | None = None,
) -> Outgoing | None:
    """Store a post's final outcome and begin the next post of its conversation; without one, free the lease."""
    record(tx, post, state, provider_id=provider_id, error=error)
    following = intend(tx, lease, lease_ms)
    if following is None:
        release(tx, lease)
    return following


_RELEASE = scoped(
    sa.update(conversation_send)
    .where(_held)
    .values(owner=None, lease_until=None, retry_at=now_ms() + bindparam("delay_ms", type_=sa.BigInteger))
)


def release(tx: Transaction, lease: SendLease, delay_ms: int = 0) -> None:
    """Free the lease, so that others may post to the conversation after `delay_ms`."""
    tx.execute(_RELEASE, **_of(lease), delay_ms=delay_ms)


def _of(lease: SendLease) -> dict[str, Any]:
    return {"conversation": lease.conversation_id, "me": lease.owner, "at_epoch": lease.epoch}
