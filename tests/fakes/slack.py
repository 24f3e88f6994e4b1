"""A Slack that listens on loopback: it signs and delivers events, and answers the Web API with Slack's own errors.

Knows: what docs.slack.dev says of the methods that Myna calls. Does not know: Myna, but for the address it delivers to.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import itertools
import json
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp
from aiohttp import web

TOKEN = "xoxb-of-the-tests"
SECRET = "a signing secret of the tests"
TEAM = "T0FERNHILL"
BOT = "U0BOT"
Trouble = Literal["ratelimited", "internal_error", "hangs", "hangs after posting", "channel_not_found"]


@dataclass
class FakeSlack:
    """One workspace. `troubles` befall the next posts, one each."""

    url: str = ""
    posted: list[dict[str, Any]] = field(default_factory=list)
    troubles: deque[Trouble] = field(default_factory=deque)
    calls: list[str] = field(default_factory=list)
    refuses_token: bool = False
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def next_ts(self) -> str:
        return f"{int(time.time())}.{next(self._numbers):06d}"

    def message(self, text: str, *, channel: str = "C0SHOP", user: str = "U0ANA", **more: Any) -> dict[str, Any]:
        """The body of an event as Slack sends it."""
        kind = "im" if channel.startswith("D") else "channel"
        event = {"type": "message", "user": user, "text": text, "ts": self.next_ts(), "channel": channel}
        return self.callback(event | {"channel_type": kind} | more)

    def callback(self, event: dict[str, Any]) -> dict[str, Any]:
        return {
            "type": "event_callback",
            "team_id": TEAM,
            "event_id": f"Ev{next(self._numbers):08d}",
            "event_time": int(time.time()),
            "event": event,
        }

    def texts_in(self, thread_ts: str) -> list[str]:
        found = [one for one in self.posted if one["thread_ts"] == thread_ts]
        return [one.get("markdown_text") or one["text"] for one in found]

    # --- the Web API ---

    async def call(self, request: web.Request) -> web.StreamResponse:
        method = request.match_info["method"]
        self.calls.append(method)
        if request.headers.get("Authorization") != f"Bearer {TOKEN}" or self.refuses_token:
            return web.json_response({"ok": False, "error": "invalid_auth"})
        content = await request.json() if request.content_type == "application/json" else await request.post()
        given = {**request.query, **content}
        if method == "auth.test":
            return web.json_response({"ok": True, "user_id": BOT, "team_id": TEAM, "bot_id": "B0BOT"})
        if method == "chat.postMessage":
            return await self._post(given)
        if method == "conversations.replies":
            return web.json_response(self._replies(given))
        return web.json_response({"ok": False, "error": "unknown_method"})

    async def _post(self, given: dict[str, Any]) -> web.StreamResponse:
        trouble = self.troubles.popleft() if self.troubles else None
        if trouble == "ratelimited":
            return web.json_response({"ok": False, "error": trouble}, status=429, headers={"Retry-After": "1"})
        if trouble in ("internal_error", "channel_not_found"):
            return web.json_response({"ok": False, "error": trouble})
        if trouble == "hangs":
            await asyncio.sleep(3600)
        if bool(given.get("text")) == bool(given.get("markdown_text")):
            error = "no_text" if not given.get("text") else "markdown_text_conflict"
            return web.json_response({"ok": False, "error": error})
        if len(given.get("markdown_text", "")) > 12_000:
            return web.json_response({"ok": False, "error": "msg_too_long"})
        self.posted.append({**given, "ts": self.next_ts()})
        if trouble == "hangs after posting":
            await asyncio.sleep(3600)
        return web.json_response({"ok": True, "channel": given["channel"], "ts": self.posted[-1]["ts"]})

    def _replies(self, given: dict[str, Any]) -> dict[str, Any]:
        found = [one for one in self.posted if (one["channel"], one["thread_ts"]) == (given["channel"], given["ts"])]
        with_metadata = str(given.get("include_all_metadata", "")).lower() in ("true", "1")
        hidden = set() if with_metadata else {"metadata"}
        begin, size = int(given.get("cursor") or 0), 2  # small pages, so that whoever reads must turn them
        page = [{key: one[key] for key in one if key not in hidden} for one in found[begin : begin + size]]
        cursor = str(begin + size) if begin + size < len(found) else ""
        return {"ok": True, "messages": page, "response_metadata": {"next_cursor": cursor}}

    # --- deliveries ---

    async def deliver(self, url: str, body: Any, **headers: str) -> int:
        """Send an event, signed; gives the status of the answer."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with (
            aiohttp.ClientSession() as session,
            session.post(url + "/slack/events", data=content, headers=signed(content) | headers) as response,
        ):
            await response.read()
            return response.status


def signed(content: bytes, *, at: float | None = None, secret: str = SECRET) -> dict[str, str]:
    """The headers that Slack sends with a body."""
    timestamp = str(int(time.time() if at is None else at))
    digest = hmac.new(secret.encode(), b"v0:" + timestamp.encode() + b":" + content, hashlib.sha256).hexdigest()
    return {
        "Content-Type": "application/json",
        "X-Slack-Request-Timestamp": timestamp,
        "X-Slack-Signature": f"v0={digest}",
    }


@asynccontextmanager
async def running_slack() -> AsyncIterator[FakeSlack]:
    """A fake on a free port of this machine."""
    slack = FakeSlack()
    app = web.Application()
    app.add_routes([web.post("/api/{method}", slack.call), web.get("/api/{method}", slack.call)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    slack.url = f"http://127.0.0.1:{runner.addresses[0][1]}/api/"
    try:
        yield slack
    finally:
        await runner.cleanup()
