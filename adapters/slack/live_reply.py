"""One reply as it appears in its thread while it is being made: streamed, or posted and updated where that fails.

Knows: the life of a stream (docs.slack.dev/reference/methods/chat.startStream), which messages show which piece of the
text. Does not know: how the reply ends in the database; until then all this may be lost.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from typing import Any

from adapters.slack import message_splitting, words
from adapters.slack.client import Refused, SlackClient
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
# A stream ends by itself after about five minutes. It is ended by us at a good place before that, or at any.
ROTATE_SECONDS, ROTATE_ANYWHERE_SECONDS = 240.0, 270.0
_PERSON = re.compile(r"[UW][A-Z0-9]+")


@dataclass(slots=True)
class Shown:
    """A message that shows the reply's text from `start` up to `end`."""

    row: ShownPart
    ts: str
    start: int
    end: int
    opened_at: float
    shown_at: float
    is_streaming: bool
    was_stopped: bool = False  # by the person, through Slack
    is_complete: bool = False  # what comes after `end` stands in another


@dataclass(frozen=True, slots=True)
class Place:
    """Where a reply belongs, and to whom: the person who spoke last, `team/user`."""

    workspace_id: str
    conversation_id: str
    reply_id: str
    thread: Thread
    asker: str

    def recipient(self) -> dict[str, str] | None:
        """Whom a stream is for; None if it can't be one. In a direct conversation that is clear."""
        if self.thread.is_direct:
            return {}
        team, _, user = self.asker.rpartition("/")
        return {"recipient_team_id": team, "recipient_user_id": user} if _PERSON.fullmatch(user) and team else None

    def part_id(self, number: int) -> str:
        """What a whole message of the reply is known by."""
        return f"{self.reply_id}.{number}"

    def metadata(self, part_id: str) -> dict[str, Any]:
        """What a message carries, so that it is found again."""
        return {"event_type": METADATA_TYPE, "event_payload": {"reply_id": self.reply_id, "part_id": part_id}}


class LiveReply:
    """A reply under way. `is_blind` once it is not certain any more what the thread shows."""

    def __init__(self, client: SlackClient, database: Database, place: Place) -> None:
        self._client = client
        self._database = database
        self.place = place
        self.text = ""
        self.messages: list[Shown] = []
        self.is_blind = False
        self._can_stream = True

    # --- while the reply is made ---

    async def follow(self, turn: LiveTurn) -> bool:
        """Show what comes until the turn ends. False if it ended without a reply."""
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
                self.text = ""  # nothing was shown yet: a turn begins anew only before its first piece
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
            return  # more comes anyway, and the end is shown in any case
        except (Refused, Unknown):
            self.is_blind = True

    async def _show_all(self) -> None:
        """Bring the thread to the text so far. Raises `NotNow`, `Refused` or `Unknown` with what that left undone."""
        if not self.messages:
            await self._open(0)
        while (cut := self._cut()) is not None:
            await self._make_sure_it_is_ours(self.messages[-1])
            await self._close(self.messages[-1], cut)
            await self._open(cut)
        if self.messages[-1].end < len(self.text):
            await self._extend(self.messages[-1])

    def _cut(self) -> int | None:
        """Where the last message has to end, if it has to by now."""
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
        """A new message from `start` on: a stream if Slack lets us, else a post."""
        end = message_splitting.next_cut(self.text, start) or len(self.text)
        content = message_splitting.piece(self.text, start, end, is_cut=False)
        recipient = self.place.recipient()
        if not content.strip():
            raise NotNow
        if self._can_stream and recipient is not None and not self._client.wait_for("chat_startStream"):
            try:
                await self._make("chat_startStream", start, end, markdown_text=content, **recipient)
                return
            except (NotNow, Refused):
                self._can_stream = False
        if not self._client.set_aside("chat_update"):  # which such a message needs at least once more
            raise NotNow
        if seconds := self._client.wait_for("chat_postMessage", self.place.thread.channel):
            raise NotNow(seconds)
        await self._make("chat_postMessage", start, end, markdown_text=content)

    async def _make(self, method: str, start: int, end: int, **content: Any) -> None:
        thread, is_stream = self.place.thread, method == "chat_startStream"
        row = await self._begin(is_stream)
        if not is_stream:  # which takes it at its end only
            content["metadata"] = self.place.metadata(row.id)
        try:
            made = await self._client.call(method, counted=True, channel=thread.channel, thread_ts=thread.ts, **content)
        except (NotNow, Refused):
            await self._write(shown_parts.drop, row)
            raise
        now, ts = time.monotonic(), str(made.get("ts") or "")
        if not ts:
            raise Unknown(f"Slack did not say where {method} put the message")
        self.messages.append(Shown(row, ts, start, end, now, now, is_stream))
        await self._write(shown_parts.name, row, ts)

    async def _extend(self, last: Shown) -> None:
        """Let the last message show the text so far."""
        if not last.is_streaming:
            await self._make_sure_it_is_ours(last)
            await self._update(last, len(self.text), is_cut=False)
            return
        end = len(self.text)
        try:
            await self._call("chat_appendStream", last, markdown_text=self.text[last.end : end])
        except Refused as error:
            last.is_streaming = False
            if error.code == "stopped_by_user":  # the turn is about to hear of it, too
                last.was_stopped = True
            elif error.code == "message_not_in_streaming_state":
                await self._make_sure_it_is_ours(last)
                await self._revive(last)
            else:
                raise
        else:
            last.end, last.shown_at = end, time.monotonic()

    async def _make_sure_it_is_ours(self, last: Shown) -> None:
        """Another process may have been faster: it has answered anew, or has posted the reply. Raises `Unknown`."""
        if not await self._database.read(shown_parts.is_owned, self.place.workspace_id, last.row):
            raise Unknown("the message shows another reply by now")

    async def _revive(self, last: Shown) -> None:
        """The stream grew too old: what it had not been sent goes into it by an update, and the rest into another."""
        try:
            await self._update(last, len(self.text), is_cut=True)
            last.is_complete = True
        except Refused:  # it keeps what it shows
            last.is_complete = True
            await self._open(last.end)

    async def _close(self, last: Shown, cut: int) -> None:
        """The message is complete up to `cut`, and the reply goes on in another."""
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
                "chat_stopStream", last, session_status="processing", metadata=self.place.metadata(last.row.id), **more
            )
        except Refused as error:
            if error.code != "message_not_in_streaming_state":
                raise
            last.is_streaming = False
            await self._update(last, cut, is_cut=True)
        last.is_streaming, last.is_complete, last.end = False, True, cut

    async def _update(self, last: Shown, end: int, *, is_cut: bool, blocks: list[words.Block] | None = None) -> None:
        content = words.message(message_splitting.piece(self.text, last.start, end, is_cut=is_cut), blocks or [])
        await self._call("chat_update", last, metadata=self.place.metadata(last.row.id), **content)
        last.end, last.shown_at = end, time.monotonic()

    # --- when it has ended ---

    def shows(self, text: str) -> bool:
        """Whether what is shown is the beginning of `text`, and only the end is missing."""
        return bool(self.messages) and not self.is_blind and self.text == text

    async def finish(self, blocks: list[words.Block]) -> bool:
        """Show the rest, with `blocks` below it. True if Slack has been told that nothing more is on its way.

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
                    metadata=self.place.metadata(last.row.id),
                    **more,
                )
                return True
            except Refused as error:
                if error.code != "message_not_in_streaming_state":
                    raise
                last.is_streaming = False
        await self._update(last, len(self.text), is_cut=False, blocks=blocks)
        return False

    async def withdraw(self) -> None:
        """There will be no such reply: take its messages away, as far as nobody else has taken them over."""
        for shown in self.messages:
            if not await self._write(shown_parts.withdraw, shown.row):
                continue
            try:
                if shown.is_streaming:
                    await self._call("chat_stopStream", shown, session_status="processing")
                await self._call("chat_delete", shown)
            except (NotNow, Refused, Unknown):  # whoever shows the next reply tries again
                continue
            await self._write(shown_parts.drop, replace(shown.row, reply_id=shown_parts.WITHDRAWN))

    async def _begin(self, is_stream: bool) -> ShownPart:
        return await self._database.write(
            shown_parts.begin, self.place.workspace_id, self.place.conversation_id, self.place.reply_id, is_stream
        )

    async def _write(self, unit: Any, *arguments: Any) -> Any:
        return await self._database.write(unit, self.place.workspace_id, *arguments)

    async def _call(self, method: str, shown: Shown, **arguments: Any) -> None:
        await self._client.call(method, channel=self.place.thread.channel, ts=shown.ts, **arguments)
