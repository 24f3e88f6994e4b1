"""The web channel on a real loopback socket, and its visitors.

A visitor is a bearer token unless a test asks for a cookie, so that one session can be many people.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

from adapters.cli.web_wiring import make_web_app
from adapters.cli.wiring import Agent
from tests.fakes.generator import FakeGenerator

SECRET = "a secret of the tests"
SHOP = "https://shop.example"
OTHER_SHOP = "https://other.example"
JSON = {"Content-Type": "application/json"}


def user_message(text: str, id: str = "m1") -> dict[str, Any]:
    return {"id": id, "role": "user", "parts": [{"type": "text", "text": text}]}


def chat_body(text: str, *, chat: str = "c1", id: str = "m1", **more: Any) -> dict[str, Any]:
    """Return the body that the AI SDK posts for one new message."""
    return {"id": chat, "messages": [user_message(text, id)], "trigger": "submit-message", **more}


def parts_of(stream: str) -> list[dict[str, Any]]:
    """Return the parts of a complete stream. Fails if it has no regular end."""
    assert stream.endswith("data: [DONE]\n\n"), f"the stream broke off: ...{stream[-200:]!r}"
    events = [event for event in stream.split("\n\n") if event.startswith("data: ")]
    return [json.loads(event[6:]) for event in events[:-1]]


def text_in(parts: list[dict[str, Any]]) -> str:
    return "".join(part["delta"] for part in parts if part["type"] == "text-delta")


def types_of(parts: list[dict[str, Any]]) -> list[str]:
    return [part["type"] for part in parts]


@dataclass
class Visitor:
    """A person's calls; `headers` carry the token or cookie."""

    session: aiohttp.ClientSession
    url: str
    headers: dict[str, str] = field(default_factory=dict)

    def post(self, path: str, body: Any = None, **options: Any) -> Any:
        options["headers"] = self.headers | options.get("headers", {})
        return self.session.post(self.url + path, json={} if body is None else body, **options)

    def get(self, path: str, **options: Any) -> Any:
        options["headers"] = self.headers | options.get("headers", {})
        return self.session.get(self.url + path, **options)

    def chat(self, body: dict[str, Any], *, html: bool = False) -> Any:
        return self.post("/api/chat" + ("?html=1" if html else ""), body)

    async def ask(self, text: str, *, html: bool = False, **body: Any) -> list[dict[str, Any]]:
        """Send a message and read the reply's parts to the end."""
        return await self.send(chat_body(text, **body), html=html)

    async def send(self, body: dict[str, Any], *, html: bool = False) -> list[dict[str, Any]]:
        async with self.chat(body, html=html) as response:
            assert response.status == 200, await response.text()
            return parts_of(await response.text())

    async def json(self, path: str) -> dict[str, Any]:
        async with self.get(path) as response:
            assert response.status == 200, await response.text()
            found: dict[str, Any] = await response.json()
            return found

    async def history(self, chat: str = "c1") -> list[tuple[str, str]]:
        """Return a chat's visible messages: role and text."""
        messages = (await self.json(f"/api/chat/{chat}"))["messages"]
        return [(one["role"], one["parts"][0]["text"]) for one in messages]

    async def stop(self, stream_id: str | None, chat: str = "c1") -> bool:
        async with self.post(f"/api/chat/{chat}/stop", {"streamId": stream_id}) as response:
            assert response.status == 200, await response.text()
            return bool((await response.json())["stopped"])


class Stream:
    """A reply that is read part by part, while it is made."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.parts: list[dict[str, Any]] = []

    async def next(self) -> dict[str, Any] | None:
        """Return the next part, None at the regular end. Raises `EOFError` if the stream breaks off."""
        while True:
            line = await self._response.content.readline()
            if not line:
                raise EOFError
            if line == b"data: [DONE]\n":
                return None
            if line.startswith(b"data: "):
                self.parts.append(json.loads(line[6:]))
                return self.parts[-1]

    async def until(self, type: str) -> dict[str, Any]:
        while (part := await self.next()) is not None:
            if part["type"] == type:
                return part
        raise AssertionError(f"the stream ended without a {type}: {self.parts}")

    async def rest(self) -> list[dict[str, Any]]:
        """Return all parts left, once the stream has ended."""
        while await self.next() is not None:
            pass
        return self.parts


@dataclass
class WebServer:
    """An agent's web channel, listening."""

    agent: Agent
    url: str
    runner: web.AppRunner
    session: aiohttp.ClientSession

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def generator(self) -> FakeGenerator:
        assert isinstance(self.agent.generator, FakeGenerator)
        return self.agent.generator

    def holds(self, port: int) -> bool:
        """Return True while the connection that a client opened from `port` is open here."""
        assert self.runner.server is not None
        open_here = [one.transport for one in self.runner.server.connections]  # type: ignore[attr-defined]
        return port in [transport.get_extra_info("peername")[1] for transport in open_here if transport is not None]

    @property
    def nobody(self) -> Visitor:
        return Visitor(self.session, self.url)

    async def visitor(self, origin: str | None = None) -> Visitor:
        """Return a new person with a token, bound to `origin` if there is one."""
        headers = {"Origin": origin} if origin else {}
        async with self.nobody.post("/api/visitor", headers=headers) as response:
            assert response.status == 200, await response.text()
            token = (await response.json())["token"]
        return Visitor(self.session, self.url, {"Authorization": f"Bearer {token}"})

    async def metric(self, name: str, **labels: str) -> float:
        """Return a number as /metrics shows it; 0 if it is not there."""
        async with self.session.get(self.url + "/metrics") as response:
            text = await response.text()
        wanted = name + ("{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}" if labels else "")
        found = [line for line in text.splitlines() if line.rpartition(" ")[0] == wanted]
        return float(found[0].rpartition(" ")[2]) if found else 0.0


@asynccontextmanager
async def serve(agent: Agent) -> AsyncIterator[WebServer]:
    """Listen on a free port of this machine. The client keeps no cookies: a test sends the ones it means."""
    app = await asyncio.to_thread(make_web_app, agent)  # it reads files, as at a start
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=2048).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(60)
    ) as session:
        try:
            yield WebServer(agent, url, runner, session)
        finally:
            await runner.cleanup()
