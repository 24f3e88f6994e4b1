"""Socket Mode: open connections, and envelopes that wait for acknowledgement."""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
from dataclasses import dataclass, field
from typing import Literal

import aiohttp
from aiohttp import web

from tests.fakes.slack.records import Json
from tests.fakes.slack.state import State

MOST_CONNECTIONS = 10
Reason = Literal["warning", "refresh_requested", "too_many_websockets", "link_disabled"]


@dataclass
class Envelope:
    """An envelope; `answer` is done when the app acknowledged it, and carries the app's answer."""

    content: Json
    answer: asyncio.Future[Json]
    attempts: int = 0


@dataclass
class Connection:
    request: web.Request
    socket: web.WebSocketResponse
    sent: list[str] = field(default_factory=list)


class Sockets:
    """The app's connections; an envelope is sent again after `again_after` seconds without acknowledgement."""

    def __init__(self, slack: State) -> None:
        self._slack = slack
        self._tickets: set[str] = set()
        self._turn = itertools.count()
        self._waiting: list[Envelope] = []
        self._under_way: dict[str, Envelope] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections: list[Connection] = []
        self.enabled = True
        self.again_after = 30.0

    def new_address(self) -> str:
        ticket = secrets.token_urlsafe(12)
        self._tickets.add(ticket)
        host = self._slack.url.removesuffix("/api/").replace("http://", "ws://")
        return f"{host}/link/?ticket={ticket}&app_id={self._slack.app_id}"

    async def connect(self, request: web.Request) -> web.StreamResponse:
        ticket = request.query.get("ticket", "")
        if ticket not in self._tickets:
            return web.Response(status=401)
        self._tickets.remove(ticket)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        if not self.enabled:
            await _disconnect(socket, "link_disabled")
        elif len(self.connections) >= MOST_CONNECTIONS:
            await _disconnect(socket, "too_many_websockets")
        else:
            await self._serve(Connection(request, socket))
        return socket

    async def _serve(self, connection: Connection) -> None:
        self.connections.append(connection)
        try:
            await connection.socket.send_json(self._hello())
            waiting, self._waiting = self._waiting, []
            for envelope in waiting:
                await self._send(envelope)
            async for message in connection.socket:
                if message.type == aiohttp.WSMsgType.TEXT:
                    self._hear(message.data)
        finally:
            if connection in self.connections:
                self.connections.remove(connection)

    def _hello(self) -> Json:
        return {
            "type": "hello",
            "num_connections": len(self.connections),
            "connection_info": {"app_id": self._slack.app_id},
            "debug_info": {"host": "applink-fake", "build_number": 1, "approximate_connection_time": 18060},
        }

    def _hear(self, data: str) -> None:
        """Take an acknowledgement; Slack ignores any other message."""
        try:
            heard = json.loads(data)
        except ValueError:
            return
        envelope = self._under_way.pop(heard.get("envelope_id", ""), None)
        if envelope is not None and not envelope.answer.done():
            envelope.answer.set_result(heard.get("payload") or {})

    async def deliver(self, kind: str, payload: Json, *, answers: bool = False) -> asyncio.Future[Json]:
        """Send an envelope, or keep it until the app connects; return the app's future answer."""
        content = {
            "envelope_id": secrets.token_hex(16),
            "type": kind,
            "payload": payload,
            "accepts_response_payload": answers,
        }
        if kind == "events_api":
            content |= {"retry_attempt": 0, "retry_reason": ""}
        envelope = Envelope(content, asyncio.get_running_loop().create_future())
        await self._send(envelope)
        return envelope.answer

    async def _send(self, envelope: Envelope) -> None:
        """Send an envelope on the next connection in turn."""
        alive = [one for one in self.connections if not one.socket.closed]
        if not alive:
            self._waiting.append(envelope)
            return
        connection = alive[next(self._turn) % len(alive)]
        if envelope.attempts and "retry_attempt" in envelope.content:
            envelope.content |= {"retry_attempt": envelope.attempts, "retry_reason": "timeout"}
        envelope.attempts += 1
        self._under_way[envelope.content["envelope_id"]] = envelope
        connection.sent.append(envelope.content["envelope_id"])
        try:
            await connection.socket.send_json(envelope.content)
        except ConnectionError:
            self._waiting.append(envelope)
            return
        task = asyncio.create_task(self._send_again(envelope))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_again(self, envelope: Envelope) -> None:
        await self._slack.clock.sleep(self.again_after)
        if not envelope.answer.done():
            await self._send(envelope)

    # --- what a test does to the connections ---

    async def ask_to_refresh(self, reason: Reason = "refresh_requested", *, close: bool = True) -> None:
        """Ask the app to reconnect every connection: Slack warns some time before it closes one."""
        for connection in list(self.connections):
            await connection.socket.send_json(_disconnect_message(reason))
            if close:
                await connection.socket.close()

    async def drop(self) -> None:
        """Break every connection; unacknowledged envelopes are sent again on the next one."""
        for connection in list(self.connections):
            self.connections.remove(connection)
            if connection.request.transport is not None:
                connection.request.transport.close()
        unheard, self._under_way = self._under_way, {}
        self._waiting += unheard.values()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for connection in list(self.connections):
            await connection.socket.close()


def _disconnect_message(reason: Reason) -> Json:
    return {"type": "disconnect", "reason": reason, "debug_info": {"host": "applink-fake"}}


async def _disconnect(socket: web.WebSocketResponse, reason: Reason) -> None:
    await socket.send_json(_disconnect_message(reason))
    await socket.close()
