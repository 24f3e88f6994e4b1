"""Live display of a running reply: streamed, or posted and updated.

Streams: docs.slack.dev/reference/methods/chat.startStream. The display may be lost at any time;
`adapters.slack.replies` completes it once the reply is stored.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from typing import Any

from adapters.slack import message_splitting, words
from adapters.slack.client import CallRefused, SlackClient
from adapters.slack.events import Thread
from bot.chat.delivery import NotNow, Unknown
from bot.chat.live import Ended, LiveEvents, LiveTurn, Started, Text
from storage import shown_parts
from storage.database import Database
from storage.shown_parts import ShownPart

METADATA_TYPE = "myna_reply"
FLUSH_SECONDS = 1.0
FIRST_FLUSH_CHARS = 8
UPDATE_SECONDS = 3.0
# Slack ends a stream after about five minutes. We end it before: at a good place from the first age on, then anywhere.
ROTATE_SECONDS, ROTATE_ANYWHERE_SECONDS = 240.0, 270.0
_PERSON = re.compile(r"[UW][A-Z0-9]+")


@dataclass(slots=True)
class ShownMessage:
    """A message that shows the reply's text from `start` up to `end`."""

    row: ShownPart
    ts: str
    start: int
    end: int
    opened_at: float
    shown_at: float
    is_streaming: bool
    was_stopped: bool = False  # by the person, through Slack
    is_complete: bool = False  # the text after `end` is in another message


@dataclass(frozen=True, slots=True)
class Destination:
    """The thread of a reply, and the person who spoke last there (`asker`, as `team/user`)."""

    workspace_id: str
    conversation_id: str
    reply_id: str
    thread: Thread
    asker: str

    def recipient(self) -> dict[str, str] | None:
        """Return the recipient arguments of a stream, {} in a direct conversation; None if it can't be streamed."""
        if self.thread.is_direct:
            return {}
        team, _, user = self.asker.rpartition("/")
        return {"recipient_team_id": team, "recipient_user_id": user} if _PERSON.fullmatch(user) and team else None

    def part_id(self, number: int) -> str:
        """Return the part id of a message of the complete reply."""
        return f"{self.reply_id}.{number}"

    def metadata(self, part_id: str) -> dict[str, Any]:
        """Return a message's metadata, by which it is found again."""
        return {"event_type": METADATA_TYPE, "event_payload": {"reply_id": self.reply_id, "part_id": part_id}}


class LiveReply:
    """A running reply. `is_blind` is True once it is unknown what the thread shows."""

    def __init__(self, client: SlackClient, database: Database, destination: Destination) -> None:
        self._client = client
        self._database = database
        self.destination = destination
        self.text = ""
        self.messages: list[ShownMessage] = []
        self.is_blind = False
        self._can_stream = True

    # --- while the reply is made ---

    async def follow(self, turn: LiveTurn) -> bool:
        """Show the turn's text until it ends. Return False if it ended without a reply."""
        async for batch in turn.read(turn.first_seq, FLUSH_SECONDS):
            self._take(batch)
            if isinstance(batch[-1], Ended):
                return True
            if self._is_due():
                await self._show_more()
        return False

    def _take(self, batch: LiveEvents) -> None:
        for event in batch:
            if isinstance(event, Started):
                # A restart after the first piece takes back what the thread shows: `post` writes the reply anew.
                self.is_blind = self.is_blind or bool(self.messages)
                self.text = ""
            elif isinstance(event, Text):
                self.text += event.text

    def _is_due(self) -> bool:
        if self.is_blind or not self.text.strip():
            return False
        if not self.messages:
            return len(self.text) >= FIRST_FLUSH_CHARS
        last = self.messages[-1]
        pause = FLUSH_SECONDS if last.is_streaming else UPDATE_SECONDS
        return last.end < len(self.text) and time.monotonic() - last.shown_at >= pause

    async def _show_more(self) -> None:
        try:
            await self._show_all()
        except NotNow:
            return  # the next piece tries again, and the end is shown in any case
        except (CallRefused, Unknown):
            self.is_blind = True

    async def _show_all(self) -> None:
        """Update the thread to the text so far. Raises `NotNow`, `CallRefused` or `Unknown`."""
        if not self.messages:
            await self._open(0)
        while (cut := self._cut()) is not None:
            await self._make_sure_it_is_ours(self.messages[-1])
            await self._close(self.messages[-1], cut)
            await self._open(cut)
        if self.messages[-1].end < len(self.text):
            await self._extend(self.messages[-1])

    def _cut(self) -> int | None:
        """Return the position at which the last message must end; None if it may grow."""
        last = self.messages[-1]
        if last.was_stopped or not self.text[last.end :].strip():
            return None
        if last.is_complete:
            return last.end
        age = time.monotonic() - last.opened_at
        if last.is_streaming and age > ROTATE_ANYWHERE_SECONDS:
            return last.end
        if last.is_streaming and age > ROTATE_SECONDS:
            return message_splitting.cut_soon(self.text, last.start, last.end)
        return message_splitting.next_cut(self.text, last.start)

    async def _open(self, start: int) -> None:
        """Begin a message at `start`: a stream if Slack allows it, else a post."""
        end = message_splitting.next_cut(self.text, start) or len(self.text)
        content = message_splitting.piece(self.text, start, end, is_cut=False)
        recipient = self.destination.recipient()
        if not content.strip():
            raise NotNow
        if self._can_stream and recipient is not None and not self._client.wait_for("chat_startStream"):
            try:
                await self._make("chat_startStream", start, end, markdown_text=content, **recipient)
                return
            except (NotNow, CallRefused):
                self._can_stream = False
        if not self._client.set_aside("chat_update"):  # a post needs at least one more update
            raise NotNow
        if seconds := self._client.wait_for("chat_postMessage", self.destination.thread.channel):
            raise NotNow(seconds)
        await self._make("chat_postMessage", start, end, markdown_text=content)

    async def _make(self, method: str, start: int, end: int, **content: Any) -> None:
        thread, is_stream = self.destination.thread, method == "chat_startStream"
        row = await self._begin(is_stream)
        if not is_stream:  # a stream takes metadata only at its end
            content["metadata"] = self.destination.metadata(row.id)
        try:
            made = await self._client.call(method, counted=True, channel=thread.channel, thread_ts=thread.ts, **content)
        except (NotNow, CallRefused):
            await self._write(shown_parts.drop, row)
            raise
        now, ts = time.monotonic(), str(made.get("ts") or "")
        if not ts:
            raise Unknown(f"Slack did not say where {method} put the message")
        self.messages.append(ShownMessage(row, ts, start, end, now, now, is_stream))
        await self._write(shown_parts.name, row, ts)

    async def _extend(self, last: ShownMessage) -> None:
        """Extend the last message to the text so far."""
        if not last.is_streaming:
            await self._make_sure_it_is_ours(last)
            await self._update(last, len(self.text), is_cut=False)
            return
        end = len(self.text)
        try:
            await self._call("chat_appendStream", last, markdown_text=self.text[last.end : end])
        except CallRefused as error:
            last.is_streaming = False
            if error.code == "stopped_by_user":  # an event tells the turn, too
                last.was_stopped = True
            elif error.code == "message_not_in_streaming_state":
                await self._make_sure_it_is_ours(last)
                await self._revive(last)
            else:
                raise
        else:
            last.end, last.shown_at = end, time.monotonic()

    async def _make_sure_it_is_ours(self, last: ShownMessage) -> None:
        """Raise `Unknown` if another process has taken the message over, to answer again or to post the reply."""
        if not await self._database.read(shown_parts.is_owned, self.destination.workspace_id, last.row):
            raise Unknown("the message shows another reply by now")

    async def _revive(self, last: ShownMessage) -> None:
        """Complete a stream that Slack ended for its age: by an update, or in another message if that is refused."""
        try:
            await self._update(last, len(self.text), is_cut=True)
            last.is_complete = True
        except CallRefused:  # the message stays as it is
            last.is_complete = True
            await self._open(last.end)

    async def _close(self, last: ShownMessage, cut: int) -> None:
        """Complete the message up to `cut`; the reply continues in another."""
        if last.is_complete:
            return
        if not last.is_streaming:
            await self._update(last, cut, is_cut=True)
            last.is_complete = True
            return
        rest = self.text[last.end : cut]
        if fence := message_splitting.open_fence(self.text[:cut]):
            rest += message_splitting.fence_end(self.text[last.start : cut], fence)
        more: dict[str, Any] = {"markdown_text": rest} if rest else {}
        try:
            await self._call(
                "chat_stopStream",
                last,
                session_status="processing",
                metadata=self.destination.metadata(last.row.id),
                **more,
            )
        except CallRefused as error:
            if error.code != "message_not_in_streaming_state":
                raise
            last.is_streaming = False
            await self._update(last, cut, is_cut=True)
        last.is_streaming, last.is_complete, last.end = False, True, cut

    async def _update(
        self, last: ShownMessage, end: int, *, is_cut: bool, blocks: list[words.SlackBlock] | None = None
    ) -> None:
        content = words.message(message_splitting.piece(self.text, last.start, end, is_cut=is_cut), blocks or [])
        await self._call("chat_update", last, metadata=self.destination.metadata(last.row.id), **content)
        last.end, last.shown_at = end, time.monotonic()

    # --- when it has ended ---

    def shows(self, text: str) -> bool:
        """Return True if the thread shows the beginning of `text`, so that `finish` can complete it."""
        return bool(self.messages) and not self.is_blind and self.text == text

    async def finish(self, blocks: list[words.SlackBlock]) -> bool:
        """Show the rest, with `blocks` below it. Return True if that also ended the session's status in Slack.

        Raises as `_show_all`.
        """
        while (cut := self._cut()) is not None:
            await self._close(self.messages[-1], cut)
            await self._open(cut)
        last, rest = self.messages[-1], self.text[self.messages[-1].end :]
        if last.is_streaming:
            more: dict[str, Any] = {"markdown_text": rest} if rest else {}
            try:
                await self._call(
                    "chat_stopStream",
                    last,
                    session_status="active",
                    blocks=blocks or None,
                    metadata=self.destination.metadata(last.row.id),
                    **more,
                )
                return True
            except CallRefused as error:
                if error.code != "message_not_in_streaming_state":
                    raise
                last.is_streaming = False
        await self._update(last, len(self.text), is_cut=False, blocks=blocks)
        return False

    async def withdraw(self) -> None:
        """Delete the messages of a reply that will not come, except those that another process has taken over."""
        for shown in self.messages:
            if not await self._write(shown_parts.withdraw, shown.row):
                continue
            try:
                if shown.is_streaming:
                    await self._call("chat_stopStream", shown, session_status="processing")
                await self._call("chat_delete", shown)
            except (NotNow, CallRefused, Unknown):  # the next reply tries again
                continue
            await self._write(shown_parts.drop, replace(shown.row, reply_id=shown_parts.WITHDRAWN))

    async def _begin(self, is_stream: bool) -> ShownPart:
        return await self._database.write(
            shown_parts.begin,
            self.destination.workspace_id,
            self.destination.conversation_id,
            self.destination.reply_id,
            is_stream,
        )

    async def _write(self, unit: Any, *arguments: Any) -> Any:
        return await self._database.write(unit, self.destination.workspace_id, *arguments)

    async def _call(self, method: str, shown: ShownMessage, **arguments: Any) -> None:
        await self._client.call(method, channel=self.destination.thread.channel, ts=shown.ts, **arguments)
