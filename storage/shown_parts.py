"""Write-ahead record of the channel messages that show a reply live.

Each message has a row from before it is made until the reply is complete in it, so that after a crash the next turn
finds it and takes it over. Every function is a unit of work for `Database.write`.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import bindparam

from storage.schema import conversation, identity, message, outbox, person, shown_part
from storage.transaction import Transaction, now_ms, scoped
from storage.values import new_id

# The `reply_id` of a message that is being deleted: no reply is shown in it.
WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True)
class ShownPart:
    """A message that shows a part of a reply. `provider_id` is None until the channel has told the message's id."""

    id: str
    reply_id: str
    is_stream: bool
    provider_id: str | None = None


@dataclass(frozen=True, slots=True)
class Asker:
    """The last person to write in a conversation. `message_id` is the channel's own id of their message."""

    conversation_key: str
    title: str
    sender_id: str
    message_id: str | None


_OPEN = scoped(
    sa.select(*[getattr(shown_part.c, name) for name in ShownPart.__slots__])
    .where(shown_part.c.conversation_id == bindparam("conversation"))
    .order_by(shown_part.c.id)
)
_DROP = scoped(
    sa.delete(shown_part).where(shown_part.c.id == bindparam("which"), shown_part.c.reply_id == bindparam("reply"))
)
_ASKER = scoped(
    sa.select(
        conversation.c.external_id.label("conversation_key"),
        conversation.c.title,
        identity.c.external_id.label("sender_id"),
        message.c.external_id.label("message_id"),
    )
    .select_from(
        message.join(conversation, conversation.c.id == message.c.conversation_id)
        .join(person, person.c.id == message.c.person_id)
        .join(identity, sa.and_(identity.c.person_id == person.c.id, identity.c.channel == conversation.c.channel))
    )
    .where(message.c.conversation_id == bindparam("conversation"), message.c.author == "person")
    .order_by(message.c.seq.desc())
    .limit(1)
)


def asker(tx: Transaction, conversation_id: str) -> Asker | None:
    """Return the last person to write in a conversation; None if unknown."""
    row = tx.execute(_ASKER, conversation=conversation_id).first()
    return Asker(**row._mapping) if row else None


_UNDELIVERED = scoped(
    sa.select(outbox.c.id)
    .where(outbox.c.conversation_id == bindparam("conversation"), outbox.c.state.in_(("pending", "sending")))
    .limit(1)
)


def is_clear(tx: Transaction, conversation_id: str) -> bool:
    """Return True if all earlier replies of a conversation are delivered, so that the next may be shown live."""
    is_delivered = tx.execute(_UNDELIVERED, conversation=conversation_id).first() is None
    return is_delivered and tx.execute(_OPEN, conversation=conversation_id).first() is None


_OWNED = scoped(
    sa.select(shown_part.c.id).where(shown_part.c.id == bindparam("which"), shown_part.c.reply_id == bindparam("reply"))
)


def is_owned(tx: Transaction, shown: ShownPart) -> bool:
    """Return True if a message still shows the reply it was made for: another process may have taken it over."""
    return tx.execute(_OWNED, which=shown.id, reply=shown.reply_id).first() is not None


_MAKE_MINE = scoped(
    sa.update(shown_part).where(shown_part.c.id == bindparam("which")).values(reply_id=bindparam("new_reply"))
)
_IS_STORED = scoped(sa.select(message.c.id).where(message.c.id == bindparam("reply")))


def take_over(tx: Transaction, conversation_id: str, reply_id: str) -> list[ShownPart]:
    """Return the messages that a reply is to fill, oldest first: its own, and those of dead turns.

    Messages of another reply, which was stored but not delivered, stay as they are; their rows are deleted.
    """
    mine = []
    for row in tx.execute(_OPEN, conversation=conversation_id).all():
        if row.reply_id == WITHDRAWN:
            mine.append(ShownPart(**row._mapping))
        elif row.reply_id != reply_id and tx.execute(_IS_STORED, reply=row.reply_id).first():
            tx.execute(_DROP, which=row.id, reply=row.reply_id)
        else:
            tx.execute(_MAKE_MINE, which=row.id, new_reply=reply_id)
            mine.append(ShownPart(**{**row._mapping, "reply_id": reply_id}))
    return mine


_INSERT = scoped(sa.insert(shown_part).values(created_at=now_ms()))


def begin(tx: Transaction, conversation_id: str, reply_id: str, is_stream: bool) -> ShownPart:
    """Record that a message is about to be made."""
    row_id = new_id()
    tx.execute(
        _INSERT, id=row_id, conversation_id=conversation_id, reply_id=reply_id, is_stream=is_stream, provider_id=None
    )
    return ShownPart(row_id, reply_id, is_stream)


_NAME = scoped(
    sa.update(shown_part).where(shown_part.c.id == bindparam("which")).values(provider_id=bindparam("provider"))
)


def name(tx: Transaction, shown: ShownPart, provider_id: str) -> None:
    """Store the channel's id of a message."""
    tx.execute(_NAME, which=shown.id, provider=provider_id)


_WITHDRAW = scoped(
    sa.update(shown_part)
    .where(shown_part.c.id == bindparam("which"), shown_part.c.reply_id == bindparam("reply"))
    .values(reply_id=WITHDRAWN)
)


def withdraw(tx: Transaction, shown: ShownPart) -> bool:
    """Mark a message for deletion; False if another reply has taken it over, and it must not be touched."""
    return tx.execute(_WITHDRAW, which=shown.id, reply=shown.reply_id).rowcount > 0


def drop(tx: Transaction, shown: ShownPart) -> bool:
    """Delete a message's row; False if another reply has taken it over, and it must not be touched."""
    return tx.execute(_DROP, which=shown.id, reply=shown.reply_id).rowcount > 0


_DROP_ALL = scoped(
    sa.delete(shown_part).where(
        shown_part.c.conversation_id == bindparam("conversation"), shown_part.c.reply_id == bindparam("reply")
    )
)


def settle(tx: Transaction, conversation_id: str, reply_id: str) -> None:
    """Delete all rows of a reply, which is complete in its messages: nothing is left to take over."""
    tx.execute(_DROP_ALL, conversation=conversation_id, reply=reply_id)
