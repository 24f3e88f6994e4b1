"""Whose words may be learnt from: what people said, and what holds for those who said nothing.

Knows: the rule, and how people's choices are read and changed. Does not know: datasets, buttons, commands.
"""

from __future__ import annotations

from typing import Literal

from bot.errors import NotAllowed, NotFound
from storage import consent
from storage.consent import Choices
from storage.scope import Scope
from storage.values import Sender

Policy = Literal["opt-out", "opt-in"]


def may_learn(policy: Policy, person: bool | None, conversation: bool | None) -> bool:
    """Whether a person's words, and replies to them, may be learnt from. None: they have not said.

    A no of either always wins. Without one, `opt-out` needs no yes, and `opt-in` needs one of either.
    """
    if person is False or conversation is False:
        return False
    return policy == "opt-out" or person is True or conversation is True


class Consent:
    """What people of one workspace said, and what holds until they do."""

    def __init__(self, scope: Scope, policy: Policy) -> None:
        self._scope = scope
        self.policy: Policy = policy

    def allows(self, said: Choices) -> bool:
        """Whether what was said lets Myna learn."""
        return may_learn(self.policy, said.person, said.conversation)

    async def choices(self, channel: str, sender_key: str, conversation_id: str | None = None) -> Choices:
        """What a person said of themselves, and what was said of a conversation."""
        return await self._scope.read(consent.choices, channel, sender_key, conversation_id)

    async def set_person(self, channel: str, sender: Sender, choice: bool | None) -> None:
        """A person's word on all that they write, in any conversation. None: they take back what they said."""
        await self._scope.write(consent.set_person, channel, sender, choice)

    async def set_conversation(self, conversation_id: str, channel: str, sender_key: str, choice: bool | None) -> None:
        """A person's word on one conversation. Whoever takes part may say no; yes is for who began it alone to say.

        Raises `NotFound`, and `NotAllowed` for another's yes.
        """
        if choice is not False and not await self._scope.read(
            consent.is_begun_by, conversation_id, channel, sender_key
        ):
            raise NotAllowed("Only who began this conversation may let Myna learn from it.")
        if not await self._scope.write(consent.set_conversation, conversation_id, choice):
            raise NotFound("There is no such conversation.")
