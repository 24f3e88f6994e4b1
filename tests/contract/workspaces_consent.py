"""Cases of people's consent for the contract of workspaces."""

from __future__ import annotations

from storage import consent
from storage.transaction import Transaction
from storage.values import Sender
from tests.contract.workspaces import CHANNEL, PERSON, Case, World, name_of

CASES = {
    name_of(consent.choices): Case(
        [
            lambda tx, w: (
                consent.set_conversation(tx, w.conversation.id, choice=False),
                consent.choices(tx, CHANNEL, PERSON, w.conversation.id).conversation is False,
            )
        ],
        lambda tx, w: consent.choices(tx, CHANNEL, "nobody", w.conversation.id),
        consent.Choices(),
        prepare=lambda tx, w: consent.set_conversation(tx, w.conversation.id, choice=False),
    ),
    name_of(consent.set_person): Case(
        [
            lambda tx, w: consent.set_person(tx, CHANNEL, Sender(PERSON), choice=False),
            lambda tx, w: consent.set_person(tx, CHANNEL, Sender("visitor-9"), choice=False),
        ]
    ),
    name_of(consent.set_conversation): Case(
        [lambda tx, w: consent.set_conversation(tx, w.conversation.id, choice=False)],
        lambda tx, w: consent.set_conversation(tx, w.conversation.id, choice=False),
        False,
    ),
    name_of(consent.is_begun_by): Case(
        [lambda tx, w: consent.is_begun_by(tx, w.conversation.id, CHANNEL, PERSON)],
        lambda tx, w: consent.is_begun_by(tx, w.conversation.id, CHANNEL, PERSON),
        False,
    ),
}


def fill(tx: Transaction, world: World) -> None:
    """Choices stand in tables that are filled already."""
