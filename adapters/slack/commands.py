"""What people can tell Myna itself in Slack: by `/myna ...`, or by naming the bot and one word.

Knows: the commands and what each does to a conversation. Does not know: how answers are shown.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from adapters.slack import words
from adapters.slack.events import CHANNEL, Thread
from adapters.slack.slack_steering import Asker, SlackSteering
from bot.chat.feedback import Feedback
from bot.chat.history import ChatHistory
from bot.errors import NotAllowed, NotFound
from bot.privacy.learning_consent import Consent
from storage.values import Conversation, Sender

Command = Literal[
    "help", "new", "feedback", "leave", "privacy", "privacy on", "privacy off", "privacy here on", "privacy here off"
]
SLASH = "/myna"
_NAMES: dict[str, Command] = {
    "help": "help",
    "帮助": "help",
    "new": "new",
    "新对话": "new",
    "feedback": "feedback",
    "反馈": "feedback",
    "leave": "leave",
    "leave thread": "leave",
    "离开": "leave",
    "privacy": "privacy",
    "隐私": "privacy",
    "privacy on": "privacy on",
    "隐私 开": "privacy on",
    "privacy off": "privacy off",
    "隐私 关": "privacy off",
    "privacy here on": "privacy here on",
    "隐私 此处 开": "privacy here on",
    "privacy here off": "privacy here off",
    "隐私 此处 关": "privacy here off",
}


def command_of(text: str) -> Command | None:
    """The command that a text is, if it is one and nothing else."""
    return _NAMES.get(" ".join(text.lower().split()))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a command was given and by whom. A slash command does not say in which thread, a new mention is in none."""

    tenant: str
    channel: str
    user: str
    locale: str | None
    thread: Thread | None = None


class Commands:
    """Carries commands out. Each gives a message for the person alone."""

    def __init__(
        self, history: ChatHistory, feedback: Feedback, consent: Consent, steering: SlackSteering, workspace_id: str
    ) -> None:
        self._steering = steering
        self._history = history
        self._feedback = feedback
        self._consent = consent
        self._workspace_id = workspace_id

    async def is_command(self, said: str, tenant: str, user: str) -> bool:
        """Whether what somebody said to the bot by name is a command, and not for the model."""
        return command_of(said) is not None or await self._steering.is_meant_beside_mention(said, tenant, user)

    async def run(self, text: str, place: Place) -> dict[str, Any]:
        """The answer to a command, help for one that there is not."""
        if self._steering.is_meant(text):
            return await self._steering.answer(text, Asker(place.tenant, place.user, place.locale))
        command = command_of(text or "help")
        if command == "new":
            return await self._new(place)
        if command == "feedback":
            return await self._ask_for_feedback(place)
        if command == "leave":
            return await self._leave(place)
        if command in ("privacy", "privacy on", "privacy off"):
            return await self._privacy(command, place)
        if command in ("privacy here on", "privacy here off"):
            return await self._privacy_here(command == "privacy here on", place)
        known = words.say("help", place.locale, command=SLASH)
        if command == "help":
            return {"text": known}
        return {"text": words.say("unknown", place.locale, command=text[:80].replace("`", "'")) + "\n\n" + known}

    async def _new(self, place: Place) -> dict[str, Any]:
        known = await self._conversation(place)
        if known is None:
            return {"text": words.say("no_conversation", place.locale)}
        await self._history.forget(self._workspace_id, known.id)
        if place.thread is not None:
            return {"text": words.say("forgot", place.locale)}
        return {"text": words.say("forgot_which", place.locale, title=known.title)}

    async def _ask_for_feedback(self, place: Place) -> dict[str, Any]:
        known = await self._conversation(place)
        if known is None:
            return {"text": words.say("no_conversation", place.locale)}
        try:
            reply = await self._feedback.last_reply(CHANNEL, known.id)
        except NotFound:
            return {"text": words.say("no_reply", place.locale)}
        return words.ask_for_feedback(reply.id, place.locale)

    async def _privacy(self, command: Command, place: Place) -> dict[str, Any]:
        """What a person says of all that they write, and what holds now: here, if there is a conversation."""
        person = f"{place.tenant}/{place.user}"
        if command != "privacy":
            await self._consent.set_person(CHANNEL, Sender(person), command == "privacy on")
        known = await self._conversation(place)
        said = await self._consent.choices(CHANNEL, person, known.id if known else None)
        everywhere = "learns" if self._consent.allows(replace(said, conversation=None)) else "learns_not"
        text = words.say(everywhere, place.locale)
        if known is not None and said.conversation is not None and said.person is not False:
            here = "learns_here" if said.conversation else "learns_not_here"
            text += " " + words.say(here, place.locale, title=known.title)
        return {"text": text + "\n" + words.say("privacy_how", place.locale, command=SLASH)}

    async def _privacy_here(self, choice: bool, place: Place) -> dict[str, Any]:
        known = await self._conversation(place)
        if known is None:
            return {"text": words.say("no_conversation", place.locale)}
        person = f"{place.tenant}/{place.user}"
        try:
            await self._consent.set_conversation(known.id, CHANNEL, person, choice)
        except NotAllowed:
            return {"text": words.say("not_yours_to_allow", place.locale)}
        said = await self._consent.choices(CHANNEL, person, known.id)
        text = words.say("learns_here" if choice else "learns_not_here", place.locale, title=known.title)
        if choice and said.person is False:
            text += " " + words.say("but_not_you", place.locale, command=SLASH)
        return {"text": text}

    async def _leave(self, place: Place) -> dict[str, Any]:
        if place.channel.startswith("D"):
            return {"text": words.say("left_direct", place.locale)}
        if place.thread is None:
            return {"text": words.say("only_in_thread", place.locale)}
        known = await self._conversation(place)
        if known is not None:
            await self._history.set_left(self._workspace_id, known.id, left=True)
        return {"text": words.say("left", place.locale)}

    async def _conversation(self, place: Place) -> Conversation | None:
        """That of the thread, else the one that the person began here and that was used last."""
        if place.thread is not None:
            try:
                return await self._history.find(self._workspace_id, CHANNEL, place.thread.key)
            except NotFound:
                return None
        begun = await self._history.list_of(self._workspace_id, CHANNEL, f"{place.tenant}/{place.user}")
        here = f"{place.tenant}/{place.channel}/"
        return next((one for one in begun if one.external_id.startswith(here)), None)
