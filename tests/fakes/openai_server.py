"""Scripted OpenAI-compatible server on a real socket, which records its requests.

Its wire format is that of vLLM and llama.cpp.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass(frozen=True, slots=True)
class Script:
    """Response to one request: `lines` are sent as they are; then the connection is cut, held, or ended well."""

    lines: tuple[bytes, ...] = ()
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: bool = False
    hold: bool = False


def chunk(text: str | None = None, *, reason: str | None = None, **more: Any) -> bytes:
    """Return a chunk of a streamed completion."""
    delta = {} if text is None else {"content": text}
    return event(
        {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **more}
    )


def usage(prompt_tokens: int, completion_tokens: int) -> bytes:
    """Return the last chunk, which `include_usage` asks for: it has no choices."""
    return event({"choices": [], "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}})


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


ROLE = event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
DONE = b"data: [DONE]\n\n"


def reply(*pieces: str, reason: str = "stop", tokens: tuple[int, int] = (7, 3)) -> Script:
    """Script a whole answer, as vLLM streams it."""
    return Script((ROLE, *(chunk(one) for one in pieces), chunk(reason=reason), usage(*tokens), DONE))


def refusal(status: int, message: str = "no", **headers: str) -> Script:
    body = json.dumps({"error": {"message": message, "code": status}}).encode()
    return Script(status=status, body=body, headers={name.replace("_", "-"): value for name, value in headers.items()})


class OpenAIServer:
    """The server: `url` is its base URL, `requests` the parsed bodies; `dropped` is set when a client leaves early."""

    def __init__(self, models: Sequence[dict[str, Any]] = ({"id": "served"},)) -> None:
        self.models: Script | Sequence[dict[str, Any]] = models
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.dropped = asyncio.Event()
        self.loras: dict[str, str] = {}
        self.refuse_loras = False
        self.url = ""
        self._scripts: deque[Script] = deque()
        self._runner: web.AppRunner | None = None

    def enqueue(self, script: Script) -> None:
        self._scripts.append(script)

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/v1/models", self._list_models)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_post("/v1/load_lora_adapter", self._load_lora)
        app.router.add_post("/v1/unload_lora_adapter", self._unload_lora)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}/v1"

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _list_models(self, request: web.Request) -> web.StreamResponse:
        self.headers.append(dict(request.headers))
        if isinstance(self.models, Script):
            return web.Response(status=self.models.status, body=self.models.body, headers=self.models.headers)
        return web.json_response({"object": "list", "data": list(self.models)})

    async def _load_lora(self, request: web.Request) -> web.Response:
        """Answer as vLLM 0.32 does: plain text, or an error with its reason."""
        body = await request.json()
        name, path = body["lora_name"], body["lora_path"]
        if self.refuse_loras:
            return web.json_response({"error": {"message": f"No adapter found for {path}"}}, status=404)
        if name in self.loras:
            message = f"The lora adapter '{name}' has already been loaded."
            return web.json_response({"error": {"message": message}}, status=400)
        self.loras[name] = path
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def _unload_lora(self, request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        if self.loras.pop(name, None) is None:
            return web.json_response({"error": {"message": "cannot be found"}}, status=404)
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(await request.json())
        self.headers.append(dict(request.headers))
        script = self._scripts.popleft()
        if script.status != 200:
            return web.Response(status=script.status, body=script.body, headers=script.headers)
        if script.cut and not script.lines:
            return await self._cut(request, web.StreamResponse())
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **script.headers})
        try:
            await response.prepare(request)
            for line in script.lines:
                await response.write(line)
                await asyncio.sleep(0)
            if script.cut:
                return await self._cut(request, response)
            if script.hold:
                await asyncio.Event().wait()
        except (ConnectionResetError, asyncio.CancelledError):
            self.dropped.set()
            raise
        with suppress(ConnectionResetError):
            await response.write_eof()
        return response

    async def _cut(self, request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
        await asyncio.sleep(0.02)  # what was written before leaves first
        if request.transport is not None:
            request.transport.abort()
        return response
