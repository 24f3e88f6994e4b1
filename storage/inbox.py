"""Durable inbox, and the lease with fencing token on each conversation.

It keeps three laws: messages of a conversation are answered in order, at most one worker has a conversation, and every
accepted message ends exactly once. Every function is a unit of work for `Database.write`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from storage import consent, outbox
from storage.conversations import place
from storage.schema import conversation_work, dead_letter, inbox, message, reply, reply_passage
from storage.transaction import Rollback, Transaction, across_workspaces, now_ms, scoped, urgent
from storage.values import Accepted, Conversation, Incoming, Lease, Part, Reply, new_id

MAX_BURST_WAIT_MS = 4_000

work = conversation_work.c


class NoSuchMessage(Exception):
    """The message to edit or to answer again does not exist, or is no longer the newest."""


class Fenced(Exception):
    """The lease is lost: its epoch is older than the conversation's, or the work has ended."""


_INSERT_MESSAGE = scoped(sa.insert(message).values(created_at=now_ms()))
_FENCE = scoped(
    sa.update(conversation_work)
    .where(work.conversation_id == bindparam("conversation"))
    .values(epoch=work.epoch + 1, owner=None, lease_until=None, attempts=0)
)


@urgent
def accept(tx: Transaction, incoming: Incoming) -> Accepted:
    """Store a message and mark its conversation as having work.

    A second delivery with the same `dedupe_key` (idempotency key) changes nothing and returns the first one's place.
    Raise `NoSuchMessage` for an edit of an unknown message.
    """
    conversation_id, person_id = place(tx, incoming)
    if incoming.may_learn is not None:
        consent.set_conversation(tx, conversation_id, incoming.may_learn)
    if incoming.replaces is not None:
        _refuse_duplicate(tx, incoming.dedupe_key)
        _set_aside_edited(tx, conversation_id, incoming.replaces)
    seq = _append(
        tx, conversation_id, incoming.channel, "message", incoming.dedupe_key, incoming.event_id, incoming.burst_wait_ms
    )
    tx.insert(
        _INSERT_MESSAGE,
        id=new_id(),
        conversation_id=conversation_id,
        seq=seq,
        rank=0,
        author="person",
        person_id=person_id,
        external_id=incoming.external_id,
        parts=list(incoming.parts),
    )
    return Accepted(conversation_id, seq, duplicate=False)


_shown = message.c.superseded_at.is_(None)
_NEWEST_MESSAGE = scoped(
    sa.select(message.c.id, message.c.seq, message.c.author)
    .where(message.c.conversation_id == bindparam("conversation"), _shown)
    .order_by(message.c.seq.desc(), message.c.rank.desc())
    .limit(1)
)
_SUPERSEDE = scoped(
    sa.update(message)
    .where(
        message.c.conversation_id == bindparam("conversation"),
        sa.or_(
            message.c.seq > bindparam("from_seq"),
            sa.and_(message.c.seq == bindparam("from_seq"), message.c.rank >= bindparam("from_rank")),
        ),
        _shown,
    )
    .values(superseded_at=now_ms())
)


def accept_regenerate(tx: Transaction, known: Conversation, reply_id: str, dedupe_key: str) -> Accepted:
    """Set the last reply aside and ask for another. Raise `NoSuchMessage` if it is not the newest message."""
    _refuse_duplicate(tx, dedupe_key)
    # First, as it locks the conversation's row: the message read afterwards is the newest for certain.
    seq = _append(tx, known.id, known.channel, "regenerate", dedupe_key, None, 0)
    newest = tx.execute(_NEWEST_MESSAGE, conversation=known.id).first()
    if newest is None or newest.id != reply_id or newest.author != "bot":
        raise NoSuchMessage("only the last reply can be answered again")
    tx.execute(_SUPERSEDE, conversation=known.id, from_seq=newest.seq, from_rank=1)
    return Accepted(known.id, seq, duplicate=False)


def _enqueue(insert: Any) -> sa.Executable:
    """Take the next seq and start or extend the burst. The row's lock makes the order of seqs the order of commits."""
    fresh = insert(conversation_work).values(
        enq_seq=1,
        updated_at=now_ms(),
        available_at=now_ms() + bindparam("wait", type_=sa.BigInteger),
        retry_at=now_ms(),
        burst_deadline=now_ms() + MAX_BURST_WAIT_MS,
    )
    idle = work.enq_seq == work.done_seq
    deadline = sa.case((idle, now_ms() + MAX_BURST_WAIT_MS), else_=work.burst_deadline)
    wanted = now_ms() + bindparam("wait", type_=sa.BigInteger)
    clause: sa.Executable = fresh.on_conflict_do_update(
        index_elements=[work.conversation_id],
        set_={
            "enq_seq": work.enq_seq + 1,
            "updated_at": now_ms(),
            "burst_deadline": deadline,
            "available_at": sa.case((wanted < deadline, wanted), else_=deadline),
            "retry_at": sa.case((idle, now_ms()), else_=work.retry_at),
        },
    ).returning(work.enq_seq)
    return clause


_ENQUEUE = scoped(_enqueue)


def _insert_inbox(insert: Any) -> sa.Executable:
    clause: sa.Executable = insert(inbox).values(received_at=now_ms()).on_conflict_do_nothing().returning(inbox.c.seq)
    return clause


_INSERT_INBOX = scoped(_insert_inbox)


def _append(
    tx: Transaction, conversation_id: str, channel: str, kind: str, dedupe_key: str, event_id: str | None, wait_ms: int
) -> int:
    seq: int = tx.execute(_ENQUEUE, conversation_id=conversation_id, channel=channel, wait=wait_ms).scalar_one()
    written = tx.execute(
        _INSERT_INBOX, conversation_id=conversation_id, seq=seq, kind=kind, dedupe_key=dedupe_key, event_id=event_id
    )
    if written.first() is None:
        _refuse_duplicate(tx, dedupe_key)
    return seq


_FIND_ACCEPTED = scoped(
    sa.select(inbox.c.conversation_id, inbox.c.seq).where(inbox.c.dedupe_key == bindparam("dedupe_key"))
)


def _refuse_duplicate(tx: Transaction, dedupe_key: str) -> None:
    """Roll back if the key is known, so that the seq taken for a second delivery leaves no gap."""
    if earlier := tx.execute(_FIND_ACCEPTED, dedupe_key=dedupe_key).first():
        raise Rollback(Accepted(earlier.conversation_id, earlier.seq, duplicate=True))


_OWN_MESSAGE = scoped(
    sa.select(message.c.seq).where(
        message.c.conversation_id == bindparam("conversation"),
        message.c.external_id == bindparam("external"),
        message.c.author == "person",
        _shown,
    )
)


def _set_aside_edited(tx: Transaction, conversation_id: str, replaced: str) -> None:
    """Set aside the edited message and all after it, and fence off a reply in progress."""
    # First, as it locks the conversation's row: a reply that is being stored just now is seen and set aside, too.
    tx.execute(_FENCE, conversation=conversation_id)
    seq = tx.execute(_OWN_MESSAGE, conversation=conversation_id, external=replaced).scalar()
    if seq is None:
        raise NoSuchMessage("the message to edit no longer exists")
    tx.execute(_SUPERSEDE, conversation=conversation_id, from_seq=seq, from_rank=0)


_REVISED = scoped(
    sa.select(message.c.id, message.c.seq, message.c.parts, message.c.edited_at).where(
        message.c.conversation_id == bindparam("conversation"),
        message.c.external_id == bindparam("external"),
        message.c.author == "person",
        _shown,
    )
)
_REVISE = scoped(
    sa.update(message)
    .where(message.c.id == bindparam("which"))
    .values(parts=bindparam("new_parts"), edited_at=bindparam("at", type_=sa.BigInteger))
)
_WITHDRAW = scoped(
    sa.update(message)
    .where(message.c.id == bindparam("which"))
    .values(parts=bindparam("new_parts"), superseded_at=now_ms())
)
_SET_ASIDE = scoped(sa.update(message).where(message.c.id == bindparam("which")).values(superseded_at=now_ms()))
_LOCK_WORK = scoped(
    sa.update(conversation_work)
    .where(work.conversation_id == bindparam("conversation"))
    .values(updated_at=work.updated_at)
    .returning(work.done_seq)
)
_ONLY_ANSWER = scoped(
    sa.select(reply.c.message_id).where(
        reply.c.conversation_id == bindparam("conversation"),
        reply.c.first_seq == bindparam("at_seq"),
        reply.c.last_seq == bindparam("at_seq"),
    )
)


def revise(tx: Transaction, conversation_id: str, external_id: str, parts: tuple[Part, ...] | None, at_ms: int) -> bool:
    """Replace the parts of a person's message; with None, withdraw it and the reply to it alone.

    Return True if the message is not answered yet: a reply in progress is then fenced off and begun anew. An edit older
    than the newest one, or with the same parts, changes nothing. `at_ms` is by the channel's clock.
    """
    done_seq: int | None = tx.execute(_LOCK_WORK, conversation=conversation_id).scalar()
    known = tx.execute(_REVISED, conversation=conversation_id, external=external_id).first()
    if done_seq is None or known is None:
        return False
    if parts is None:
        tx.execute(_WITHDRAW, which=known.id, new_parts=[])
        if answer := tx.execute(_ONLY_ANSWER, conversation=conversation_id, at_seq=known.seq).scalar():
            tx.execute(_SET_ASIDE, which=answer)
    elif list(parts) == known.parts or at_ms <= (known.edited_at or 0):
        return False
    else:
        tx.execute(_REVISE, which=known.id, new_parts=list(parts), at=at_ms)
    if known.seq <= done_seq:
        return False
    tx.execute(_FENCE, conversation=conversation_id)
    return True


def fence(tx: Transaction, conversation_id: str) -> bool:
    """Fence off a reply in progress, so that it is begun anew; False if the conversation never had a message."""
    return tx.execute(_FENCE, conversation=conversation_id).rowcount > 0


_lease_columns = (
    work.conversation_id,
    work.workspace_id,
    work.channel,
    work.epoch,
    work.attempts,
    work.done_seq,
    work.enq_seq,
    work.stop_seq,
)
_lease_end = now_ms() + bindparam("lease_ms", type_=sa.BigInteger)
_claimable = (
    sa.select(work.conversation_id)
    .where(
        work.enq_seq > work.done_seq,
        work.available_at <= now_ms(),
        work.retry_at <= now_ms(),
        sa.or_(work.lease_until.is_(None), work.lease_until < now_ms()),
    )
    .order_by(work.available_at)
    .limit(bindparam("most", type_=sa.Integer))
    .with_for_update(skip_locked=True)
)
_CLAIM = across_workspaces(
    sa.update(conversation_work)
    .where(work.conversation_id.in_(_claimable))
    .values(owner=bindparam("me"), lease_until=_lease_end, epoch=work.epoch + 1, attempts=work.attempts + 1)
    .returning(*_lease_columns)
)


def claim(tx: Transaction, owner: str, most: int, lease_ms: int) -> list[Lease]:
    """Lease up to `most` conversations that have work and no worker, longest waiting first."""
    rows = tx.execute(_CLAIM, me=owner, most=most, lease_ms=lease_ms)
    return [Lease(owner=owner, **row._mapping) for row in rows]


_HEARTBEAT = across_workspaces(
    sa.update(conversation_work)
    .where(work.owner == bindparam("me"))
    .values(lease_until=_lease_end)
    .returning(*_lease_columns)
)


def heartbeat(tx: Transaction, owner: str, lease_ms: int) -> list[Lease]:
    """Renew all of a worker's leases and return them; a lease that is missing has been lost."""
    rows = tx.execute(_HEARTBEAT, me=owner, lease_ms=lease_ms)
    return [Lease(owner=owner, **row._mapping) for row in rows]


_FREE_ALL = across_workspaces(
    sa.update(conversation_work).where(work.owner.is_not(None)).values(owner=None, lease_until=None)
)


def free_all_leases(tx: Transaction) -> None:
    """Free every lease at start, where there is only one process (SQLite): they belong to a dead process."""
    tx.execute(_FREE_ALL)


_held = sa.and_(
    work.conversation_id == bindparam("conversation"),
    work.owner == bindparam("me"),
    work.epoch == bindparam("at_epoch"),
)
_FINISH = scoped(
    sa.update(conversation_work)
    .where(_held)
    .values(done_seq=bindparam("last_seq"), attempts=0, owner=None, lease_until=None)
    .returning(work.enq_seq)
)
_FIND_REPLY = scoped(sa.select(reply.c.message_id).where(reply.c.message_id == bindparam("reply_id")))
_INSERT_REPLY = scoped(sa.insert(reply).values(created_at=now_ms()))
_INSERT_PASSAGE = scoped(sa.insert(reply_passage))
_INSERT_DEAD_LETTER = scoped(sa.insert(dead_letter).values(created_at=now_ms()))


def complete(tx: Transaction, lease: Lease, answer: Reply, pushed_to: str | None = None) -> bool:
    """End the messages up to `answer.last_seq` with a reply and free the lease; return True if more work waits.

    Idempotent, so that a commit whose outcome was lost can be tried again. `pushed_to` names a channel whose adapter
    must post the reply: it is then queued in the outbox. Raise `Fenced` if the lease is lost.
    """
    row = tx.execute(_FINISH, **_of(lease), last_seq=answer.last_seq).first()
    if row is None:
        if tx.execute(_FIND_REPLY, reply_id=lease.reply_id).first():
            return False
        raise Fenced
    tx.insert(
        _INSERT_MESSAGE,
        id=lease.reply_id,
        conversation_id=lease.conversation_id,
        seq=answer.last_seq,
        rank=1,
        author="bot",
        person_id=None,
        external_id=None,
        parts=list(answer.parts),
    )
    tx.insert(_INSERT_REPLY, **_reply_row(lease, answer))
    for passage in answer.passages:
        tx.insert(
            _INSERT_PASSAGE,
            message_id=lease.reply_id,
            is_cited=passage.number in answer.cited,
            **{**dataclasses.asdict(passage), "headings": list(passage.headings)},
        )
    if answer.state == "failed":
        tx.insert(
            _INSERT_DEAD_LETTER,
            id=new_id(),
            conversation_id=lease.conversation_id,
            first_seq=lease.done_seq + 1,
            last_seq=answer.last_seq,
            error=answer.error or "",
        )
    if pushed_to is not None:
        outbox.enqueue(tx, lease, answer, pushed_to)
    return bool(row.enq_seq > answer.last_seq)


def _reply_row(lease: Lease, answer: Reply) -> dict[str, Any]:
    return {
        "message_id": lease.reply_id,
        "conversation_id": lease.conversation_id,
        "first_seq": lease.done_seq + 1,
        "last_seq": answer.last_seq,
        "epoch": lease.epoch,
        "state": answer.state,
        "model": answer.model,
        "version": answer.version,
        "prompt_sha256": answer.prompt_sha256,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "finish_reason": answer.finish_reason,
        "waited_ms": answer.waited_ms,
        "first_piece_ms": answer.first_piece_ms,
        "total_ms": answer.total_ms,
        "error": answer.error,
        "origin": answer.origin,
        "intent": answer.intent,
        "curated_id": answer.curated_id,
    }


_RELEASE = scoped(
    sa.update(conversation_work)
    .where(_held)
    .values(
        owner=None,
        lease_until=None,
        attempts=work.attempts - bindparam("undone", type_=sa.Integer),
        retry_at=now_ms() + bindparam("delay_ms", type_=sa.BigInteger),
    )
)


def release(tx: Transaction, lease: Lease, delay_ms: int, *, count_attempt: bool) -> None:
    """Free a lease with its work unfinished, to be claimed again after `delay_ms`. A lost lease changes nothing."""
    tx.execute(_RELEASE, **_of(lease), undone=0 if count_attempt else 1, delay_ms=delay_ms)


def _of(lease: Lease) -> dict[str, Any]:
    return {"conversation": lease.conversation_id, "me": lease.owner, "at_epoch": lease.epoch}


_STOP = scoped(
    sa.update(conversation_work)
    .where(
        work.conversation_id == bindparam("conversation"),
        work.enq_seq > work.done_seq,
        sa.or_(work.epoch == bindparam("at_epoch"), bindparam("any_epoch", type_=sa.Boolean)),
    )
    .values(stop_seq=work.enq_seq)
    .returning(work.conversation_id)
)


def stop(tx: Transaction, conversation_id: str, epoch: int | None) -> bool:
    """Ask for all pending work to end as stopped; False if there is none. With an epoch, only if that turn runs now."""
    row = tx.execute(_STOP, conversation=conversation_id, at_epoch=epoch or 0, any_epoch=epoch is None)
    return row.first() is not None


_PENDING = scoped(
    sa.select(work.done_seq, work.enq_seq, work.epoch).where(work.conversation_id == bindparam("conversation"))
)


def progress(tx: Transaction, conversation_id: str) -> tuple[int, int]:
    """Return `(done_seq, enq_seq)` of a conversation: the last seq answered, and the last seq accepted."""
    row = tx.execute(_PENDING, conversation=conversation_id).first()
    return (row.done_seq, row.enq_seq) if row else (0, 0)
