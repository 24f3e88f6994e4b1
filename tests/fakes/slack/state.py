"""State of the fake Slack, and its clock."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections import defaultdict, deque
from typing import Any

from tests.fakes.slack.records import (
    APP,
    BOT,
    TEAM,
    TOKEN,
    Call,
    Channel,
    Delivery,
    Ephemeral,
    Installation,
    Json,
    Kind,
    ResponseUrl,
    Session,
    Stream,
    Team,
    ThreadKey,
    Trigger,
    Trouble,
    UploadedFile,
    User,
    View,
)


class Clock:
    """The fake's time: real time plus an offset that a test sets."""

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


class State:
    """All records of the fake Slack, those of the app and those that a test set up."""

    def __init__(self) -> None:
        self.url = ""
        self.bot_url = ""
        self.app_id = APP
        self.manifest: Json = {}
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
        self.files: dict[str, UploadedFile] = {}
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
        """Return a channel of a team; create it, with the bot in it, if there is none."""
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

    def message_added(self, channel: Channel, message: Json) -> None:
        """Handle a message that the app has added; a subclass delivers its event."""

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
        """Return the arguments of each call of a method."""
        return [one.arguments for one in self.calls if one.method == method]

    @property
    def posted(self) -> list[Json]:
        """Return the bot's present messages, each with its channel, in the order of creation."""
        self.end_old_streams()
        own = {one.bot_id for one in self.installations.values()}
        found = [
            {**one, "channel": channel.id, "team": channel.team_id}
            for channel in self.channels.values()
            for one in channel.messages
            if one.get("bot_id") in own
        ]
        return sorted(found, key=lambda one: int(one["ts"].partition(".")[2]))

    def texts_in(self, thread_ts: str) -> list[str]:
        """Return the bot's present texts in a thread."""
        return [one["text"] for one in self.posted if one.get("thread_ts") == thread_ts]

    def session(self, channel: str, thread_ts: str, team: str = TEAM) -> Session | None:
        return self.sessions.get((team, channel, thread_ts))

    def thread_status(self, channel: str, thread_ts: str, team: str = TEAM) -> str:
        """Return the status shown by `assistant.threads.setStatus`; it expires after two minutes."""
        text, at = self.thread_statuses.get((team, channel, thread_ts), ("", 0.0))
        return text if self.clock.now() < at + 120 else ""

    @property
    def running_streams(self) -> list[Stream]:
        self.end_old_streams()
        return [one for one in self.streams.values() if one.running]
