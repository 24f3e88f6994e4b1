"""Consent to learning, per person and conversation: yes, no or not given.

`bot.privacy` decides what follows from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import bindparam

from storage.conversations import find_or_create_person, find_person
from storage.schema import conversation, person
from storage.transaction import Transaction, scoped
from storage.values import Sender


@dataclass(frozen=True, slots=True)
class Choices:
    """Consent of a person and of a conversation; None if nobody has decided."""

    person: bool | None = None
    conversation: bool | None = None


_OF_PERSON = scoped(sa.select(person.c.may_learn).where(person.c.id == bindparam("who")))
_OF_CONVERSATION = scoped(sa.select(conversation.c.may_learn).where(conversation.c.id == bindparam("conversation")))


def choices(tx: Transaction, channel: str, sender_key: str, conversation_id: str | None = None) -> Choices:
    """Return a person's consent and, with an id, a conversation's."""
    who = find_person(tx, channel, sender_key)
    return Choices(
        tx.execute(_OF_PERSON, who=who).scalar() if who is not None else None,
        tx.execute(_OF_CONVERSATION, conversation=conversation_id).scalar() if conversation_id is not None else None,
    )


_SET_PERSON = scoped(sa.update(person).where(person.c.id == bindparam("who")).values(may_learn=bindparam("choice")))


def set_person(tx: Transaction, channel: str, sender: Sender, choice: bool | None) -> None:
    """Store a person's consent, also before their first message."""
    tx.execute(_SET_PERSON, who=find_or_create_person(tx, channel, sender), choice=choice)


_SET_CONVERSATION = scoped(
    sa.update(conversation)
    .where(conversation.c.id == bindparam("conversation"))
    .values(may_learn=bindparam("choice", type_=sa.Boolean))
)


def set_conversation(tx: Transaction, conversation_id: str, choice: bool | None) -> bool:
    """Store the consent of a conversation; False if there is no such conversation."""
    return bool(tx.execute(_SET_CONVERSATION, conversation=conversation_id, choice=choice).rowcount)


_BEGUN_BY = scoped(sa.select(conversation.c.person_id).where(conversation.c.id == bindparam("conversation")))


def is_begun_by(tx: Transaction, conversation_id: str, channel: str, sender_key: str) -> bool:
    """Return True if that person began the conversation."""
    who = find_person(tx, channel, sender_key)
    return who is not None and tx.execute(_BEGUN_BY, conversation=conversation_id).scalar() == who
