"""API clients, with a key or without one."""

from __future__ import annotations

import json
from typing import Any

from bot.completions.api_keys_access import create_key
from tests.builders.web import WebServer

CHAT = "/v1/chat/completions"
Json = dict[str, Any]


def question(text: str = "How are you?", **more: Any) -> Json:
    return {"model": "fake", "messages": [{"role": "user", "content": text}], **more}


class Program:
    """A caller with a key, or without one."""

    def __init__(self, server: WebServer, secret: str | None) -> None:
        self._server = server
        self._headers = {"Authorization": f"Bearer {secret}"} if secret else {}

    def post(self, body: Any, path: str = CHAT, **options: Any) -> Any:
        headers = self._headers | options.pop("headers", {})
        return self._server.session.post(self._server.url + path, json=body, headers=headers, **options)

    async def ask(self, body: Any, path: str = CHAT, status: int = 200, **options: Any) -> Json:
        async with self.post(body, path, **options) as response:
            answer: Json = json.loads(await response.text())
            assert response.status == status, answer
            return answer

    async def refused(self, body: Any, status: int = 400, path: str = CHAT, **options: Any) -> Json:
        answer = await self.ask(body, path, status, **options)
        assert set(answer) == {"error"}
        assert set(answer["error"]) == {"message", "type", "param", "code"}
        error: Json = answer["error"]
        return error

    async def stream(self, body: Any, path: str = CHAT) -> list[Json]:
        async with self.post(body | {"stream": True}, path) as response:
            assert response.status == 200, await response.text()
            assert response.content_type == "text/event-stream"
            *events, done, rest = (await response.text()).split("\n\n")
            assert (done, rest) == ("data: [DONE]", "")
            return [json.loads(event.removeprefix("data: ")) for event in events]

    async def get(self, path: str, status: int = 200) -> Json:
        async with self._server.session.get(self._server.url + path, headers=self._headers) as response:
            answer: Json = json.loads(await response.text())
            assert response.status == status, answer
            return answer


async def new_program(server: WebServer, name: str = "shop", **limits: int | None) -> Program:
    limits = {"requests_per_minute": None, "tokens_per_day": None} | limits
    secret = await create_key(server.agent.scope, name, **limits)
    return Program(server, secret)
