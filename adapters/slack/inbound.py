"""Handling of Slack's events, commands, buttons and forms.

The same for HTTP and Socket Mode. Everything is stored before Slack gets its acknowledgement.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Mapping
from typing import Any

from adapters.slack import words
from adapters.slack.background import Background
from adapters.slack.client import SlackClient
from adapters.slack.commands import Commands, Invocation
from adapters.slack.events import (
    CHANNEL,
    MessageChange,
    Spoken,
    Stop,
    moment,
    read_change,
    read_message,
    read_stop,
    recipient_bot,
    tenant_of,
)
from adapters.slack.installations import Installations
from adapters.slack.replies import Replies
from adapters.slack.slack_steering import SlackPerson, SlackSteering
from bot.chat.delivery import Never, NotNow, Unknown
from bot.chat.feedback import Feedback
from bot.chat.turns import Conversations
from bot.errors import NotFound, QuotaExceeded, Unavailable
from bot.privacy.learning_consent import Consent
from storage import seen_events
from storage.scope import Scope
from storage.values import Conversation, Sender, storable

log = logging.getLogger("myna.slack")

LOCALE_PATIENCE = 1.0

Payload = Mapping[str, Any]


class SlackInbound:
    """Handler of all requests from Slack, for all installations."""

    def __init__(
        self,
        scope: Scope,
        conversations: Conversations,
        installations: Installations,
        replies: Replies,
        feedback: Feedback,
        consent: Consent,
        steering: SlackSteering,
    ) -> None:
        self._conversations = conversations
        self._installations = installations
        self._replies = replies
        self._feedback = feedback
        self._workspace_id = scope.workspace_id
        self._steering = steering
        self._commands = Commands(conversations, feedback, consent, steering, scope.workspace_id)
        self._commands_running: set[str] = set()
        self._seen = SeenEvents(scope)
        self._background = Background()

    # --- events ---

    async def event(self, body: Payload) -> None:
        """Store the content of an event, if it has any.

        Raises `Unavailable` if Slack should send it again.
        """
        tenant, event = tenant_of(body), body.get("event")
        kind = event.get("type") if isinstance(event, Mapping) else None
        if kind in ("app_uninstalled", "tokens_revoked"):
            await self._note_removed(tenant, body)
            return
        bot_user = await self._bot_user(tenant, recipient_bot(body))
        if bot_user is None:
            log.info("an event of %s, where the app is not installed, is left alone", tenant or "nowhere")
        elif stop := read_stop(body):
            await self._stop(stop)
        elif spoken := read_message(body, bot_user):
            await self._take(spoken)
        elif change := read_change(body, bot_user):
            await self._change(change)
        elif kind in ("app_home_opened", "assistant_thread_started"):
            self._background.start(self._suggest_prompts(tenant, body["event"]))

    async def _stop(self, stop: Stop) -> None:
        """Stop the running reply, unless the person has written since: then the event is late or a repetition."""
        self._replies.note_stopped(stop)
        known = await self._find(stop.thread.key)
        if known is None:
            return
        said_at = await self._replies.last_said(self._workspace_id, known.id)
        if moment(said_at) <= stop.at:
            await self._conversations.stop(self._workspace_id, known.id, None)

    async def _change(self, change: MessageChange) -> None:
        """Edit or delete a message. A deletion is noted, as it may arrive before its message."""
        if change.parts is None:
            await self._seen.note(_deletion_of(change.dedupe_key))
        if known := await self._find(change.thread.key):
            await self._conversations.revise(self._workspace_id, known, change.message_id, change.parts, change.at_ms)

    async def _bot_user(self, tenant: str, named: str) -> str | None:
        try:
            return await self._installations.bot_user(tenant, named)
        except (NotNow, Never, Unknown) as error:
            raise Unavailable(f"Slack does not say who the bot is: {error}.") from error

    async def _find(self, key: str) -> Conversation | None:
        try:
            return await self._conversations.find(self._workspace_id, CHANNEL, key)
        except NotFound:
            return None

    async def _take(self, spoken: Spoken) -> None:
        """Take a message to the bot, a command, or a message in a thread that the bot follows."""
        if spoken.command and await self._commands.is_command(spoken.command, spoken.thread.tenant, spoken.user):
            await self._run_command(spoken)
            return
        known = await self._find(spoken.thread.key) if spoken.is_in_thread else None
        if not spoken.is_addressed and (known is None or known.left_at is not None):
            return
        if await self._seen.is_known(_deletion_of(spoken.incoming.dedupe_key)):
            return
        accepted = await self._conversations.accept(self._workspace_id, spoken.incoming)
        if accepted.duplicate:
            return
        if known is not None and known.left_at is not None:
            await self._conversations.set_left(self._workspace_id, known.id, left=False)
        if spoken.files:
            self._background.start(self._tell_about_files(spoken))

    async def _tell_about_files(self, spoken: Spoken) -> None:
        """Tell the sender alone that files are not read: the model sees only their names, and may not say so."""
        thread = spoken.thread
        locale = await self._locale(thread.tenant, spoken.user)
        await self._call(
            thread.tenant,
            "chat_postEphemeral",
            channel=thread.channel,
            thread_ts=thread.ts,
            user=spoken.user,
            text=words.say("files", locale, names=", ".join(spoken.files)[:300]),
        )

    async def _run_command(self, spoken: Spoken) -> None:
        """Run a command once for its message, which may arrive as a mention too, or again."""
        key = f"command/{spoken.incoming.dedupe_key}"
        if key in self._commands_running or await self._seen.is_known(key):
            return
        self._commands_running.add(key)
        try:
            await self._answer_command(spoken)
            await self._seen.note(key)
        finally:
            self._commands_running.discard(key)

    async def _answer_command(self, spoken: Spoken) -> None:
        thread = spoken.thread
        locale = await self._locale(thread.tenant, spoken.user)
        invocation = Invocation(
            thread.tenant, thread.channel, spoken.user, locale, thread if spoken.is_in_thread else None
        )
        answer = await self._commands.run(spoken.command, invocation)
        in_thread = {"thread_ts": thread.ts} if spoken.is_in_thread else {}
        self._background.start(
            self._call(
                thread.tenant, "chat_postEphemeral", channel=thread.channel, user=spoken.user, **in_thread, **answer
            )
        )

    async def _suggest_prompts(self, tenant: str, event: Payload) -> None:
        """Suggest prompts in an empty direct conversation. Only old apps give the thread; in others it is an error."""
        thread = event.get("assistant_thread")
        if isinstance(thread, Mapping):
            channel, user, where = (
                thread.get("channel_id"),
                thread.get("user_id"),
                {"thread_ts": thread.get("thread_ts")},
            )
        elif event.get("tab") == "messages":
            channel, user, where = event.get("channel"), event.get("user"), {}
        else:
            return
        title, prompts = words.suggested_prompts(await self._locale(tenant, str(user)))
        await self._call(
            tenant,
            "assistant_threads_setSuggestedPrompts",
            channel_id=str(channel),
            title=title,
            prompts=prompts,
            **where,
        )

    async def _note_removed(self, tenant: str, body: Payload) -> None:
        """Delete an installation. `tokens_revoked` matters for a bot's tokens only.

        If the event is late, the app may be installed again: the event's time tells.
        """
        event, at = body["event"], body.get("event_time")
        tokens = event.get("tokens")
        if event.get("type") == "app_uninstalled" or (isinstance(tokens, Mapping) and tokens.get("bot")):
            known_at = at if isinstance(at, int | float) and not isinstance(at, bool) else time.time()
            await self._installations.remove(tenant, known_at + 1)  # Slack gives whole seconds

    # --- commands, buttons, forms ---

    async def command(self, form: Payload) -> dict[str, Any]:
        """Return the answer to `/myna ...`, an ephemeral message."""
        tenant, user = tenant_of(form), storable(str(form.get("user_id", "")))
        locale = await self._locale(tenant, user)
        invocation = Invocation(tenant, storable(str(form.get("channel_id", ""))), user, locale)
        answer = await self._commands.run(storable(str(form.get("text", ""))).strip(), invocation)
        return {"response_type": "ephemeral", **answer}

    async def interaction(self, payload: Payload) -> dict[str, Any] | None:
        """Take a button press or a form. Return the errors of a form that can't be taken, else None."""
        tenant, user = tenant_of(payload), payload.get("user")
        user_id = storable(str(user.get("id", ""))) if isinstance(user, Mapping) else ""
        if payload.get("type") == "view_submission":
            return await self._form_sent(payload.get("view"), tenant, user_id)
        actions = payload.get("actions")
        if payload.get("type") == "block_actions" and isinstance(actions, list):
            for action in actions:
                if isinstance(action, Mapping) and action.get("action_id") in (words.CONFIRM, words.DISMISS):
                    self._background.start(self._confirmation_pressed(action, tenant, user_id, payload))
                elif isinstance(action, Mapping):
                    try:
                        await self._pressed(action, tenant, user_id, str(payload.get("trigger_id", "")))
                    except QuotaExceeded as error:
                        self._background.start(self._tell_to_wait(tenant, user_id, payload, error.retry_after))
        return None

    async def _confirmation_pressed(self, action: Payload, tenant: str, user: str, payload: Payload) -> None:
        """Take a press of a confirmation button below a steering answer."""
        asker = SlackPerson(tenant, user, await self._locale(tenant, user))
        await self._steering.pressed(action, asker, str(payload.get("response_url", "")))

    async def _tell_to_wait(self, tenant: str, user: str, payload: Payload, seconds: float) -> None:
        channel = payload.get("channel")
        if isinstance(channel, Mapping):
            text = words.say("wait", await self._locale(tenant, user), seconds=str(math.ceil(seconds)))
            await self._call(tenant, "chat_postEphemeral", channel=str(channel.get("id", "")), user=user, text=text)

    async def _pressed(self, action: Payload, tenant: str, user: str, trigger: str) -> None:
        if action.get("action_id") not in (words.VOTE, words.SAY_MORE):
            return
        verdict, _, reply_id = storable(str(action.get("value", ""))).partition(":")
        with contextlib.suppress(NotFound):
            reply = await self._feedback.reply(CHANNEL, reply_id)
            if not reply.conversation_key.startswith(f"{tenant}/"):
                return
            if action.get("action_id") == words.VOTE:
                await self._feedback.vote(reply, CHANNEL, Sender(f"{tenant}/{user}"), 1 if verdict == "up" else -1)
            if verdict != "up":
                self._background.start(self._open_form(tenant, user, trigger, reply_id))

    async def _open_form(self, tenant: str, user: str, trigger: str, reply_id: str) -> None:
        locale = await self._locale(tenant, user)
        await self._call(tenant, "views_open", trigger_id=trigger, view=words.feedback_form(reply_id, locale))

    async def _form_sent(self, view: object, tenant: str, user: str) -> dict[str, Any] | None:
        if not isinstance(view, Mapping) or view.get("callback_id") != words.FEEDBACK_FORM:
            return None
        try:
            reply_id, locale, reason, better = words.filled_form(view)
        except ValueError:
            return None
        try:
            reply = await self._feedback.reply(CHANNEL, reply_id)
        except NotFound:
            return {"response_action": "errors", "errors": {"reason": words.say("gone", locale)}}
        if not reason and not better:
            return {"response_action": "errors", "errors": {"reason": words.say("form_empty", locale)}}
        if reply.conversation_key.startswith(f"{tenant}/"):
            try:
                # The form opens empty: a field left empty withdraws nothing.
                words_given = reason or None, better or None
                await self._feedback.vote(reply, CHANNEL, Sender(f"{tenant}/{user}"), -1, *words_given)
            except QuotaExceeded as error:
                wait = words.say("wait", locale, seconds=str(math.ceil(error.retry_after)))
                return {"response_action": "errors", "errors": {"reason": wait}}
        return None

    # --- calls in the background ---

    async def _locale(self, tenant: str, user: str) -> str | None:
        """Return a person's locale; None if Slack does not give it at once, as a person waits for the answer."""
        try:
            async with asyncio.timeout(LOCALE_PATIENCE):
                client = await self._installations.client(tenant)
                return await client.locale_of(user) if client else None
        except (NotNow, Never, Unknown, TimeoutError):
            return None

    async def _call(self, tenant: str, method: str, **arguments: Any) -> None:
        client: SlackClient | None = await self._installations.client(tenant)
        if client is not None:
            await client.call(method, **arguments)

    async def close(self) -> None:
        """Wait a moment for background calls, then cancel them."""
        await self._background.close()
        await self._steering.close()


class SeenEvents:
    """Keys of events already handled, so that a repeated delivery does nothing."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def note(self, key: str) -> None:
        await self._scope.write(seen_events.note, key)

    async def is_known(self, key: str) -> bool:
        return await self._scope.read(seen_events.is_known, key)


def _deletion_of(dedupe_key: str) -> str:
    return f"deleted/{dedupe_key}"
