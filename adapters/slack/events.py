"""Slack's events to messages of ours: who said what, in which thread, and whether the bot is meant.

Knows: the Events API's shapes (docs.slack.dev/reference/events). Does not know: HTTP, signatures, what is stored.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storage.values import Incoming, Sender, text_part

CHANNEL = "slack"
# Subtypes of what people say; all others tell what happened.
_SPOKEN = {None, "file_share", "thread_broadcast", "me_message"}
_LINK = re.compile(r"<((?:https?|mailto|tel):[^|>]*)(?:\|([^>]*))?>")
_NAMED = re.compile(r"<[#!@][^|>]*\|([^>]+)>")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # no database takes these everywhere
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_BROADCAST = re.compile(r"<!(here|channel|everyone)>")

Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Thread:
    """Where a conversation takes place. Ids of channels are unique in a workspace of Slack only."""

    team: str
    channel: str
    ts: str

    @property
    def key(self) -> str:
        return f"{self.team}/{self.channel}/{self.ts}"

    @classmethod
    def of_key(cls, key: str) -> Thread:
        """Raises `ValueError` for what `key` did not make."""
        team, channel, ts = key.split("/")
        return cls(team, channel, ts)


@dataclass(frozen=True, slots=True)
class Spoken:
    """A person's message, to the bot itself or to a thread in which the bot may take part."""

    incoming: Incoming
    thread: Thread
    is_addressed: bool


def read_message(body: Event, bot_user_id: str) -> Spoken | None:
    """The message in the body of an `event_callback`; None if nobody spoke to the bot, in this or any way we know."""
    event = body.get("event")
    if not isinstance(event, Mapping) or not _is_speech(event):
        return None
    team = _text(body, "team_id")
    user, channel, ts, text = (_text(event, name) for name in ("user", "channel", "ts", "text"))
    inside, mention = _text(event, "thread_ts"), f"<@{bot_user_id}>"
    if user == bot_user_id or not all(_ID.fullmatch(one) for one in (team, user, channel, ts, inside or ts)):
        return None
    is_addressed = _is_direct(event) or mention in text or event["type"] == "app_mention"
    said = _describe(to_plain(text.replace(mention, " ")), event)
    if not said or not (is_addressed or inside):
        return None
    thread = Thread(team, channel, inside or ts)
    incoming = Incoming(
        CHANNEL,
        thread.key,
        Sender(f"{team}/{user}"),
        # A message comes as `message` and as `app_mention`, and again with other event ids: it is the same by its time.
        dedupe_key=f"{CHANNEL}/{team}/{channel}/{ts}",
        parts=(text_part(said),),
        external_id=ts,
        event_id=_text(body, "event_id") or None,
    )
    return Spoken(incoming, thread, is_addressed)


def _is_speech(event: Event) -> bool:
    """A person's words, and not what a bot said or what happened to a message."""
    kind, subtype = event.get("type"), event.get("subtype")
    if kind not in ("message", "app_mention") or not isinstance(subtype, str | None):
        return False
    return subtype in _SPOKEN and not event.get("bot_id")


def _is_direct(event: Event) -> bool:
    """Whether only the bot reads it. Older events have no `channel_type`; direct channels' ids begin with D."""
    kind = event.get("channel_type")
    return kind == "im" if kind else _text(event, "channel").startswith("D")


def to_plain(text: str) -> str:
    """Slack's markup of links and names as people see them."""
    text = _LINK.sub(lambda link: f"{link[2]} ({link[1]})" if link[2] and link[2] != link[1] else link[1], text)
    text = _NAMED.sub(lambda name: name[1], text)
    text = _BROADCAST.sub(lambda name: f"@{name[1]}", text)
    return _UNSTORABLE.sub("\ufffd", html.unescape(text)).strip()


def _describe(text: str, event: Event) -> str:
    """Files are named, so that the memory holds that they were there."""
    files = event.get("files")
    named = [one for one in files if isinstance(one, Mapping)] if isinstance(files, list) else []
    names = [_UNSTORABLE.sub("\ufffd", _text(one, "name"))[:200] or "without a name" for one in named]
    notes = [f"(A file was sent here: {name}. You can't read it yet.)" for name in names]
    return "\n".join([text, *notes] if text else notes)


def _text(event: Event, name: str) -> str:
    value = event.get(name)
    return value if isinstance(value, str) else ""
