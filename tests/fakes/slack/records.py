"""Records of the fake Slack: teams, people, channels, messages, streams, views and installations."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

TOKEN = "xoxb-of-the-tests"
APP_TOKEN = "xapp-of-the-tests"
CONFIG_TOKEN = "xoxe.xoxp-of-the-tests"
SECRET = "a signing secret of the tests"
CLIENT_ID = "1111.2222"
CLIENT_SECRET = "a client secret of the tests"
APP = "A0MYNA"
TEAM = "T0FERNHILL"
BOT = "U0BOT"
SCOPES = (
    "app_mentions:read,assistant:write,channels:history,channels:read,chat:write,commands,files:write,groups:history,"
    "groups:read,im:history,im:read,im:write,mpim:history,reactions:read,reactions:write,users:read"
)

Json = dict[str, Any]
Kind = Literal["channel", "group", "im", "mpim"]
Mode = Literal["", "text", "chunks"]


@dataclass
class Team:
    id: str
    enterprise_id: str = ""
    name: str = "Fernhill"


@dataclass
class User:
    id: str
    locale: str = "en-US"
    is_admin: bool = False
    is_bot: bool = False

    @property
    def name(self) -> str:
        return self.id[2:].lower()


@dataclass
class Channel:
    """A channel; `messages` are as Slack shows them to the bot, oldest first."""

    id: str
    team_id: str
    kind: Kind = "channel"
    members: set[str] = field(default_factory=set)
    messages: list[Json] = field(default_factory=list)

    def find(self, ts: Any) -> Json | None:
        return next((one for one in self.messages if one["ts"] == str(ts)), None)

    def thread(self, ts: str) -> list[Json]:
        return [one for one in self.messages if ts in (one["ts"], one.get("thread_ts"))]

    def add(self, message: Json) -> None:
        self.messages.append(message)
        root = self.find(message.get("thread_ts"))
        if root is not None and root is not message:
            root["thread_ts"] = root["ts"]
            root["reply_count"] = root.get("reply_count", 0) + 1
            root["latest_reply"] = message["ts"]
            message["parent_user_id"] = root.get("user", "")


@dataclass
class Stream:
    """A stream; once its `mode` is "text" or "chunks", it takes no other content."""

    channel: Channel
    message: Json
    started: float
    last_append: float
    mode: Mode = ""
    chunks: list[Json] = field(default_factory=list)
    ended_by: Literal["", "app", "user", "age"] = ""

    @property
    def running(self) -> bool:
        return not self.ended_by

    def end(self, by: Literal["app", "user", "age"]) -> None:
        self.ended_by = by
        self.message["streaming_state"] = "completed"


@dataclass
class Session:
    """An agent session; the last of its `statuses` is in force."""

    statuses: list[str]
    title: str = ""

    @property
    def status(self) -> str:
        return self.statuses[-1]


@dataclass
class Installation:
    token: str
    team_id: str
    enterprise_id: str = ""
    enterprise_wide: bool = False
    bot_user_id: str = BOT
    bot_id: str = "B0BOT"
    scopes: str = SCOPES
    refresh_token: str = ""
    expires_at: float | None = None
    refused_with: str = ""


@dataclass
class View:
    """A modal; `errors` are the bot's answer to the last submission."""

    content: Json
    user: str
    open: bool = True
    errors: Json = field(default_factory=dict)

    @property
    def id(self) -> str:
        return str(self.content["id"])


@dataclass
class Trigger:
    at: float
    user: str
    team_id: str
    used: bool = False


@dataclass
class ResponseUrl:
    at: float
    channel: Channel
    user: str
    message_ts: str = ""
    uses: int = 0
    shown: Ephemeral | None = None  # the message that was pressed, if only one person sees it


@dataclass
class UploadedFile:
    """An upload in progress: a URL, then its content, then a channel."""

    name: str
    length: int
    alt_text: str = ""
    content: bytes = b""
    channel: str = ""


@dataclass
class Ephemeral:
    """A message that only `user` sees, and only until the next reload."""

    channel: str
    user: str
    text: str
    blocks: list[Json] = field(default_factory=list)
    thread_ts: str = ""


@dataclass
class Call:
    method: str
    arguments: Json
    token: str
    at: float


@dataclass
class Delivery:
    """An attempt to deliver an event, counted from 0; `status` 0 is no answer."""

    event_id: str
    event_type: str
    attempt: int
    status: int
    seconds: float


Trouble = str  # "ratelimited", "http_500", "hangs", "hangs after", "drops", "drops after", or an error of Slack's

ThreadKey = tuple[str, str, str]  # team, channel, thread


def is_ts(value: Any) -> bool:
    return re.fullmatch(r"\d{1,12}\.\d{1,9}", str(value)) is not None
