"""Consent to learning: opt-out and opt-in policies, people's choices."""

from __future__ import annotations

from typing import Literal

from bot.errors import NotAllowed, NotFound
from storage import consent
from storage.consent import Choices
from storage.scope import Scope
from storage.values import Sender

Policy = Literal["opt-out", "opt-in"]


def may_learn(policy: Policy, person: bool | None, conversation: bool | None) -> bool:
    """Return True if a person's words, and the replies to them, may be learnt from.

    `person` and `conversation` are the choices for the person and for this conversation; None means no choice. A no in
    either always wins. Otherwise `opt-out` needs no yes, and `opt-in` needs a yes in one of the two.
    """
    if person is False or conversation is False:
        return False
    return policy == "opt-out" or person is True or conversation is True


class Consent:
    """Reads and changes the choices of one workspace's people; `policy` holds for everybody without a choice."""

    def __init__(self, scope: Scope, policy: Policy) -> None:
        self._scope = scope
        self.policy: Policy = policy

    def allows(self, said: Choices) -> bool:
        """Return True if these choices let Myna learn."""
        return may_learn(self.policy, said.person, said.conversation)

    async def choices(self, channel: str, sender_key: str, conversation_id: str | None = None) -> Choices:
        """Return a person's choice for all their words, and the choice for one conversation."""
        return await self._scope.read(consent.choices, channel, sender_key, conversation_id)

    async def set_person(self, channel: str, sender: Sender, choice: bool | None) -> None:
        """Set a person's choice for their words in every conversation. None takes the earlier choice back."""
        await self._scope.write(consent.set_person, channel, sender, choice)

    async def set_conversation(self, conversation_id: str, channel: str, sender_key: str, choice: bool | None) -> None:
        """Set the choice for one conversation: every participant may say no, only the person who began it may say yes.

        Raises `NotFound`, and `NotAllowed` if another participant says yes or takes a choice back.
        """
        if choice is not False and not await self._scope.read(
            consent.is_begun_by, conversation_id, channel, sender_key
        ):
            raise NotAllowed("Only the person who began this conversation may let Myna learn from it.")
        if not await self._scope.write(consent.set_conversation, conversation_id, choice):
            raise NotFound("There is no such conversation.")
