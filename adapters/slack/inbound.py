"""What Slack tells us, however it comes: events, commands, and presses of buttons.

Knows: what each means for a conversation, and that it is stored before Slack hears that it arrived. Does not know:
HTTP, sockets, signatures.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Coroutine, Mapping
from typing import Any

from adapters.slack import words
from adapters.slack.client import SlackClient
from adapters.slack.commands import Commands, Place, command_of
from adapters.slack.events import CHANNEL, Spoken, read_change, read_message, read_stop, tenant_of, told_bot
from adapters.slack.installations import Installations
from adapters.slack.replies import Replies
from bot.conversation import Conversations
from bot.delivery import Never, NotNow, Unknown
from bot.errors import NotFound, Unavailable
from bot.feedback import Feedback
from storage.values import Conversation, Sender

log = logging.getLogger("myna.slack")

LOCALE_PATIENCE = 1.0
MAX_COMMANDS_KNOWN = 1_000

Body = Mapping[str, Any]


class SlackInbound:
    """Everything that Slack sends, for all places where the app is installed."""

    def __init__(
        self,
        conversations: Conversations,
        installations: Installations,
        replies: Replies,
        feedback: Feedback,
        workspace_id: str,
    ) -> None:
        self._conversations = conversations
        self._installations = installations
        self._replies = replies
        self._feedback = feedback
        self._workspace_id = workspace_id
        self._commands = Commands(conversations, feedback, workspace_id)
        self._commands_seen: OrderedDict[str, None] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    # --- events ---

    async def event(self, body: Body) -> None:
        """When this returns, what the event says is stored, or there was nothing to store.

        Raises `Unavailable` if it should come again.
        """
        tenant, event = tenant_of(body), body.get("event")
        kind = event.get("type") if isinstance(event, Mapping) else None
        if kind in ("app_uninstalled", "tokens_revoked"):
            await self._note_removed(tenant, body["event"])
            return
        bot_user = await self._bot_user(tenant, told_bot(body))
        if bot_user is None:
            log.info("an event of %s, where the app is not installed, is left alone", tenant or "nowhere")
        elif stop := read_stop(body):
            self._replies.note_stopped(stop.thread.channel, stop.streams)
            if known := await self._find(stop.thread.key):
                await self._conversations.stop(self._workspace_id, known.id, None)
        elif spoken := read_message(body, bot_user):
            await self._take(spoken)
        elif change := read_change(body, bot_user):
            if known := await self._find(change.thread.key):
                await self._conversations.revise(
                    self._workspace_id, known, change.message_id, change.parts, change.at_ms
                )
        elif kind in ("app_home_opened", "assistant_thread_started"):
            self._in_background(self._suggest_prompts(tenant, body["event"]))

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
        """A message to the bot, a command, or what is said in a thread that the bot takes part in."""
        if spoken.command and command_of(spoken.command):
            await self._run_command(spoken)
            return
        if spoken.is_in_thread or not spoken.is_addressed:
            known = await self._find(spoken.thread.key)
            if not spoken.is_addressed and (known is None or known.left_at is not None):
                return
            if known is not None and known.left_at is not None:
                await self._conversations.set_left(self._workspace_id, known.id, left=False)
        await self._conversations.accept(self._workspace_id, spoken.incoming)

    async def _run_command(self, spoken: Spoken) -> None:
        """Once for a message, which comes as a mention too; after a restart perhaps once more, which harms nothing."""
        if spoken.incoming.dedupe_key in self._commands_seen:
            return
        self._commands_seen[spoken.incoming.dedupe_key] = None
        if len(self._commands_seen) > MAX_COMMANDS_KNOWN:
            self._commands_seen.popitem(last=False)
        thread = spoken.thread
        locale = await self._locale(thread.tenant, spoken.user)
        place = Place(thread.tenant, thread.channel, spoken.user, locale, thread if spoken.is_in_thread else None)
        answer = await self._commands.run(spoken.command, place)
        in_thread = {"thread_ts": thread.ts} if spoken.is_in_thread else {}
        self._in_background(
            self._call(
                thread.tenant, "chat_postEphemeral", channel=thread.channel, user=spoken.user, **in_thread, **answer
            )
        )

    async def _suggest_prompts(self, tenant: str, event: Body) -> None:
        """In an empty direct conversation. Only old apps say in which thread; others fail if it is said."""
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

    async def _note_removed(self, tenant: str, event: Body) -> None:
        """With `tokens_revoked`, only a bot's tokens are ours."""
        tokens = event.get("tokens")
        if event.get("type") == "app_uninstalled" or (isinstance(tokens, Mapping) and tokens.get("bot")):
            await self._installations.remove(tenant)

    # --- commands, buttons, forms ---

    async def command(self, form: Body) -> dict[str, Any]:
        """The answer to `/myna ...`, for the person alone."""
        tenant, user = tenant_of(form), str(form.get("user_id", ""))
        locale = await self._locale(tenant, user)
        place = Place(tenant, str(form.get("channel_id", "")), user, locale)
        answer = await self._commands.run(str(form.get("text", "")).strip(), place)
        return {"response_type": "ephemeral", **answer}

    async def interaction(self, payload: Body) -> dict[str, Any] | None:
        """A button pressed, or a form sent; the answer is for a form that can't be taken as it is."""
        tenant, user = tenant_of(payload), payload.get("user")
        user_id = str(user.get("id", "")) if isinstance(user, Mapping) else ""
        if payload.get("type") == "view_submission":
            return await self._form_sent(payload.get("view"), tenant, user_id)
        actions = payload.get("actions")
        if payload.get("type") == "block_actions" and isinstance(actions, list):
            for action in actions:
                if isinstance(action, Mapping):
                    await self._pressed(action, tenant, user_id, str(payload.get("trigger_id", "")))
        return None

    async def _pressed(self, action: Body, tenant: str, user: str, trigger: str) -> None:
        if action.get("action_id") not in (words.VOTE, words.SAY_MORE):
            return
        verdict, _, reply_id = str(action.get("value", "")).partition(":")
        with contextlib.suppress(NotFound):
            reply = await self._feedback.reply(CHANNEL, reply_id)
            if not reply.conversation_key.startswith(f"{tenant}/"):
                return
            await self._feedback.vote(reply, CHANNEL, Sender(f"{tenant}/{user}"), 1 if verdict == "up" else -1)
            if verdict != "up":
                self._in_background(self._open_form(tenant, user, trigger, reply_id))

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
            await self._feedback.vote(reply, CHANNEL, Sender(f"{tenant}/{user}"), -1, reason, better)
        return None

    # --- calls that nothing waits for ---

    async def _locale(self, tenant: str, user: str) -> str | None:
        """The person's language if Slack says it soon: people wait for what it is needed for."""
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

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.warning(
                "Slack was not told: %s", error, exc_info=not isinstance(error, NotNow | Never | Unknown) and error
            )

    async def close(self) -> None:
        """Wait a little for what is still to be told."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2.0)
