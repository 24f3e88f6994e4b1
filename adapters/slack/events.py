"""Parsing of Slack's events into messages, edits and stops.

Forms of the Events API: docs.slack.dev/reference/events.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storage.values import Incoming, Part, Sender, storable, text_part

CHANNEL = "slack"
MAX_COMMAND_WORDS = 100  # "promote bot-v3 because ..."
# Subtypes of messages that people write; all others report that something happened.
_SPOKEN = {None, "file_share", "thread_broadcast", "me_message"}
_LINK = re.compile(r"<((?:https?|mailto|tel):[^<|>]*+)(?:\|([^<>]*+))?>")
_NAMED = re.compile(r"<[#!@][^<|>]*+\|([^<>]++)>")
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_BROADCAST = re.compile(r"<!(here|channel|everyone)>")

SlackEvent = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Thread:
    """A Slack thread. Channel ids are unique only within a team or an organization, hence `tenant`."""

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
        """Parse a `key`. Raises `ValueError` for any other text."""
        tenant, channel, ts = key.split("/")
        return cls(tenant, channel, ts)


def dedupe_key(thread: Thread, ts: str) -> str:
    """Return the idempotency key of a message, the same for each delivery."""
    return f"{CHANNEL}/{thread.tenant}/{thread.channel}/{ts}"


@dataclass(frozen=True, slots=True)
class Spoken:
    """A person's message, to the bot or in a thread in which the bot may take part.

    `command` is the text beside a mention if it is short enough to be a command, else "".
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
    """A person edited a message, or deleted it (`parts` is None). `at_ms` is Slack's time in ms since 1970."""

    thread: Thread
    message_id: str
    parts: tuple[Part, ...] | None
    at_ms: int

    @property
    def dedupe_key(self) -> str:
        """Idempotency key of the message that was changed."""
        return dedupe_key(self.thread, self.message_id)


@dataclass(frozen=True, slots=True)
class Stop:
    """A person pressed Stop in a thread, `at` in Slack's seconds; Slack has ended the `streams`."""

    thread: Thread
    streams: tuple[str, ...]
    at: float


def tenant_of(body: SlackEvent) -> str:
    """Return the id of the organization if the app is installed in all of it, else of the team; "" if not given.

    Events give it in `authorizations`; in shared channels, `team_id` may be another team's. In commands all values are
    text.
    """
    by = _authorization(body) or body
    team = _id(by, "team_id") or _id(by, "team") or _id(body, "team_id")
    if by.get("is_enterprise_install") in (True, "true"):
        return _id(by, "enterprise_id") or _id(by, "enterprise") or team
    return team


def recipient_bot(body: SlackEvent) -> str:
    """Return the user id of the bot that an event is for, "" if not given."""
    return _id(_authorization(body), "user_id")


def _authorization(body: SlackEvent) -> SlackEvent:
    given = body.get("authorizations")
    return given[0] if isinstance(given, list) and given and isinstance(given[0], Mapping) else {}


def _id(body: SlackEvent, name: str) -> str:
    """Return an id that is given as text or as an object's `id`; "" if it is no valid id."""
    value = body.get(name)
    found = _text(value, "id") if isinstance(value, Mapping) else _text(body, name)
    return found if _ID.fullmatch(found) else ""


def read_message(body: SlackEvent, bot_user_id: str) -> Spoken | None:
    """Read the message of an `event_callback`; None if it holds no message of a person that may concern the bot."""
    event = body.get("event")
    if not isinstance(event, Mapping) or not _is_speech(event):
        return None
    tenant = tenant_of(body)
    user, channel, ts, text = (_text(event, name) for name in ("user", "channel", "ts", "text"))
    inside, mention = _text(event, "thread_ts"), f"<@{bot_user_id}>"
    if user == bot_user_id or not all(_ID.fullmatch(value) for value in (tenant, user, channel, ts, inside or ts)):
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
        # A message arrives as `message` and as `app_mention`, and again with other event ids; its time identifies it.
        dedupe_key=dedupe_key(thread, ts),
        parts=(text_part(said),),
        external_id=ts,
        event_id=_id(body, "event_id") or None,
    )
    command = said if is_named and len(said.split()) <= MAX_COMMAND_WORDS else ""
    return Spoken(incoming, thread, user, is_addressed, bool(inside), _file_names(event), command)


def read_change(body: SlackEvent, bot_user_id: str) -> MessageChange | None:
    """Read an edit or a deletion by a person; None for other changes, such as the preview of a link."""
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
    if not all(_ID.fullmatch(value) for value in (tenant, channel, ts, root or ts)):
        return None
    return MessageChange(Thread(tenant, channel, root or ts), ts, parts, round(moment(at) * 1000))


def read_stop(body: SlackEvent) -> Stop | None:
    """Read a press of Stop (https://docs.slack.dev/reference/events/agent_session_stopped); None for other events."""
    event = _object(body, "event")
    tenant, channel, ts = tenant_of(body), _text(event, "channel"), _text(event, "thread_ts")
    if event.get("type") != "agent_session_stopped" or not all(_ID.fullmatch(value) for value in (tenant, channel, ts)):
        return None
    streams = event.get("streaming_message_ts")
    return Stop(
        Thread(tenant, channel, ts),
        tuple(ts for ts in streams if isinstance(ts, str)) if isinstance(streams, list) else (),
        moment(_text(event, "event_ts")) or float("inf"),
    )


def moment(ts: str) -> float:
    """Return a Slack timestamp as seconds with a fraction; 0 if it is not valid."""
    return float(ts) if re.fullmatch(r"\d{1,12}(\.\d{1,6})?", ts, re.ASCII) else 0.0


def _object(event: SlackEvent, name: str) -> SlackEvent:
    value = event.get(name)
    return value if isinstance(value, Mapping) else {}


def _is_speech(event: SlackEvent) -> bool:
    """Return True for a person's message; False for a bot's, or a report of a change."""
    kind, subtype = event.get("type"), event.get("subtype")
    if kind not in ("message", "app_mention") or not isinstance(subtype, str | None):
        return False
    return subtype in _SPOKEN and not event.get("bot_id")


def _is_direct(event: SlackEvent) -> bool:
    """Return True in a direct conversation. Older events lack `channel_type`; ids of direct channels begin with D."""
    kind = event.get("channel_type")
    return kind == "im" if kind else _text(event, "channel").startswith("D")


def to_plain(text: str) -> str:
    """Return the text as people see it, with Slack's markup of links and names resolved."""
    text = _LINK.sub(lambda link: f"{link[2]} ({link[1]})" if link[2] and link[2] != link[1] else link[1], text)
    text = _NAMED.sub(lambda name: name[1], text)
    text = _BROADCAST.sub(lambda name: f"@{name[1]}", text)
    # Slack escapes these three: https://docs.slack.dev/messaging/formatting-message-text
    return storable(text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")).strip()


def _describe(text: str, event: SlackEvent) -> str:
    """Append the names of files, so that the conversation's history mentions them."""
    notes = [f"(A file was sent here: {name}. You can't read it yet.)" for name in _file_names(event)]
    return "\n".join([text, *notes] if text else notes)


def _file_names(event: SlackEvent) -> tuple[str, ...]:
    files = event.get("files")
    named = [file for file in files if isinstance(file, Mapping)] if isinstance(files, list) else []
    return tuple(storable(_text(file, "name"))[:200] or "without a name" for file in named)


def _text(event: SlackEvent, name: str) -> str:
    value = event.get(name)
    return value if isinstance(value, str) else ""
