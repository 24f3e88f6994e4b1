"""Steering from Slack: confirmation buttons, job progress, charts.

The grammar of steering lines is in `bot.steering.steering`; here are the account behind a Slack user, and retries.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapters.slack import words
from adapters.slack.background import Background
from adapters.slack.client import CallRefused, SlackClient
from adapters.slack.events import CHANNEL
from adapters.slack.installations import Installations
from bot.access.accounts import Accounts
from bot.access.roles import Actor
from bot.chat.delivery import Never, NotNow, Unknown
from bot.errors import MynaError
from bot.steering.line_grammar import begins_with_verb, is_line
from bot.steering.line_words import told
from bot.steering.steering import Answer, Picture, Steering
from storage.database import StorageUnavailable

log = logging.getLogger("myna.slack")

UPDATE_SECONDS = 3.0
# Delays between tries to tell the end of a job.
LAST_WORD_DELAYS = (0.0, 2.0, 5.0, 15.0, 30.0)
AGAIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class SlackPerson:
    """The Slack user who sent a steering line, with their locale."""

    tenant: str
    user: str
    locale: str | None


class SlackSteering:
    """Steering lines from Slack. Jobs are followed in the background until they rest or the server stops."""

    def __init__(self, steering: Steering, accounts: Accounts, installations: Installations) -> None:
        self._steering = steering
        self._accounts = accounts
        self._installations = installations
        self._background = Background(close_seconds=0.0)
        self._followed: dict[JobMessage, str | None] = {}

    @staticmethod
    def is_meant(text: str) -> bool:
        """Return True if the text after `/myna` is a steering line."""
        return begins_with_verb(text)

    async def is_meant_beside_mention(self, text: str, tenant: str, user: str) -> bool:
        """Return True if a text beside a mention is a complete steering line of a linked account.

        From anybody else, "stop" is an ordinary word to the bot.
        """
        return is_line(text) and await self._accounts.actor_of(CHANNEL, f"{tenant}/{user}") is not None

    async def answer(self, text: str, asker: SlackPerson) -> dict[str, Any]:
        """Run a line. Return an ephemeral message, with buttons if it needs confirmation."""
        return _shown(await self._run(text, asker), asker)

    async def _run(self, text: str, asker: SlackPerson) -> Answer:
        actor = await self._accounts.actor_of(CHANNEL, f"{asker.tenant}/{asker.user}")
        if actor is None:
            identity = f"{CHANNEL}:{asker.tenant}/{asker.user}"
            return Answer(words.say("not_linked", asker.locale, identity=identity), is_refusal=True)
        answer = await self._steering.run(actor, text, asker.locale)
        if answer.job_id is not None or answer.picture is not None:
            self._background.start(self._tell_more(actor, answer, asker))
        return answer

    async def pressed(self, action: Mapping[str, Any], asker: SlackPerson, response_url: str) -> None:
        """Take a press of a confirmation button: run its line, and replace the question by the result.

        A refusal is posted beside it instead: it may come from a second press, and must not hide the first result.
        """
        answer = await self._run_pressed(action, asker)
        client = await self._installations.client(asker.tenant)
        if client is not None:
            await client.respond(response_url, {"replace_original": not answer.is_refusal, **_shown(answer, asker)})

    async def _run_pressed(self, action: Mapping[str, Any], asker: SlackPerson) -> Answer:
        if action.get("action_id") == words.DISMISS:
            return Answer(words.say("dismissed", asker.locale))
        try:
            return await self._run(str(action.get("value", "")), asker)
        except (StorageUnavailable, MynaError) as error:
            log.warning("what somebody confirmed in Slack could not be done: %s", error)
            return Answer(words.say("did_not_work", asker.locale), is_refusal=True)

    def tell_of_harm(self, version: str, because: str) -> None:
        """Tell linked admins, in the background, that a canary was rolled back automatically."""
        self._background.start(self._tell_admins(version, because))

    async def _tell_admins(self, version: str, because: str) -> None:
        for identity in await self._accounts.admins_on(CHANNEL):
            tenant, _, user = identity.partition("/")
            if (client := await self._installations.client(tenant)) is not None:
                self._background.start(_tell_of_harm(client, user, version, because))

    async def close(self) -> None:
        """Stop following jobs, and say so in the messages that show them."""
        left = dict(self._followed)
        await self._background.close()
        farewells = Background()
        for message, locale in left.items():
            farewells.start(message.leave(words.say("left_behind", locale)))
        await farewells.close()

    async def _tell_more(self, actor: Actor, answer: Answer, asker: SlackPerson) -> None:
        """Send what an ephemeral answer can't hold as a direct message: a chart, or the progress of a job."""
        client = await self._installations.client(asker.tenant)
        if client is None:
            return
        if answer.picture is not None:
            await _show_picture(client, asker.user, answer.picture)
        if answer.job_id is not None:
            await self._follow(JobMessage(client, asker.user), actor, answer.job_id, asker.locale)

    async def _follow(self, message: JobMessage, actor: Actor, job_id: str, locale: str | None) -> None:
        """Show the progress of a job in one message until the job rests; retry while Slack fails."""
        self._followed[message] = locale
        try:
            await self._keep_telling(message, actor, job_id, locale)
        finally:
            del self._followed[message]

    async def _keep_telling(self, message: JobMessage, actor: Actor, job_id: str, locale: str | None) -> None:
        while True:
            try:
                async with contextlib.aclosing(self._steering.follow(actor, job_id, locale)) as states:
                    async for text, is_last in states:
                        if is_last:
                            await message.end_with(text)
                            return
                        is_shown = False
                        while not is_shown:
                            is_shown = await message.show(text)
                            if message.is_lost:
                                return
                            await asyncio.sleep(UPDATE_SECONDS)
                return
            except StorageUnavailable as error:
                log.warning("the job %s can't be looked at, trying again: %s", job_id, error)
                await asyncio.sleep(AGAIN_SECONDS)
            except MynaError as error:
                await message.end_with(told(error, locale))
                return


class JobMessage:
    """A direct message that is posted once and then updated."""

    def __init__(self, client: SlackClient, user: str) -> None:
        self._client = client
        self._user = user
        self._channel = ""
        self._ts = ""
        self._text = ""
        # The message is gone, or may be: a second one would be worse than none.
        self.is_lost = False

    async def show(self, text: str) -> bool:
        """Show a text. Return False if Slack did not take it."""
        try:
            await self._put(text)
        except (NotNow, Unknown, Never) as error:
            log.info("Slack was not told how a job goes: %s", error)
            self.is_lost |= isinstance(error, Never)
            return False
        return True

    async def end_with(self, text: str) -> None:
        """Show the last text, with retries."""
        for delay in LAST_WORD_DELAYS:
            await asyncio.sleep(delay)
            try:
                await self._put(text, must=True)
                return
            except NotNow as error:
                await asyncio.sleep(error.retry_after)
            except (Unknown, Never) as error:
                log.warning("Slack was not told how a job ended: %s", error)
                if isinstance(error, Never) or self.is_lost:
                    return

    async def leave(self, note: str) -> None:
        """Append a note that the message is no longer updated. Raises as `SlackClient.call`."""
        if self._ts and not self.is_lost:
            await self._put(f"{self._text}\n{note}", must=True)

    async def _put(self, text: str, *, must: bool = False) -> None:
        method = "chat_update" if self._ts else "chat_postMessage"
        if method == "chat_update" and not must and not self._client.has_room(method):
            raise NotNow(UPDATE_SECONDS)
        self._channel = self._channel or await _direct_channel(self._client, self._user)
        where: dict[str, Any] = {"ts": self._ts} if self._ts else {}
        try:
            answer = await self._client.call(method, channel=self._channel, **where, **words.steering_answer(text))
        except Unknown:
            self.is_lost = not self._ts
            raise
        self._ts = self._ts or str(answer.get("ts") or "")
        self._text = text


def _shown(answer: Answer, asker: SlackPerson) -> dict[str, Any]:
    return words.steering_answer(answer.text, answer.confirm, asker.locale)


async def _tell_of_harm(client: SlackClient, user: str, version: str, because: str) -> None:
    text = words.say("rolled_back_for_harm", await _locale_of(client, user), version=version, because=because)
    await JobMessage(client, user).end_with(text)


async def _locale_of(client: SlackClient, user: str) -> str | None:
    try:
        return await client.locale_of(user)
    except (NotNow, Unknown, Never):
        return None


async def _direct_channel(client: SlackClient, user: str) -> str:
    opened = await client.call("conversations_open", users=user)
    return str((opened.get("channel") or {}).get("id", ""))


async def _show_picture(client: SlackClient, user: str, picture: Picture) -> None:
    """Upload a chart, if the app may; a failure is only logged."""
    try:
        await client.upload(await _direct_channel(client, user), "chart.png", await picture.png(), picture.alt)
    except CallRefused as error:
        log.info("a picture was left out (the app needs the scope files:write): %s", error)
    except (NotNow, Never, Unknown) as error:
        log.info("a picture was left out: %s", error)
