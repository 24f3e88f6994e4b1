"""Conversations, their people and their messages.

Leases and the order of work are in `storage.inbox`.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from storage.learning_schema import release
from storage.schema import conversation, conversation_work, identity, message, person, reply
from storage.transaction import Transaction, now_ms, scoped
from storage.values import Conversation, Incoming, Message, Sender, new_id, text_of

MAX_TITLE_CHARS = 80

_PLACE = scoped(
    sa.select(conversation.c.id, identity.c.person_id)
    .join(identity, identity.c.channel == conversation.c.channel)
    .where(
        conversation.c.channel == bindparam("channel"),
        conversation.c.external_id == bindparam("conversation_key"),
        identity.c.external_id == bindparam("sender_key"),
    )
)
_FIND_PERSON = scoped(
    sa.select(identity.c.person_id).where(
        identity.c.channel == bindparam("channel"), identity.c.external_id == bindparam("external")
    )
)
_INSERT_PERSON = scoped(sa.insert(person).values(created_at=now_ms()))
_INSERT_IDENTITY = scoped(sa.insert(identity).values(created_at=now_ms()))


def _insert_conversation(insert: Any) -> sa.Executable:
    clause: sa.Executable = (
        insert(conversation).values(created_at=now_ms()).on_conflict_do_nothing().returning(conversation.c.id)
    )
    return clause


_INSERT_CONVERSATION = scoped(_insert_conversation)
_CONVERSATION_ID = scoped(
    sa.select(conversation.c.id).where(
        conversation.c.channel == bindparam("channel"), conversation.c.external_id == bindparam("external")
    )
)


def place(tx: Transaction, incoming: Incoming) -> tuple[str, str]:
    """Return `(conversation id, person id)` of a message, and create both if they are new."""
    known = tx.execute(
        _PLACE,
        channel=incoming.channel,
        conversation_key=incoming.conversation_key,
        sender_key=incoming.sender.external_id,
    ).first()
    if known is not None:
        return known.id, known.person_id
    person_id = find_or_create_person(tx, incoming.channel, incoming.sender)
    return _find_or_create_conversation(tx, incoming, person_id), person_id


def find_person(tx: Transaction, channel: str, sender_key: str) -> str | None:
    """Return the id of the person whom a channel knows by `sender_key`."""
    known: str | None = tx.execute(_FIND_PERSON, channel=channel, external=sender_key).scalar()
    return known


def find_or_create_person(tx: Transaction, channel: str, sender: Sender) -> str:
    """Return the id of the person whom a channel knows as `sender`, created if new."""
    known = find_person(tx, channel, sender.external_id)
    if known is not None:
        return known
    person_id = new_id()
    tx.execute(_INSERT_PERSON, id=person_id, display_name=sender.display_name, locale=sender.locale)
    tx.execute(_INSERT_IDENTITY, id=new_id(), person_id=person_id, channel=channel, external_id=sender.external_id)
    return person_id


def _find_or_create_conversation(tx: Transaction, incoming: Incoming, person_id: str) -> str:
    conversation_id = new_id()
    made = tx.execute(
        _INSERT_CONVERSATION,
        id=conversation_id,
        channel=incoming.channel,
        external_id=incoming.conversation_key,
        person_id=person_id,
        title=shorten_title(text_of(incoming.parts)),
    )
    if made.first() is not None:
        return conversation_id
    known: str = tx.execute(_CONVERSATION_ID, channel=incoming.channel, external=incoming.conversation_key).scalar_one()
    return known


def shorten_title(text: str) -> str:
    """Shorten a text to a conversation's title: one line of at most `MAX_TITLE_CHARS` characters."""
    words = " ".join(text.split())
    return words if len(words) <= MAX_TITLE_CHARS else words[: MAX_TITLE_CHARS - 1].rstrip() + "…"


_conversations = sa.select(
    conversation.c.id,
    conversation.c.channel,
    conversation.c.external_id,
    conversation.c.title,
    conversation_work.c.updated_at,
    conversation.c.left_at,
).join(conversation_work, conversation_work.c.conversation_id == conversation.c.id)
_FIND_CONVERSATION = scoped(
    _conversations.where(
        conversation.c.channel == bindparam("channel"), conversation.c.external_id == bindparam("external")
    )
)
_LIST_CONVERSATIONS = scoped(
    _conversations.join(identity, identity.c.person_id == conversation.c.person_id)
    .where(
        identity.c.channel == bindparam("channel"),
        identity.c.external_id == bindparam("external"),
        conversation.c.channel == bindparam("channel"),
    )
    .order_by(conversation_work.c.updated_at.desc(), conversation.c.id.desc())
    .limit(bindparam("most", type_=sa.Integer))
)


def find_conversation(tx: Transaction, channel: str, key: str) -> Conversation | None:
    """Return the conversation that a channel knows by `key`."""
    row = tx.execute(_FIND_CONVERSATION, channel=channel, external=key).first()
    return Conversation(**row._mapping) if row else None


def list_conversations(tx: Transaction, channel: str, sender_key: str, most: int = 100) -> list[Conversation]:
    """Return a person's conversations on a channel, the most recently used first."""
    rows = tx.execute(_LIST_CONVERSATIONS, channel=channel, external=sender_key, most=most)
    return [Conversation(**row._mapping) for row in rows]


_message_columns = (
    message.c.id,
    message.c.seq,
    message.c.author,
    message.c.parts,
    message.c.created_at,
    message.c.external_id,
    reply.c.state.label("reply_state"),
    reply.c.origin,
)
_messages = sa.select(*_message_columns).where(
    message.c.conversation_id == bindparam("conversation"), message.c.superseded_at.is_(None)
)


def _with_reply(clause: sa.Select[Any], source: sa.FromClause = message) -> sa.Select[Any]:
    on = sa.and_(reply.c.message_id == message.c.id, reply.c.workspace_id == message.c.workspace_id)
    return clause.select_from(source.outerjoin(reply, on))


_NEWEST_MESSAGES = scoped(
    _with_reply(_messages)
    .order_by(message.c.seq.desc(), message.c.rank.desc())
    .limit(bindparam("most", type_=sa.Integer))
)
# The release's number is joined here: a query of its own would cost each turn a round trip.
_CONTEXT = scoped(
    _with_reply(
        _messages.add_columns(release.c.number),
        message.join(conversation, conversation.c.id == message.c.conversation_id).outerjoin(
            release, release.c.workspace_id == message.c.workspace_id
        ),
    )
    .where(message.c.seq <= bindparam("last_seq"), message.c.seq >= conversation.c.context_from_seq)
    .order_by(message.c.seq.desc(), message.c.rank.desc())
    .limit(bindparam("most", type_=sa.Integer))
)


def newest_messages(tx: Transaction, conversation_id: str, most: int = 200) -> list[Message]:
    """Return the last `most` messages, oldest first."""
    rows = tx.execute(_NEWEST_MESSAGES, conversation=conversation_id, most=most).all()
    return [_to_message(row) for row in reversed(rows)]


def context(tx: Transaction, conversation_id: str, last_seq: int, most: int = 200) -> tuple[list[Message], int]:
    """Return the context for answering `last_seq`, and the number of the release in force (0 before the first).

    The context is the last `most` messages since "/new", oldest first.
    """
    rows = tx.execute(_CONTEXT, conversation=conversation_id, last_seq=last_seq, most=most).all()
    release_number = next((row.number for row in rows), None) or 0
    return [_to_message(row) for row in reversed(rows)], release_number


def _to_message(row: Any) -> Message:
    values = {**row._mapping, "parts": tuple(row.parts)}
    values.pop("number", None)
    return Message(**values)


_REPLY_TO = scoped(
    _with_reply(_messages)
    .where(message.c.rank == 1, message.c.seq >= bindparam("seq"))
    .order_by(message.c.seq)
    .limit(1)
)


def reply_to(tx: Transaction, conversation_id: str, seq: int) -> Message | None:
    """Return the reply that covers message `seq`, if there is one yet."""
    row = tx.execute(_REPLY_TO, conversation=conversation_id, seq=seq).first()
    return _to_message(row) if row else None


_FORGET = scoped(
    sa.update(conversation)
    .where(conversation.c.id == bindparam("conversation"))
    .values(context_from_seq=bindparam("from_seq"))
)
_LAST_SEQ = scoped(
    sa.select(conversation_work.c.enq_seq).where(conversation_work.c.conversation_id == bindparam("conversation"))
)


def forget_context(tx: Transaction, conversation_id: str) -> None:
    """Hide all earlier messages from the model; they stay stored."""
    last_seq = tx.execute(_LAST_SEQ, conversation=conversation_id).scalar() or 0
    tx.execute(_FORGET, conversation=conversation_id, from_seq=last_seq + 1)


_LEAVE = scoped(sa.update(conversation).where(conversation.c.id == bindparam("conversation")).values(left_at=now_ms()))
_REJOIN = scoped(sa.update(conversation).where(conversation.c.id == bindparam("conversation")).values(left_at=None))


def set_left(tx: Transaction, conversation_id: str, *, left: bool) -> None:
    """Have the bot leave a thread of several people, where it then answers only if named, or rejoin it."""
    tx.execute(_LEAVE if left else _REJOIN, conversation=conversation_id)
