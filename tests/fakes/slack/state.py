"""What the fake Slack holds: its clock, teams, people, channels with their messages, streams, views and installations.

Knows: how Slack's things refer to each other. Does not know: HTTP, sockets, or who asks.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import secrets
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any, Literal

TOKEN = "xoxb-of-the-tests"
APP_TOKEN = "xapp-of-the-tests"
SECRET = "a signing secret of the tests"
CLIENT_ID = "1111.2222"
CLIENT_SECRET = "a client secret of the tests"
APP = "A0MYNA"
TEAM = "T0FERNHILL"
BOT = "U0BOT"
SCOPES = (
    "app_mentions:read,assistant:write,channels:history,channels:read,chat:write,commands,groups:history,groups:read,"
    "im:history,im:read,im:write,mpim:history,reactions:read,reactions:write,users:read"
)

Json = dict[str, Any]
Kind = Literal["channel", "group", "im", "mpim"]
Mode = Literal["", "text", "chunks"]


class Clock:
    """The fake's time: real time, and what a test has added to it."""

    def __init__(self) -> None:
        self._advanced = 0.0
        self._moved = asyncio.Event()

    def now(self) -> float:
        return time.time() + self._advanced

    def advance(self, seconds: float) -> None:
        self._advanced += seconds
        self._moved.set()
        self._moved = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        end = self.now() + seconds
        while (left := end - self.now()) > 0:
            try:
                async with asyncio.timeout(left):
                    await self._moved.wait()
            except TimeoutError:
                pass


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
    """`messages` are as Slack shows them to the bot, oldest first."""

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
    """`mode` is how it was opened: once with text, always with text; the same with chunks."""

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
    """An agent session. `statuses` are all it had, the last one is in force."""

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
    """A modal. `errors` are those that the bot answered to the last submission."""

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
    """One attempt to deliver an event; the first is attempt 0. `status` 0 is no answer."""

    event_id: str
    event_type: str
    attempt: int
    status: int
    seconds: float


Trouble = str  # "ratelimited", "http_500", "hangs", "hangs after", "drops", "drops after", or an error of Slack's

ThreadKey = tuple[str, str, str]  # team, channel, thread


class State:
    """Everything that the app has put into Slack, and what a test has set up."""

    def __init__(self) -> None:
        self.url = ""
        self.bot_url = ""
        self.app_id = APP
        self.clock = Clock()
        self.teams: dict[str, Team] = {}
        self.users: dict[str, User] = {}
        self.channels: dict[tuple[str, str], Channel] = {}
        self.installations: dict[str, Installation] = {}
        self.streams: dict[tuple[str, str, str], Stream] = {}
        self.sessions: dict[ThreadKey, Session] = {}
        self.thread_statuses: dict[ThreadKey, tuple[str, float]] = {}
        self.prompts: dict[ThreadKey, list[Json]] = {}
        self.titles: dict[ThreadKey, str] = {}
        self.ephemerals: list[Ephemeral] = []
        self.views: dict[str, View] = {}
        self.triggers: dict[str, Trigger] = {}
        self.response_urls: dict[str, ResponseUrl] = {}
        self.calls: list[Call] = []
        self.deliveries: list[Delivery] = []
        self.troubles: defaultdict[str, deque[Trouble]] = defaultdict(deque)
        self.limits = False
        self.is_agent = True
        self.refuses_token = False
        self.page_size = 1000
        self.stream_seconds = 300.0
        self.stream_idle_seconds = 30.0
        self._numbers = itertools.count(1)
        self._set_up()

    def _set_up(self) -> None:
        self.add_team(TEAM)
        for user, locale in (("U0ANA", "en-US"), ("U0BEN", "en-US"), ("U0LIN", "zh-CN")):
            self.users[user] = User(user, locale, is_admin=user == "U0ANA")
        self.users[BOT] = User(BOT, is_bot=True)
        self.install(TEAM, token=TOKEN)
        self.channel("C0SHOP").members |= set(self.users)
        for name in ("ANA", "BEN", "LIN"):
            self.channel(f"D0{name}").members |= {f"U0{name}"}

    # --- setting up ---

    def add_team(self, team_id: str, enterprise_id: str = "") -> Team:
        self.teams[team_id] = Team(team_id, enterprise_id)
        return self.teams[team_id]

    def add_user(self, user_id: str, locale: str = "en-US") -> User:
        return self.users.setdefault(user_id, User(user_id, locale))

    def install(self, team_id: str, *, token: str, enterprise_wide: bool = False, **more: Any) -> Installation:
        enterprise = self.teams[team_id].enterprise_id
        made = Installation(token, team_id, enterprise, enterprise_wide, **more)
        self.users.setdefault(made.bot_user_id, User(made.bot_user_id, is_bot=True))
        self.installations[token] = made
        return made

    def channel(self, channel_id: str, team_id: str = TEAM) -> Channel:
        """A channel of a team; made, with the bot in it, if there is none."""
        key = (team_id, channel_id)
        if key not in self.channels:
            kinds: dict[str, Kind] = {"D": "im", "G": "group"}
            kind = kinds.get(channel_id[:1], "channel")
            bots = {one.bot_user_id for one in self.installations_of(team_id)}
            self.channels[key] = Channel(channel_id, team_id, kind, bots or {BOT})
        return self.channels[key]

    # --- looking up ---

    def installations_of(self, team_id: str) -> list[Installation]:
        enterprise = self.teams[team_id].enterprise_id if team_id in self.teams else ""
        return [
            one
            for one in self.installations.values()
            if one.team_id == team_id or (one.enterprise_wide and one.enterprise_id == enterprise)
        ]

    def teams_of(self, installation: Installation) -> list[str]:
        if not installation.enterprise_wide:
            return [installation.team_id]
        return [one.id for one in self.teams.values() if one.enterprise_id == installation.enterprise_id]

    def stream_of(self, channel: Channel, ts: Any) -> Stream | None:
        return self.streams.get((channel.team_id, channel.id, str(ts)))

    def end_old_streams(self) -> None:
        now = self.clock.now()
        for stream in self.streams.values():
            too_old = now >= stream.started + self.stream_seconds
            too_idle = now >= stream.last_append + self.stream_idle_seconds
            if stream.running and (too_old or too_idle):
                stream.end("age")

    # --- numbers ---

    def next_number(self) -> int:
        return next(self._numbers)

    def next_ts(self) -> str:
        return f"{int(self.clock.now())}.{next(self._numbers):06d}"

    def new_trigger(self, user: str, team_id: str) -> str:
        trigger_id = f"{next(self._numbers)}.{next(self._numbers)}.{secrets.token_hex(16)}"
        self.triggers[trigger_id] = Trigger(self.clock.now(), user, team_id)
        return trigger_id

    def new_response_url(self, channel: Channel, user: str, message_ts: str = "") -> str:
        key = secrets.token_urlsafe(12)
        self.response_urls[key] = ResponseUrl(self.clock.now(), channel, user, message_ts)
        return f"{self.url.removesuffix('/api/')}/response/{key}"

    # --- for assertions ---

    def called(self, method: str) -> list[Json]:
        """The arguments of each call of a method."""
        return [one.arguments for one in self.calls if one.method == method]

    @property
    def posted(self) -> list[Json]:
        """Every message that a bot shows now, each with its channel, in the order of their making."""
        self.end_old_streams()
        found = [
            {**one, "channel": channel.id, "team": channel.team_id}
            for channel in self.channels.values()
            for one in channel.messages
            if one.get("bot_id") and not one.get("foreign")
        ]
        return sorted(found, key=lambda one: int(one["ts"].partition(".")[2]))

    def texts_in(self, thread_ts: str) -> list[str]:
        """What the bot shows in a thread now."""
        return [one["text"] for one in self.posted if one.get("thread_ts") == thread_ts]

    def session(self, channel: str, thread_ts: str, team: str = TEAM) -> Session | None:
        return self.sessions.get((team, channel, thread_ts))

    def thread_status(self, channel: str, thread_ts: str, team: str = TEAM) -> str:
        """What `assistant.threads.setStatus` shows now; Slack takes it away after two minutes."""
        text, at = self.thread_statuses.get((team, channel, thread_ts), ("", 0.0))
        return text if self.clock.now() < at + 120 else ""

    @property
    def running_streams(self) -> list[Stream]:
        self.end_old_streams()
        return [one for one in self.streams.values() if one.running]


def is_ts(value: Any) -> bool:
    return re.fullmatch(r"\d{1,12}\.\d{1,9}", str(value)) is not None
