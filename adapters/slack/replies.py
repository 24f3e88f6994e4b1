"""Slack's `Poster`: live display, then exactly one complete reply.

A reply that was shown in part is completed in place, also after a crash and by another process.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from adapters.article_links import ArticleLinks
from adapters.slack import message_splitting, words
from adapters.slack.background import Background
from adapters.slack.client import CallRefused, SlackClient
from adapters.slack.events import CHANNEL, Stop, Thread, moment
from adapters.slack.installations import Installations
from adapters.slack.live_reply import Destination, LiveReply
from bot.chat.delivery import Never, NotNow, Unknown
from bot.chat.live import LiveTurn
from storage import shown_parts
from storage.database import Database, StorageUnavailable
from storage.shown_parts import Asker, ShownPart
from storage.values import Lease, Outgoing, made_at_ms

PAGE = 200
KEEP_SECONDS, ANNOUNCE_SECONDS = 60.0, 3.0
MOST_AT_WORK, MOST_TOLD_AT_ONCE = 10_000, 500
CLOCKS_DIFFER_SECONDS = 60.0
# Errors for a message that is gone, or that we may not change.
_NOT_THERE = {"message_not_found", "cant_update_message", "edit_window_closed"}


class Replies:
    """`Poster` of all Slack conversations, which also shows replies while they are made."""

    channel = CHANNEL

    def __init__(self, database: Database, installations: Installations, links: ArticleLinks) -> None:
        self._database = database
        self._installations = installations
        self._links = links
        self._live: dict[str, LiveReply] = {}
        # By reply: its conversation, and an event set when its live display ends; nothing touches its messages before.
        self._showing: dict[str, tuple[str, asyncio.Event]] = {}
        # Threads whose status this process has set to working.
        self._at_work: set[Thread] = set()
        self._background = Background()

    # --- while a reply is made ---

    async def show(self, lease: Lease, turn: LiveTurn) -> None:
        """Show a running reply in its thread, best effort: `post` corrects any failure."""
        ended = asyncio.Event()
        earlier = [
            event for conversation_id, event in self._showing.values() if conversation_id == lease.conversation_id
        ]
        self._showing[turn.reply_id] = lease.conversation_id, ended
        try:
            for event in earlier:
                await event.wait()
            with contextlib.suppress(NotNow, Never, Unknown, StorageUnavailable):
                await self._show(lease, turn)
        finally:
            del self._showing[turn.reply_id]
            ended.set()

    async def _show(self, lease: Lease, turn: LiveTurn) -> None:
        asker = await self._database.read(shown_parts.asker, lease.workspace_id, lease.conversation_id)
        if asker is None:
            return
        thread = Thread.of_key(asker.conversation_key)
        client = await self._installations.client(thread.tenant)
        if client is None or turn.ended is not None:
            return
        destination = Destination(lease.workspace_id, lease.conversation_id, turn.reply_id, thread, asker.sender_id)
        await self._announce(client, thread, asker)
        try:
            await self._show_text(client, lease, turn, destination)
        finally:
            asyncio.get_running_loop().call_later(KEEP_SECONDS, self._clear_status_if_still_set, client, thread)

    async def _show_text(self, client: SlackClient, lease: Lease, turn: LiveTurn, destination: Destination) -> None:
        # Not before older replies are posted, nor over the remains of a dead turn: `post` then writes the whole reply.
        if await self._database.read(shown_parts.is_clear, lease.workspace_id, lease.conversation_id):
            await self._follow(LiveReply(client, self._database, destination), turn)

    async def _announce(self, client: SlackClient, thread: Thread, asker: Asker) -> None:
        if len(self._at_work) >= MOST_AT_WORK:
            self._at_work.clear()
        self._at_work.add(thread)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANNOUNCE_SECONDS):
                locale = await client.locale_of(asker.sender_id.rpartition("/")[2])
                thinking = words.say("thinking", locale)
                if not await client.show_working(thread.channel, thread.ts, asker.title, thinking):
                    self._at_work.discard(thread)

    async def _follow(self, live: LiveReply, turn: LiveTurn) -> None:
        self._live[turn.reply_id] = live
        has_ended = False
        try:
            has_ended = await live.follow(turn)
            if not has_ended:
                await live.withdraw()
        finally:
            if has_ended:  # another process may post it; then nothing here takes it out
                asyncio.get_running_loop().call_later(KEEP_SECONDS, self._live.pop, turn.reply_id, None)
            else:
                self._live.pop(turn.reply_id, None)

    def note_stopped(self, stop: Stop) -> None:
        """Note that Slack has ended the streams of a `Stop`."""
        for live in self._live.values():
            for shown in live.messages if live.destination.thread == stop.thread else ():
                if shown.ts in stop.streams:
                    shown.is_streaming, shown.was_stopped = False, True

    async def last_said(self, workspace_id: str, conversation_id: str) -> str:
        """Return Slack's timestamp of the last message of a person, "" if unknown."""
        asker = await self._database.read(shown_parts.asker, workspace_id, conversation_id)
        return (asker.message_id or "") if asker else ""

    # --- when it is stored ---

    async def post(self, outgoing: Outgoing) -> str:
        """Post or complete a reply, see `Poster.post`. It is idempotent, so `find` has nothing to do.

        Return the timestamp of the first message, Slack's id of it; "" for an empty reply.
        """
        thread = Thread.of_key(outgoing.conversation_key)
        client = await self._installations.client(thread.tenant)
        if client is None:
            raise Never(f"the app is not installed in {thread.tenant}")
        asker = await self._database.read(shown_parts.asker, outgoing.workspace_id, outgoing.conversation_id)
        sender = asker.sender_id if asker else ""
        destination = Destination(outgoing.workspace_id, outgoing.conversation_id, outgoing.reply_id, thread, sender)
        blocks = await self._blocks_below(client, outgoing, destination)
        try:
            is_status_cleared, ts = await self._complete(client, destination, outgoing, blocks)
        except CallRefused:
            self._clear_status_after(client, outgoing, thread)
            raise
        if is_status_cleared:
            self._at_work.discard(thread)
        else:
            self._clear_status_after(client, outgoing, thread)
        return ts

    def _clear_status_after(self, client: SlackClient, outgoing: Outgoing, thread: Thread) -> None:
        """Clear the status, if this process set it, or perhaps a process that died."""
        if thread in self._at_work or outgoing.attempts > 1:
            self._clear_status(client, thread)

    def _clear_status(self, client: SlackClient, thread: Thread) -> None:
        self._at_work.discard(thread)
        if len(self._background) < MOST_TOLD_AT_ONCE:  # Slack takes about fifty a minute; more would pile up
            self._background.start(client.clear_status(thread.channel, thread.ts))

    def _clear_status_if_still_set(self, client: SlackClient, thread: Thread) -> None:
        """Clear the status that this process set, if another process posted the reply."""
        if thread in self._at_work:
            self._clear_status(client, thread)

    async def find(self, outgoing: Outgoing) -> str | None:  # noqa: ARG002
        """Return None: `post` finds earlier messages itself."""
        return None

    async def _blocks_below(
        self, client: SlackClient, outgoing: Outgoing, destination: Destination
    ) -> list[words.SlackBlock]:
        cited = outgoing.body.get("sources", ())
        sources = [(source["number"], source["title"], self._links.link(source)) for source in cited]
        blocks = [words.sources_block(sources)] if sources else []
        if outgoing.body["state"] == "answered":
            locale = await client.locale_of(destination.asker.rpartition("/")[2])
            blocks.append(words.feedback_block(outgoing.reply_id, locale))
        return blocks

    async def _complete(
        self, client: SlackClient, destination: Destination, outgoing: Outgoing, blocks: list[words.SlackBlock]
    ) -> tuple[bool, str]:
        """Show the whole reply. Return whether that also cleared the status, and the id of the first message."""
        if destination.reply_id in self._showing:
            await self._showing[destination.reply_id][1].wait()
        live, text = self._live.pop(destination.reply_id, None), str(outgoing.body["text"])
        if live is not None and live.shows(text):
            try:
                return await live.finish(blocks), live.messages[0].ts
            except CallRefused:  # somebody may have deleted the message
                pass
        pieces = message_splitting.split(text) if text.strip() else []
        # Messages of an earlier try are looked for only if there was one.
        looks = outgoing.state == "sending"
        return False, await self._rewrite(client, destination, pieces, blocks, looks=looks)

    async def _rewrite(
        self,
        client: SlackClient,
        destination: Destination,
        pieces: list[str],
        blocks: list[words.SlackBlock],
        *,
        looks: bool,
    ) -> str:
        """Make the thread show exactly these pieces, reusing the messages that are there. Return the first one's id."""
        taken = await self._write(shown_parts.take_over, destination, destination.conversation_id, destination.reply_id)
        rows = [row for row in taken if row.reply_id != shown_parts.WITHDRAWN]
        known, stamps = {row.provider_id for row in taken}, []
        for part, piece in enumerate(pieces):
            content = words.message(piece, blocks if part == len(pieces) - 1 else [])
            row = rows[part] if part < len(rows) else None
            ts = row and (row.provider_id or await self._look_for(client, destination, row.id, row, known))
            if ts is None and looks:
                ts = await self._look_for(client, destination, destination.part_id(part), None, known)
            if ts is not None and not await self._update(client, destination, ts, part, content, row):
                ts = None
            stamps.append(ts or await self._post_one(client, destination, part, content))
        for row in [*rows[len(pieces) :], *[row for row in taken if row.reply_id == shown_parts.WITHDRAWN]]:
            await self._take_away(client, destination, row)
        return stamps[0] if stamps else ""

    async def _update(
        self,
        client: SlackClient,
        destination: Destination,
        ts: str,
        part: int,
        content: dict[str, Any],
        row: ShownPart | None,
    ) -> bool:
        """Replace a message by `content`. Return False if there is no such message."""
        channel = destination.thread.channel
        try:
            if row is not None and row.is_stream:
                await _end_stream(client, channel, ts)
            await client.call(
                "chat_update",
                channel=channel,
                ts=ts,
                metadata=destination.metadata(destination.part_id(part)),
                **content,
            )
        except CallRefused as error:
            if error.code not in _NOT_THERE:
                raise
            return False
        return True

    async def _post_one(self, client: SlackClient, destination: Destination, part: int, content: dict[str, Any]) -> str:
        thread = destination.thread
        posted = await client.call(
            "chat_postMessage",
            channel=thread.channel,
            thread_ts=thread.ts,
            metadata=destination.metadata(destination.part_id(part)),
            **content,
        )
        return str(posted.get("ts") or "")

    async def _take_away(self, client: SlackClient, destination: Destination, row: ShownPart) -> None:
        ts = row.provider_id or await self._look_for(client, destination, row.id, row, set())
        if ts is not None:
            if row.is_stream:
                await _end_stream(client, destination.thread.channel, ts)
            with contextlib.suppress(CallRefused):
                await client.call("chat_delete", channel=destination.thread.channel, ts=ts)
        await self._write(shown_parts.drop, destination, row)

    async def _look_for(
        self, client: SlackClient, destination: Destination, part_id: str, row: ShownPart | None, known: set[str | None]
    ) -> str | None:
        """Return the id of the message with this `part_id`, None if there is none.

        A running stream has no metadata yet: then it is our first message without, not older than `row`.
        """
        since = made_at_ms(row.id) / 1000 - CLOCKS_DIFFER_SECONDS if row is not None and row.is_stream else float("inf")
        bot_user, cursor = (await client.identity()).user_id, None
        while True:
            page = await client.call(
                "conversations_replies",
                channel=destination.thread.channel,
                ts=destination.thread.ts,
                include_all_metadata=True,
                limit=PAGE,
                cursor=cursor,
            )
            for message in page.get("messages") or ():
                metadata, ts = message.get("metadata") or {}, str(message.get("ts") or "")
                if (metadata.get("event_payload") or {}).get("part_id") == part_id:
                    return ts
                if message.get("user") == bot_user and not metadata and ts not in known and moment(ts) >= since:
                    return ts
            cursor = (page.get("response_metadata") or {}).get("next_cursor")
            if not cursor:
                return None

    async def _write(self, unit: Any, destination: Destination, *arguments: Any) -> Any:
        return await self._database.write(unit, destination.workspace_id, *arguments)

    async def close(self) -> None:
        """Wait a moment for background calls, then cancel them."""
        await self._background.close()


async def _end_stream(client: SlackClient, channel: str, ts: str) -> None:
    """End a stream, as Slack allows no change of a running one; it may have ended already."""
    with contextlib.suppress(CallRefused):
        await client.call("chat_stopStream", channel=channel, ts=ts, session_status="processing")
