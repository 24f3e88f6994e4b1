"""Slack's events to messages of ours: who said what, in which thread, and whether the bot is meant.

Knows: the Events API's shapes (docs.slack.dev/reference/events). Does not know: HTTP, signatures, what is stored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storage.values import Incoming, Part, Sender, storable, text_part

CHANNEL = "slack"
MAX_COMMAND_WORDS = 100  # "promote bot-v3 because ..."
# Subtypes of what people say; all others tell what happened.
_SPOKEN = {None, "file_share", "thread_broadcast", "me_message"}
_LINK = re.compile(r"<((?:https?|mailto|tel):[^<|>]*+)(?:\|([^<>]*+))?>")
_NAMED = re.compile(r"<[#!@][^<|>]*+\|([^<>]++)>")
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_BROADCAST = re.compile(r"<!(here|channel|everyone)>")

SlackEvent = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Thread:
    """Where a conversation takes place. Ids of channels are unique in a team of Slack, or in an organization, only."""

    tenant: str
    channel: str
    ts: str

    @property
    def key(self) -> str:
        return f"{self.tenant}/{self.channel}/{self.ts}"

    @property
    def is_direct(self) -> bool:
        return self.channel.startswith("D")

    @classmethod
    def of_key(cls, key: str) -> Thread:
        """Raises `ValueError` for what `key` did not make."""
        tenant, channel, ts = key.split("/")
        return cls(tenant, channel, ts)


def dedupe_key(thread: Thread, ts: str) -> str:
    """The same for every delivery of a message."""
    return f"{CHANNEL}/{thread.tenant}/{thread.channel}/{ts}"


@dataclass(frozen=True, slots=True)
class Spoken:
    """A person's message, to the bot itself or to a thread in which the bot may take part.

    `command` is what was said to the bot by name, if it was no more than a few words: that may be meant for Myna.
    """

    incoming: Incoming
    thread: Thread
    user: str
    is_addressed: bool
    is_in_thread: bool
    files: tuple[str, ...] = ()
    command: str = ""


@dataclass(frozen=True, slots=True)
class MessageChange:
    """A person put other words into what they had said, or took it back (`parts` is None)."""

    thread: Thread
    message_id: str
    parts: tuple[Part, ...] | None
    at_ms: int

    @property
    def dedupe_key(self) -> str:
        """That of the message itself."""
        return dedupe_key(self.thread, self.message_id)


@dataclass(frozen=True, slots=True)
class Stop:
    """A person pressed Stop in a thread at a time of Slack's; Slack has ended these streams."""

    thread: Thread
    streams: tuple[str, ...]
    at: float


def tenant_of(body: SlackEvent) -> str:
    """Whose app is meant: the organization's id where all of it has the app, else the team's. "" if it is not said.

    Events say it in `authorizations`: with channels that are shared, `team_id` may be another's. In commands all values
    are text.
    """
    by = _authorization(body) or body
    team = _id(by, "team_id") or _id(by, "team") or _id(body, "team_id")
    if by.get("is_enterprise_install") in (True, "true"):
        return _id(by, "enterprise_id") or _id(by, "enterprise") or team
    return team


def told_bot(body: SlackEvent) -> str:
    """The user id of the bot that an event is for, "" if it is not said."""
    return _id(_authorization(body), "user_id")


def _authorization(body: SlackEvent) -> SlackEvent:
    given = body.get("authorizations")
    return given[0] if isinstance(given, list) and given and isinstance(given[0], Mapping) else {}


def _id(body: SlackEvent, name: str) -> str:
    """An id that is given as text, or in an object."""
    value = body.get(name)
    found = _text(value, "id") if isinstance(value, Mapping) else _text(body, name)
    return found if _ID.fullmatch(found) else ""


def read_message(body: SlackEvent, bot_user_id: str) -> Spoken | None:
    """The message in the body of an `event_callback`; None if nobody spoke to the bot, in this or any way we know."""
    event = body.get("event")
    if not isinstance(event, Mapping) or not _is_speech(event):
        return None
    tenant = tenant_of(body)
    user, channel, ts, text = (_text(event, name) for name in ("user", "channel", "ts", "text"))
    inside, mention = _text(event, "thread_ts"), f"<@{bot_user_id}>"
    if user == bot_user_id or not all(_ID.fullmatch(one) for one in (tenant, user, channel, ts, inside or ts)):
        return None
    is_named = mention in text or event["type"] == "app_mention"
    is_addressed = is_named or _is_direct(event)
    said = _describe(to_plain(text.replace(mention, " ")), event)
    if not said or not (is_addressed or inside):
        return None
    thread = Thread(tenant, channel, inside or ts)
    incoming = Incoming(
        CHANNEL,
        thread.key,
        Sender(f"{tenant}/{user}"),
        # A message comes as `message` and as `app_mention`, and again with other event ids: it is the same by its time.
        dedupe_key=dedupe_key(thread, ts),
        parts=(text_part(said),),
        external_id=ts,
        event_id=_id(body, "event_id") or None,
    )
    command = said if is_named and len(said.split()) <= MAX_COMMAND_WORDS else ""
    return Spoken(incoming, thread, user, is_addressed, bool(inside), _file_names(event), command)


def read_change(body: SlackEvent, bot_user_id: str) -> MessageChange | None:
    """What a person changed or deleted; None for anything else, as when Slack shows a link's preview."""
    event = body.get("event")
    if not isinstance(event, Mapping) or event.get("type") != "message":
        return None
    tenant, channel, at = tenant_of(body), _text(event, "channel"), _text(event, "ts")
    now, before = _object(event, "message"), _object(event, "previous_message")
    if event.get("subtype") == "message_deleted":
        ts, root, parts = _text(event, "deleted_ts"), _text(before, "thread_ts"), None
    elif event.get("subtype") == "message_changed":
        ts, root = _text(now, "ts"), _text(now, "thread_ts") or _text(before, "thread_ts")
        at = _text(_object(now, "edited"), "ts") or at
        said = _describe(to_plain(_text(now, "text").replace(f"<@{bot_user_id}>", " ")), now)
        # A message that others have answered leaves a tombstone.
        parts = None if now.get("subtype") == "tombstone" else (text_part(said),)
        if parts is not None and (not said or now.get("bot_id") or _text(now, "text") == _text(before, "text")):
            return None
    else:
        return None
    if not all(_ID.fullmatch(one) for one in (tenant, channel, ts, root or ts)):
        return None
    return MessageChange(Thread(tenant, channel, root or ts), ts, parts, round(moment(at) * 1000))


def read_stop(body: SlackEvent) -> Stop | None:
    """See https://docs.slack.dev/reference/events/agent_session_stopped."""
    event = _object(body, "event")
    tenant, channel, ts = tenant_of(body), _text(event, "channel"), _text(event, "thread_ts")
    if event.get("type") != "agent_session_stopped" or not all(_ID.fullmatch(one) for one in (tenant, channel, ts)):
        return None
    streams = event.get("streaming_message_ts")
    return Stop(
        Thread(tenant, channel, ts),
        tuple(one for one in streams if isinstance(one, str)) if isinstance(streams, list) else (),
        moment(_text(event, "event_ts")) or float("inf"),
    )


def moment(ts: str) -> float:
    """A time of Slack's, in seconds with a fraction; 0 if it is none."""
    return float(ts) if re.fullmatch(r"\d{1,12}(\.\d{1,6})?", ts, re.ASCII) else 0.0


def _object(event: SlackEvent, name: str) -> SlackEvent:
    value = event.get(name)
    return value if isinstance(value, Mapping) else {}


def _is_speech(event: SlackEvent) -> bool:
    """A person's words, and not what a bot said or what happened to a message."""
    kind, subtype = event.get("type"), event.get("subtype")
    if kind not in ("message", "app_mention") or not isinstance(subtype, str | None):
        return False
    return subtype in _SPOKEN and not event.get("bot_id")


def _is_direct(event: SlackEvent) -> bool:
    """Whether only the bot reads it. Older events have no `channel_type`; direct channels' ids begin with D."""
    kind = event.get("channel_type")
    return kind == "im" if kind else _text(event, "channel").startswith("D")


def to_plain(text: str) -> str:
    """Slack's markup of links and names as people see them."""
    text = _LINK.sub(lambda link: f"{link[2]} ({link[1]})" if link[2] and link[2] != link[1] else link[1], text)
    text = _NAMED.sub(lambda name: name[1], text)
    text = _BROADCAST.sub(lambda name: f"@{name[1]}", text)
    # The three that Slack escapes: https://docs.slack.dev/messaging/formatting-message-text
    return storable(text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")).strip()


def _describe(text: str, event: SlackEvent) -> str:
    """Files are named, so that the memory holds that they were there."""
    notes = [f"(A file was sent here: {name}. You can't read it yet.)" for name in _file_names(event)]
    return "\n".join([text, *notes] if text else notes)


def _file_names(event: SlackEvent) -> tuple[str, ...]:
    files = event.get("files")
    named = [one for one in files if isinstance(one, Mapping)] if isinstance(files, list) else []
    return tuple(storable(_text(one, "name"))[:200] or "without a name" for one in named)


def _text(event: SlackEvent, name: str) -> str:
    value = event.get(name)
    return value if isinstance(value, str) else ""
