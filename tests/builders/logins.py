"""Logged-in staff on the admin page of an agent's web channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from argon2 import PasswordHasher

from adapters.cli.wiring import Agent
from bot.access.accounts import Accounts
from bot.access.roles import ROLES, Actor
from tests.builders.web import WebServer

PASSWORD = "four birds on a wire"
ROOT = Actor("shell:root", "admin")
COOKIE = "myna_admin"
# Argon2 with the least work that it takes, where a test is about something else.
CHEAP_HASHER = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@dataclass
class Steerer:
    """A member of staff at the admin page: the headers of its scripts and the browser, with or without a cookie."""

    server: WebServer
    secret: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    async def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str | None] | None = None,
    ) -> tuple[int, Any]:
        """Return the status and JSON of a request; a header of None is left out."""
        sent: dict[str, str | None] = {"Sec-Fetch-Site": "same-origin", "X-Myna-Admin": "1"}
        if method != "GET":
            sent["Origin"] = self.server.url
        if self.secret:
            sent["Cookie"] = f"{COOKIE}={self.secret}"
        sent |= {**self.headers, **(headers or {})}
        async with self.server.session.request(
            method,
            f"{self.server.url}/admin/api/{path}",
            json=None if method == "GET" else dict(body or {}),
            headers={name: value for name, value in sent.items() if value is not None},
        ) as response:
            if cookie := response.cookies.get(COOKIE):
                self.secret = cookie.value
            is_json = response.content_type == "application/json"
            return response.status, await response.json() if is_json else await response.read()

    async def get(self, path: str) -> Any:
        """Return the JSON of a page that must exist."""
        status, found = await self.call("GET", path)
        assert status == 200, found
        return found

    async def post(self, path: str, **body: Any) -> Any:
        """Return the JSON of an action that must succeed."""
        status, found = await self.call("POST", path, body)
        assert status in (200, 201), found
        return found

    async def refused(self, path: str, **body: Any) -> tuple[int, str]:
        """Return the status and error code of an action that must fail."""
        status, found = await self.call("POST", path, body)
        assert status >= 400, found
        return status, found["error"]["code"]


def accounts_of(agent: Agent) -> Accounts:
    return Accounts(agent.scope, hasher=CHEAP_HASHER)


async def log_in(server: WebServer, role: str = "admin", name: str | None = None) -> Steerer:
    """Create an account with a role, and log in."""
    name = name or role
    await accounts_of(server.agent).create(ROOT, name, role, PASSWORD)
    somebody = Steerer(server)
    await somebody.post("login", name=name, password=PASSWORD)
    assert somebody.secret
    return somebody


async def one_of_each_role(server: WebServer) -> dict[str, Steerer]:
    return {role: await log_in(server, role) for role in ROLES}
