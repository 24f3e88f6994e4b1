"""What people said about learning from their words: of themselves, and of single conversations.

Knows: that nothing said is kept apart from yes and no. Does not know: what follows from it (`bot.privacy`).
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
    """Whether a person's words, and those of a conversation, may be learnt from. None: nobody has said."""

    person: bool | None = None
    conversation: bool | None = None


_OF_PERSON = scoped(sa.select(person.c.may_learn).where(person.c.id == bindparam("who")))
_OF_CONVERSATION = scoped(sa.select(conversation.c.may_learn).where(conversation.c.id == bindparam("conversation")))


def choices(tx: Transaction, channel: str, sender_key: str, conversation_id: str | None = None) -> Choices:
    """What a person said of themselves, and what was said of a conversation."""
    who = find_person(tx, channel, sender_key)
    return Choices(
        tx.execute(_OF_PERSON, who=who).scalar() if who is not None else None,
        tx.execute(_OF_CONVERSATION, conversation=conversation_id).scalar() if conversation_id is not None else None,
    )


_SET_PERSON = scoped(sa.update(person).where(person.c.id == bindparam("who")).values(may_learn=bindparam("choice")))


def set_person(tx: Transaction, channel: str, sender: Sender, choice: bool | None) -> None:
    """Write down what a person says of all their words, also before they have said anything else."""
    tx.execute(_SET_PERSON, who=find_or_create_person(tx, channel, sender), choice=choice)


_SET_CONVERSATION = scoped(
    sa.update(conversation)
    .where(conversation.c.id == bindparam("conversation"))
    .values(may_learn=bindparam("choice", type_=sa.Boolean))
)


def set_conversation(tx: Transaction, conversation_id: str, choice: bool | None) -> bool:
    """Write down what is said of a conversation. False if there is none."""
    return bool(tx.execute(_SET_CONVERSATION, conversation=conversation_id, choice=choice).rowcount)


_BEGUN_BY = scoped(sa.select(conversation.c.person_id).where(conversation.c.id == bindparam("conversation")))


def is_begun_by(tx: Transaction, conversation_id: str, channel: str, sender_key: str) -> bool:
    """Whether a person began a conversation."""
    who = find_person(tx, channel, sender_key)
    return who is not None and tx.execute(_BEGUN_BY, conversation=conversation_id).scalar() == who
