"""The messages of a channel that show a reply, while they are being made: what a crash leaves is found here.

Knows: one row a message, from before it is made until the reply stands complete in it. Does not know: the channel's
calls. Every function is a unit of work for `Database.write`.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import bindparam

from storage.schema import conversation, identity, message, outbox, person, shown_part
from storage.transaction import Transaction, now_ms, scoped
from storage.values import new_id

# The owner of a message that is being taken away: nobody shows anything in it any more.
WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True)
class ShownPart:
    """One message that shows a part of a reply. `provider_id` is None as long as the channel has not named it."""

    id: str
    reply_id: str
    is_stream: bool
    provider_id: str | None = None


@dataclass(frozen=True, slots=True)
class Asker:
    """Who spoke last in a conversation, and where. `message_id` is the channel's own id of what they said."""

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
    """Who spoke last, None if nobody is known to have."""
    row = tx.execute(_ASKER, conversation=conversation_id).first()
    return Asker(**row._mapping) if row else None


_UNDELIVERED = scoped(
    sa.select(outbox.c.id)
    .where(outbox.c.conversation_id == bindparam("conversation"), outbox.c.state.in_(("pending", "sending")))
    .limit(1)
)


def is_clear(tx: Transaction, conversation_id: str) -> bool:
    """Whether all earlier replies of a conversation stand where they belong, so that the next may be shown live."""
    is_delivered = tx.execute(_UNDELIVERED, conversation=conversation_id).first() is None
    return is_delivered and tx.execute(_OPEN, conversation=conversation_id).first() is None


_OWNED = scoped(
    sa.select(shown_part.c.id).where(shown_part.c.id == bindparam("which"), shown_part.c.reply_id == bindparam("reply"))
)


def is_owned(tx: Transaction, shown: ShownPart) -> bool:
    """Whether a message still shows the reply that it was made for: another process may have taken it over."""
    return tx.execute(_OWNED, which=shown.id, reply=shown.reply_id).first() is not None


_MAKE_MINE = scoped(
    sa.update(shown_part).where(shown_part.c.id == bindparam("which")).values(reply_id=bindparam("new_reply"))
)
_IS_STORED = scoped(sa.select(message.c.id).where(message.c.id == bindparam("reply")))


def take_over(tx: Transaction, conversation_id: str, reply_id: str) -> list[ShownPart]:
    """The messages in which a reply shall stand from now on, oldest first: its own, and those of turns that died.

    What is left of another reply, which was stored and could not be delivered, stays as it is and is forgotten.
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
    """Note that a message is about to be made."""
    row_id = new_id()
    tx.execute(
        _INSERT, id=row_id, conversation_id=conversation_id, reply_id=reply_id, is_stream=is_stream, provider_id=None
    )
    return ShownPart(row_id, reply_id, is_stream)


_NAME = scoped(
    sa.update(shown_part).where(shown_part.c.id == bindparam("which")).values(provider_id=bindparam("provider"))
)


def name(tx: Transaction, shown: ShownPart, provider_id: str) -> None:
    """Note how the channel names a message."""
    tx.execute(_NAME, which=shown.id, provider=provider_id)


_WITHDRAW = scoped(
    sa.update(shown_part)
    .where(shown_part.c.id == bindparam("which"), shown_part.c.reply_id == bindparam("reply"))
    .values(reply_id=WITHDRAWN)
)


def withdraw(tx: Transaction, shown: ShownPart) -> bool:
    """Begin to take a message away. False if it is another reply's by now, and so not to be touched."""
    return tx.execute(_WITHDRAW, which=shown.id, reply=shown.reply_id).rowcount > 0


def drop(tx: Transaction, shown: ShownPart) -> bool:
    """Forget a message. False if it is another reply's by now, and so not to be touched."""
    return tx.execute(_DROP, which=shown.id, reply=shown.reply_id).rowcount > 0


_DROP_ALL = scoped(
    sa.delete(shown_part).where(
        shown_part.c.conversation_id == bindparam("conversation"), shown_part.c.reply_id == bindparam("reply")
    )
)


def settle(tx: Transaction, conversation_id: str, reply_id: str) -> None:
    """The reply stands complete in its messages; nothing is left to be taken over."""
    tx.execute(_DROP_ALL, conversation=conversation_id, reply=reply_id)
