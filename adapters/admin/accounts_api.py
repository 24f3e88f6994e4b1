"""Admin routes for accounts and the audit log."""

from __future__ import annotations

from aiohttp import web

from adapters.admin.guard import Route
from adapters.admin.json_values import flag_of, json_response, number_in_query, text_of
from adapters.http.requests import read_json
from bot.access.accounts import Accounts, make_password
from bot.access.roles import Actor

PAGE = 50


class AccountsApi:
    """Handlers for accounts, linked identities and the audit log."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/admin/api/accounts", "admin", self.accounts),
            Route("POST", "/admin/api/accounts", "admin", self.create),
            Route("POST", "/admin/api/accounts/{name}/role", "admin", self.set_role),
            Route("POST", "/admin/api/accounts/{name}/password", "admin", self.set_password),
            Route("POST", "/admin/api/accounts/{name}/disabled", "admin", self.set_disabled),
            Route("POST", "/admin/api/accounts/{name}/identities", "admin", self.link),
            Route("POST", "/admin/api/identities/unlink", "admin", self.unlink),
            Route("GET", "/admin/api/audit", "viewer", self.audit),
            Route("POST", "/admin/api/audit/verify", "viewer", self.verify),
        ]

    async def accounts(self, _: web.Request, actor: Actor) -> web.Response:
        found, identities = await self._accounts.list_all(actor)
        return json_response({"accounts": found, "identities": identities})

    async def create(self, request: web.Request, actor: Actor) -> web.Response:
        """Add an account. Without a password, one is generated and returned once."""
        body = await read_json(request)
        given = text_of(body, "password", 2_000, optional=True)
        password = given or make_password()
        name = await self._accounts.create(actor, text_of(body, "name", 200), text_of(body, "role", 20), password)
        return json_response({"name": name, "password": None if given else password}, status=201)

    async def set_role(self, request: web.Request, actor: Actor) -> web.Response:
        body = await read_json(request)
        await self._accounts.set_role(actor, request.match_info["name"], text_of(body, "role", 20))
        return json_response({})

    async def set_password(self, request: web.Request, actor: Actor) -> web.Response:
        """Generate a new password and return it once."""
        await read_json(request)
        password = make_password()
        await self._accounts.set_password(actor, request.match_info["name"], password)
        return json_response({"password": password})

    async def set_disabled(self, request: web.Request, actor: Actor) -> web.Response:
        body = await read_json(request)
        await self._accounts.set_disabled(actor, request.match_info["name"], disabled=flag_of(body, "disabled"))
        return json_response({})

    async def link(self, request: web.Request, actor: Actor) -> web.Response:
        body = await read_json(request)
        await self._accounts.link(actor, request.match_info["name"], text_of(body, "identity", 300))
        return json_response({})

    async def unlink(self, request: web.Request, actor: Actor) -> web.Response:
        body = await read_json(request)
        await self._accounts.unlink(actor, text_of(body, "identity", 300))
        return json_response({})

    async def audit(self, request: web.Request, actor: Actor) -> web.Response:
        before = number_in_query(request, "before")
        rows = await self._accounts.audit_page(actor, before, PAGE + 1)
        return json_response({"rows": rows[:PAGE], "more": len(rows) > PAGE})

    async def verify(self, request: web.Request, actor: Actor) -> web.Response:
        await read_json(request)
        return json_response({"firstBroken": await self._accounts.first_broken(actor)})
