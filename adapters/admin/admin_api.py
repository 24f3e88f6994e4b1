"""The admin page's files and its login, with the routes of all areas."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web

from adapters.admin.guard import Guard, OpenRoute, Route
from adapters.admin.json_values import json_response, text_of
from adapters.http.requests import read_json
from bot.access.accounts import Accounts
from bot.access.roles import ROLES, Actor
from bot.errors import InvalidInput, NotAuthenticated

STATIC = Path(__file__).parent / "static"
FIRST_COMMAND = "myna account create NAME --role admin"
_FILES = frozenset(path.name for path in STATIC.iterdir())
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'self'; require-trusted-types-for 'script'; trusted-types myna; "
    "frame-ancestors 'none'"
)
_HEADERS = {"Cache-Control": "no-cache", "Cross-Origin-Resource-Policy": "same-origin"}


class Area(Protocol):
    """A group of routes that belong together."""

    def routes(self) -> list[Route]: ...


class AdminApi:
    """The admin page of one workspace."""

    def __init__(self, title: str, accounts: Accounts, guard: Guard, areas: Sequence[Area]) -> None:
        self._title = title
        self._accounts = accounts
        self._guard = guard
        self.open_routes = [
            OpenRoute("GET", "/admin/api/session", self.session),
            OpenRoute("POST", "/admin/api/login", self.log_in),
        ]
        self.own_routes = [
            Route("POST", "/admin/api/logout", "viewer", self.log_out),
            Route("POST", "/admin/api/password", "viewer", self.change_password),
            *(route for area in areas for route in area.routes()),
        ]

    def routes(self) -> list[web.RouteDef]:
        pages = [web.get(path, self.page) for path in ("/admin", "/admin/")]
        guarded: list[Route | OpenRoute] = [*self.open_routes, *self.own_routes]
        api = [self._guard.before(route) for route in guarded]
        return [*pages, web.get("/admin/static/{name}", self.static), *api]

    async def page(self, _: web.Request) -> web.FileResponse:
        return web.FileResponse(STATIC / "index.html", headers={"Content-Security-Policy": _POLICY, **_HEADERS})

    async def static(self, request: web.Request) -> web.FileResponse:
        name = request.match_info["name"]
        if name not in _FILES:
            raise web.HTTPNotFound
        return web.FileResponse(STATIC / name, headers=_HEADERS)

    async def session(self, request: web.Request) -> web.Response:
        """Return the logged-in account; where no account exists, the command that creates the first."""
        actor = await self._guard.actor(request)
        first = FIRST_COMMAND if actor is None and await self._accounts.is_empty() else None
        return json_response({"title": self._title, "account": _shown(actor), "firstCommand": first})

    async def log_in(self, request: web.Request) -> web.Response:
        body = await read_json(request)
        name, password = text_of(body, "name", 200), text_of(body, "password", 2_000)
        secret, actor = await self._accounts.log_in(name, password, self._guard.address(request))
        if old := self._guard.secret(request):
            await self._accounts.log_out(old)
        response = json_response({"title": self._title, "account": _shown(actor)})
        self._guard.set_cookie(request, response, secret)
        return response

    async def log_out(self, request: web.Request, _: Actor) -> web.Response:
        await self._accounts.log_out(self._guard.secret(request))
        response = json_response({})
        self._guard.set_cookie(request, response, "")
        return response

    async def change_password(self, request: web.Request, actor: Actor) -> web.Response:
        """Change the own password. All logins of the account end; this browser gets a new one."""
        body = await read_json(request)
        old, new = text_of(body, "old", 2_000), text_of(body, "new", 2_000)
        try:
            secret = await self._accounts.change_own_password(actor, old, new, self._guard.address(request))
        except NotAuthenticated:
            # 401 would mean that the login has ended.
            raise InvalidInput("This is not your password.", field="old") from None
        response = json_response({})
        self._guard.set_cookie(request, response, secret)
        return response


def _shown(actor: Actor | None) -> dict[str, Any] | None:
    """Return an account with all roles that its role includes."""
    if actor is None:
        return None
    roles = [role for role in ROLES if actor.may(role)]
    return {"name": actor.name.partition(":")[2], "role": actor.role, "roles": roles}
