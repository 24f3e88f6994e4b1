"""Deliveries to the app: signed requests with Slack's retries, or envelopes over sockets."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import aiohttp

from tests.fakes.slack.records import SECRET, Delivery, Json
from tests.fakes.slack.socket_mode import Sockets
from tests.fakes.slack.state import State

EVENTS, COMMANDS, INTERACTIVITY = "/slack/events", "/slack/commands", "/slack/interactivity"
PATIENCE = 3.0
RETRY_DELAYS = (0.0, 60.0, 300.0)


def signed(content: bytes, *, at: float | None = None, secret: str = SECRET, form: bool = False) -> dict[str, str]:
    """Return the headers that Slack sends with a body."""
    timestamp = str(int(time.time() if at is None else at))
    digest = hmac.new(secret.encode(), b"v0:" + timestamp.encode() + b":" + content, hashlib.sha256).hexdigest()
    return {
        "Content-Type": "application/x-www-form-urlencoded" if form else "application/json",
        "X-Slack-Request-Timestamp": timestamp,
        "X-Slack-Signature": f"v0={digest}",
    }


@dataclass
class Answer:
    """The app's answer; `status` 0 is no answer, `problem` is Slack's word for it."""

    status: int
    body: Any = None
    problem: str = ""
    ends: bool = False

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


@dataclass
class Deliverer:
    """Delivers over HTTP if the app has a `bot_url`, else over sockets; `paths` override the app's paths."""

    slack: State
    sockets: Sockets
    paths: dict[str, str] = field(default_factory=dict)
    _session: aiohttp.ClientSession | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def send_event(self, body: Json) -> None:
        """Deliver an event once; retries after a failure follow by themselves."""
        if not self.slack.bot_url:
            await self.sockets.deliver("events_api", body)
            return
        answer = await self._attempt(body, 0, {})
        if not answer.ok and not answer.ends:
            self.in_background(self._retry(body, answer))

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _retry(self, body: Json, answer: Answer) -> None:
        for number, delay in enumerate(RETRY_DELAYS, 1):
            await self.slack.clock.sleep(delay)
            headers = {"X-Slack-Retry-Num": str(number), "X-Slack-Retry-Reason": answer.problem}
            answer = await self._attempt(body, number, headers)
            if answer.ok or answer.ends:
                return

    async def _attempt(self, body: Json, number: int, headers: dict[str, str]) -> Answer:
        started = self.slack.clock.now()
        answer = await self.post(EVENTS, json.dumps(body).encode(), headers=headers)
        taken = self.slack.clock.now() - started
        kind = body.get("event", {}).get("type", body["type"])
        self.slack.deliveries.append(Delivery(body.get("event_id", ""), kind, number, answer.status, taken))
        return answer

    async def send_form(self, path: str, fields: Json) -> Answer:
        """Deliver a command, click or submission, once: the person sees an error if the app fails."""
        if self.slack.bot_url:
            shown = fields if path == COMMANDS else {"payload": json.dumps(fields)}
            return await self.post(path, urlencode(shown).encode(), form=True)
        kind = "slash_commands" if path == COMMANDS else "interactive"
        answer = await self.sockets.deliver(kind, fields, answers=True)
        in_time = await self._comes_within(PATIENCE, answer)
        return Answer(200, answer.result()) if in_time else Answer(0, problem="http_timeout")

    async def post(
        self,
        path: str,
        content: bytes,
        *,
        form: bool = False,
        headers: dict[str, str] | None = None,
        patience: float = PATIENCE,
    ) -> Answer:
        """Post to the app as Slack does: signed, and with three seconds of patience. `path` may be a whole URL."""
        if self._session is None:
            self._session = aiohttp.ClientSession()
        url = path if "://" in path else self.slack.bot_url + self.paths.get(path, path)
        request = asyncio.ensure_future(self._post(url, content, signed(content, form=form) | (headers or {})))
        if await self._comes_within(patience, request):
            return request.result()
        request.cancel()
        return Answer(0, problem="http_timeout")

    async def _comes_within(self, seconds: float, awaited: asyncio.Future[Any]) -> bool:
        timer: asyncio.Future[Any] = asyncio.ensure_future(self.slack.clock.sleep(seconds))
        await asyncio.wait({awaited, timer}, return_when=asyncio.FIRST_COMPLETED)
        timer.cancel()
        return awaited.done()

    async def _post(self, url: str, content: bytes, headers: dict[str, str]) -> Answer:
        assert self._session is not None
        try:
            async with self._session.post(url, data=content, headers=headers, allow_redirects=False) as response:
                raw = await response.read()
        except aiohttp.ClientError:
            return Answer(0, problem="connection_failed")
        ok = 200 <= response.status < 300
        ends = not ok and response.headers.get("X-Slack-No-Retry") == "1"
        return Answer(response.status, _read(raw), "" if ok else "http_error", ends)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._session is not None:
            await self._session.close()


def _read(raw: bytes) -> Any:
    """Parse a body as JSON if it is, else return the text."""
    try:
        return json.loads(raw)
    except ValueError:
        return raw.decode(errors="replace")
