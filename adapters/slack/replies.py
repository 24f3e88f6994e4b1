"""Replies into their threads: shown while they are made, and standing there complete, once, when they are stored.

Knows: how a reply that was shown in part is completed, here or after a crash. Does not know: streams
(`adapters.slack.live_reply`), when a reply is due (`bot.delivery`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

from adapters.slack import markdown, words
from adapters.slack.client import Refused, SlackClient
from adapters.slack.events import CHANNEL, Thread
from adapters.slack.installations import Installations
from adapters.slack.live_reply import METADATA_TYPE, LiveReply, Place
from bot.delivery import Never, NotNow, Unknown
from bot.live import LiveTurn
from storage import shown_parts
from storage.database import Database, StorageUnavailable
from storage.shown_parts import Asker, ShownPart
from storage.values import Lease, Outgoing

PAGE = 200
KEEP_SECONDS = 60.0
# What a message answers with that is not there any more, or is not ours to change.
_NOT_THERE = {"message_not_found", "cant_update_message", "edit_window_closed"}


class Replies:
    """Shows the replies of all Slack conversations, and posts them: the `Poster` of this channel."""

    channel = CHANNEL

    def __init__(self, database: Database, installations: Installations) -> None:
        self._database = database
        self._installations = installations
        self._live: dict[str, LiveReply] = {}

    # --- while a reply is made ---

    async def show(self, lease: Lease, turn: LiveTurn) -> None:
        """Show a running reply in its thread as far as it goes. What goes wrong here, `post` puts right."""
        asker = await self._database.read(shown_parts.asker, lease.workspace_id, lease.conversation_id)
        if asker is None:
            return
        thread = Thread.of_key(asker.conversation_key)
        with contextlib.suppress(NotNow, Never, Unknown, StorageUnavailable):
            client = await self._installations.client(thread.tenant)
            if client is None:
                return
            await self._until_cleared(lease)
            await self._announce(client, thread, asker)
            if await self._database.write(
                shown_parts.take_over, lease.workspace_id, lease.conversation_id, turn.reply_id
            ):
                return  # something of an earlier turn stands there; the whole reply takes its place
            place = Place(lease.workspace_id, lease.conversation_id, turn.reply_id, thread, asker.sender_id)
            await self._follow(LiveReply(client, self._database, place), turn)

    async def _until_cleared(self, lease: Lease) -> None:
        """Wait until what an earlier turn of the conversation showed has been taken away."""
        for live in list(self._live.values()):
            if live.place.conversation_id == lease.conversation_id:
                await live.is_over.wait()

    async def _announce(self, client: SlackClient, thread: Thread, asker: Asker) -> None:
        locale = await client.locale_of(asker.sender_id.rpartition("/")[2])
        thinking = words.say("thinking", locale)
        await client.set_status(thread.channel, thread.ts, "processing", words=thinking, title=asker.title)

    async def _follow(self, live: LiveReply, turn: LiveTurn) -> None:
        self._live[turn.reply_id] = live
        try:
            if await live.follow(turn):
                # Another process may be the one that posts; then nobody asks for this any more.
                asyncio.get_running_loop().call_later(KEEP_SECONDS, self._live.pop, turn.reply_id, None)
            else:
                await live.withdraw()
                self._live.pop(turn.reply_id, None)
        finally:
            live.is_over.set()

    def note_stopped(self, channel: str, timestamps: Iterable[str]) -> None:
        """Slack has ended these streams, as a person asked it to."""
        stopped = set(timestamps)
        for live in self._live.values():
            for shown in live.messages:
                if live.place.thread.channel == channel and shown.ts in stopped:
                    shown.is_streaming, shown.was_stopped = False, True

    # --- when it is stored ---

    async def post(self, outgoing: Outgoing) -> str:
        """See `Poster.post`. Doing it again completes what was begun and doubles nothing, so `find` has nothing to do.

        The id is the time of the first message, which Slack names it by; "" if there was nothing to say.
        """
        thread = Thread.of_key(outgoing.conversation_key)
        client = await self._installations.client(thread.tenant)
        if client is None:
            raise Never(f"the app is not installed in {thread.tenant}")
        asker = await self._database.read(shown_parts.asker, outgoing.workspace_id, outgoing.conversation_id)
        place = Place(
            outgoing.workspace_id, outgoing.conversation_id, outgoing.reply_id, thread, asker.sender_id if asker else ""
        )
        text = str(outgoing.body["text"])
        blocks = await self._blocks_below(client, outgoing, place)
        try:
            ts = await self._complete(client, place, text, blocks)
        except Refused:
            await client.set_status(thread.channel, thread.ts, "active")
            raise
        await client.set_status(thread.channel, thread.ts, "active")
        return ts

    async def find(self, outgoing: Outgoing) -> str | None:  # noqa: ARG002
        """See `post`."""
        return None

    async def _blocks_below(self, client: SlackClient, outgoing: Outgoing, place: Place) -> list[words.Block]:
        if outgoing.body["state"] != "answered":
            return []
        locale = await client.locale_of(place.asker.rpartition("/")[2])
        return [words.feedback_block(outgoing.reply_id, locale)]

    async def _complete(self, client: SlackClient, place: Place, text: str, blocks: list[words.Block]) -> str:
        live = self._live.pop(place.reply_id, None)
        if live is not None:
            await live.is_over.wait()
            if live.shows(text):
                try:
                    return await live.finish(blocks)
                except Refused:  # somebody may have deleted the message
                    pass
        return await self._rewrite(client, place, markdown.split(text) if text.strip() else [], blocks)

    async def _rewrite(self, client: SlackClient, place: Place, pieces: list[str], blocks: list[words.Block]) -> str:
        """Make the thread show exactly these pieces, in the messages that are there already as far as they go."""
        rows = await self._write(shown_parts.take_over, place, place.conversation_id, place.reply_id)
        stamps = []
        for part, piece in enumerate(pieces):
            content = words.message(piece, blocks if part == len(pieces) - 1 else [])
            row = rows[part] if part < len(rows) else None
            ts = await self._rewrite_one(client, place, row, {row.provider_id for row in rows}, content)
            stamps.append(ts or await self._post_one(client, place, part, content))
        for row in rows[len(pieces) :]:
            await self._take_away(client, place, row)
        return stamps[0] if stamps else ""

    async def _rewrite_one(
        self, client: SlackClient, place: Place, row: ShownPart | None, known: set[str | None], content: dict[str, Any]
    ) -> str | None:
        """The message of `row` shows `content` now. None if there is no such message."""
        if row is None:
            return None
        ts = row.provider_id or await self._look_for(client, place, row, known)
        if ts is not None:
            if row.provider_id is None:
                await self._write(shown_parts.name, place, row, ts)
            channel = place.thread.channel
            try:
                if row.is_stream:
                    await _end_stream(client, channel, ts)
                await client.call("chat_update", channel=channel, ts=ts, metadata=place.metadata(row), **content)
                return ts
            except Refused as error:
                if error.code not in _NOT_THERE:
                    raise
        await self._write(shown_parts.drop, place, row)
        return None

    async def _post_one(self, client: SlackClient, place: Place, part: int, content: dict[str, Any]) -> str:
        thread = place.thread
        if seconds := client.wait_for("chat_postMessage", thread.channel):
            raise NotNow(seconds)
        row = await self._database.write(
            shown_parts.begin, place.workspace_id, place.conversation_id, place.reply_id, part, is_stream=False
        )
        try:
            posted = await client.call(
                "chat_postMessage", counted=True, channel=thread.channel, thread_ts=thread.ts,
                metadata=place.metadata(row), **content,
            )  # fmt: skip
        except (NotNow, Refused):
            await self._write(shown_parts.drop, place, row)
            raise
        ts = str(posted.get("ts") or "")
        await self._write(shown_parts.name, place, row, ts)
        return ts

    async def _take_away(self, client: SlackClient, place: Place, row: ShownPart) -> None:
        ts = row.provider_id or await self._look_for(client, place, row, set())
        if ts is not None:
            if row.is_stream:
                await _end_stream(client, place.thread.channel, ts)
            with contextlib.suppress(Refused):
                await client.call("chat_delete", channel=place.thread.channel, ts=ts)

    async def _look_for(self, client: SlackClient, place: Place, row: ShownPart, known: set[str | None]) -> str | None:
        """The message that was begun as `row`, if it was made: Slack keeps with a post what it belongs to.

        A stream carries that only when it has ended: it is the one of ours that carries nothing.
        """
        bot_user, cursor = (await client.identity()).user_id, None
        while True:
            page = await client.call(
                "conversations_replies", channel=place.thread.channel, ts=place.thread.ts,
                include_all_metadata=True, limit=PAGE, cursor=cursor,
            )  # fmt: skip
            for message in page.get("messages") or ():
                if _belongs_to(message, row, bot_user) and message.get("ts") not in known:
                    return str(message["ts"])
            cursor = (page.get("response_metadata") or {}).get("next_cursor")
            if not cursor:
                return None

    async def _write(self, unit: Any, place: Place, *arguments: Any) -> Any:
        return await self._database.write(unit, place.workspace_id, *arguments)


async def _end_stream(client: SlackClient, channel: str, ts: str) -> None:
    """A message that is being streamed can't be changed; one that has ended already is as well."""
    with contextlib.suppress(Refused):
        await client.call("chat_stopStream", channel=channel, ts=ts, session_status="processing")


def _belongs_to(message: Mapping[str, Any], row: ShownPart, bot_user: str) -> bool:
    metadata = message.get("metadata") or {}
    if metadata.get("event_type") == METADATA_TYPE:
        return bool((metadata.get("event_payload") or {}).get("part_id") == row.id)
    is_newer = float(message.get("ts") or 0) * 1000 >= _begun_ms(row)
    return row.is_stream and message.get("user") == bot_user and not metadata and is_newer


def _begun_ms(row: ShownPart) -> int:
    """When a row was written, which is in its id (UUIDv7), less what two clocks may differ."""
    return (int(row.id, 16) >> 80) - 60_000
