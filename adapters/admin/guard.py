"""Login, role and CSRF checks in front of every admin route.

A write needs three things that no other site's page can send together: the cookie, our own origin, and the header
`X-Myna-Admin`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from adapters.http.origins import FOREIGN_TO_ADMIN, Origins
from bot.access.accounts import MOST_MS, Accounts
from bot.access.roles import Actor, Role
from bot.errors import NotAllowed, NotAuthenticated

HEADER = "X-Myna-Admin"
COOKIE, SECURE_COOKIE = "myna_admin", "__Host-myna_admin"

ActorHandler = Callable[[web.Request, Actor], Awaitable[web.StreamResponse]]
OpenHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """An API route with the role that it needs."""

    method: str
    path: str
    needs: Role
    handler: ActorHandler


@dataclass(frozen=True, slots=True)
class OpenRoute:
    """An API route that needs no login."""

    method: str
    path: str
    handler: OpenHandler


class Guard:
    """Checks of login, role and origin."""

    def __init__(self, accounts: Accounts, origins: Origins) -> None:
        self._accounts = accounts
        self._origins = origins

    def before(self, route: Route | OpenRoute) -> web.RouteDef:
        """Wrap a route so that its checks run before its handler."""

        async def handle(request: web.Request) -> web.StreamResponse:
            self._check_page(request)
            if isinstance(route, OpenRoute):
                return await route.handler(request)
            actor = await self.actor(request)
            if actor is None:
                raise NotAuthenticated("Please log in.")
            actor.check(route.needs)
            return await route.handler(request, actor)

        options: dict[str, Any] = {"allow_head": False} if route.method == "GET" else {}
        return web.RouteDef(route.method, route.path, handle, options)

    async def actor(self, request: web.Request) -> Actor | None:
        """Return the logged-in account, None without a valid login."""
        return await self._accounts.actor_of_session(self.secret(request))

    async def actor_on_own_page(self, request: web.Request) -> Actor | None:
        """Return the logged-in account if our own page sends the request, else None: no other site may use a login."""
        return await self.actor(request) if self._is_own_page(request) else None

    def secret(self, request: web.Request) -> str:
        """Return the session secret in the cookie, "" if there is none."""
        return request.cookies.get(SECURE_COOKIE if self._is_https(request) else COOKIE, "")

    def set_cookie(self, request: web.Request, response: web.StreamResponse, secret: str) -> None:
        """Set the login cookie; an empty secret deletes it."""
        is_https = self._is_https(request)
        response.set_cookie(
            SECURE_COOKIE if is_https else COOKIE,
            secret,
            max_age=MOST_MS // 1000 if secret else 0,
            path="/",
            httponly=True,
            samesite="Lax",
            secure=is_https,
        )

    def address(self, request: web.Request) -> str:
        """Return the client's address. Behind a proxy it is the last of X-Forwarded-For, which the proxy has added."""
        passed_on = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
        return passed_on[:64] if self._origins.public_url and passed_on else request.remote or ""

    def _is_https(self, request: web.Request) -> bool:
        return request.scheme == "https" or self._origins.public_url.startswith("https://")

    def _check_page(self, request: web.Request) -> None:
        """Raise `NotAllowed` for a request from another site's page."""
        site = request.headers.get("Sec-Fetch-Site")
        if request.method in ("GET", "HEAD"):
            if site not in (None, "same-origin", "none"):
                raise NotAllowed("Only the admin page itself may ask for this.")
            return
        if not self._is_own_page(request):
            raise NotAllowed(FOREIGN_TO_ADMIN)
        if request.headers.get(HEADER) != "1":
            raise NotAllowed(f"Send the header `{HEADER}: 1`.")

    def _is_own_page(self, request: web.Request) -> bool:
        """Return True if our own page sends the request."""
        site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
        is_own = origin in self._origins.own(request) if origin is not None else site == "same-origin"
        return is_own and site in (None, "same-origin")
