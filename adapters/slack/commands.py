"""Commands in Slack: `/myna ...`, or a mention with a command."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from adapters.slack import words
from adapters.slack.events import CHANNEL, Thread
from adapters.slack.slack_steering import SlackPerson, SlackSteering
from bot.chat.feedback import Feedback
from bot.chat.turns import Conversations
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
    """Return the command that a text consists of, None if it is not exactly a command."""
    return _NAMES.get(" ".join(text.lower().split()))


@dataclass(frozen=True, slots=True)
class Invocation:
    """Sender and place of a command. `thread` is None for slash commands, which do not give it, and new mentions."""

    tenant: str
    channel: str
    user: str
    locale: str | None
    thread: Thread | None = None


class Commands:
    """Runs commands. Each returns an ephemeral message, visible to its sender only."""

    def __init__(
        self,
        conversations: Conversations,
        feedback: Feedback,
        consent: Consent,
        steering: SlackSteering,
        workspace_id: str,
    ) -> None:
        self._steering = steering
        self._conversations = conversations
        self._feedback = feedback
        self._consent = consent
        self._workspace_id = workspace_id

    async def is_command(self, text: str, tenant: str, user: str) -> bool:
        """Return True if a text beside a mention is a command, so that the model must not answer it."""
        return command_of(text) is not None or await self._steering.is_meant_beside_mention(text, tenant, user)

    async def run(self, text: str, invocation: Invocation) -> dict[str, Any]:
        """Run a command and return its answer; an unknown command is answered with help."""
        if self._steering.is_meant(text):
            return await self._steering.answer(text, SlackPerson(invocation.tenant, invocation.user, invocation.locale))
        command = command_of(text or "help")
        if command == "new":
            return await self._new(invocation)
        if command == "feedback":
            return await self._ask_for_feedback(invocation)
        if command == "leave":
            return await self._leave(invocation)
        if command in ("privacy", "privacy on", "privacy off"):
            return await self._privacy(command, invocation)
        if command in ("privacy here on", "privacy here off"):
            return await self._privacy_here(command == "privacy here on", invocation)
        known = words.say("help", invocation.locale, command=SLASH)
        if command == "help":
            return {"text": known}
        return {"text": words.say("unknown", invocation.locale, command=text[:80].replace("`", "'")) + "\n\n" + known}

    async def _new(self, invocation: Invocation) -> dict[str, Any]:
        known = await self._conversation(invocation)
        if known is None:
            return {"text": words.say("no_conversation", invocation.locale)}
        await self._conversations.forget(self._workspace_id, known.id)
        if invocation.thread is not None:
            return {"text": words.say("forgot", invocation.locale)}
        return {"text": words.say("forgot_which", invocation.locale, title=known.title)}

    async def _ask_for_feedback(self, invocation: Invocation) -> dict[str, Any]:
        known = await self._conversation(invocation)
        if known is None:
            return {"text": words.say("no_conversation", invocation.locale)}
        try:
            reply = await self._feedback.last_reply(CHANNEL, known.id)
        except NotFound:
            return {"text": words.say("no_reply", invocation.locale)}
        return words.ask_for_feedback(reply.id, invocation.locale)

    async def _privacy(self, command: Command, invocation: Invocation) -> dict[str, Any]:
        """Store a person's consent if they gave it, and return what holds now, also for a known conversation."""
        person = f"{invocation.tenant}/{invocation.user}"
        if command != "privacy":
            await self._consent.set_person(CHANNEL, Sender(person), command == "privacy on")
        known = await self._conversation(invocation)
        said = await self._consent.choices(CHANNEL, person, known.id if known else None)
        everywhere = "learns" if self._consent.allows(replace(said, conversation=None)) else "learns_not"
        text = words.say(everywhere, invocation.locale)
        if known is not None and said.conversation is not None and said.person is not False:
            here = "learns_here" if said.conversation else "learns_not_here"
            text += " " + words.say(here, invocation.locale, title=known.title)
        return {"text": text + "\n" + words.say("privacy_how", invocation.locale, command=SLASH)}

    async def _privacy_here(self, choice: bool, invocation: Invocation) -> dict[str, Any]:
        known = await self._conversation(invocation)
        if known is None:
            return {"text": words.say("no_conversation", invocation.locale)}
        person = f"{invocation.tenant}/{invocation.user}"
        try:
            await self._consent.set_conversation(known.id, CHANNEL, person, choice)
        except NotAllowed:
            return {"text": words.say("not_yours_to_allow", invocation.locale)}
        said = await self._consent.choices(CHANNEL, person, known.id)
        text = words.say("learns_here" if choice else "learns_not_here", invocation.locale, title=known.title)
        if choice and said.person is False:
            text += " " + words.say("but_not_you", invocation.locale, command=SLASH)
        return {"text": text}

    async def _leave(self, invocation: Invocation) -> dict[str, Any]:
        if invocation.channel.startswith("D"):
            return {"text": words.say("left_direct", invocation.locale)}
        if invocation.thread is None:
            return {"text": words.say("only_in_thread", invocation.locale)}
        known = await self._conversation(invocation)
        if known is not None:
            await self._conversations.set_left(self._workspace_id, known.id, left=True)
        return {"text": words.say("left", invocation.locale)}

    async def _conversation(self, invocation: Invocation) -> Conversation | None:
        """Find the thread's conversation; without a thread, the last used one that the person began in this channel."""
        if invocation.thread is not None:
            try:
                return await self._conversations.find(self._workspace_id, CHANNEL, invocation.thread.key)
            except NotFound:
                return None
        begun = await self._conversations.list_of(self._workspace_id, CHANNEL, f"{invocation.tenant}/{invocation.user}")
        here = f"{invocation.tenant}/{invocation.channel}/"
        return next((known for known in begun if known.external_id.startswith(here)), None)
