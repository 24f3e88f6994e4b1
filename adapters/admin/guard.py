"""What stands before every route of the admin page: who is logged in, what their role allows, which page is asking.

Knows: the login's cookie, origins, the roles that routes need. Does not know: what a route does. A write needs three
things that no foreign page can send together: the cookie, our own origin, and a header of our own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from adapters.http.origins import Origins
from bot.access.accounts import MOST_MS, Accounts
from bot.access.roles import Actor, Role
from bot.errors import NotAllowed, NotAuthenticated

HEADER = "X-Myna-Admin"
COOKIE, SECURE_COOKIE = "myna_admin", "__Host-myna_admin"

ActorHandler = Callable[[web.Request, Actor], Awaitable[web.StreamResponse]]
OpenHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """An address of the API, and the role that one needs there."""

    method: str
    path: str
    needs: Role
    handler: ActorHandler


@dataclass(frozen=True, slots=True)
class OpenRoute:
    """An address of the API for those who have not logged in."""

    method: str
    path: str
    handler: OpenHandler


class Guard:
    """Lets requests through to routes."""

    def __init__(self, accounts: Accounts, origins: Origins) -> None:
        self._accounts = accounts
        self._origins = origins

    def before(self, route: Route | OpenRoute) -> web.RouteDef:
        """A route of the server that asks whether it may before the handler runs."""

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
        """Who is logged in."""
        return await self._accounts.actor_of_session(self.secret(request))

    async def actor_on_own_page(self, request: web.Request) -> Actor | None:
        """Who is logged in, if one of our own pages asks for a change; any other may not use a login."""
        return await self.actor(request) if self._is_own_page(request) else None

    def secret(self, request: web.Request) -> str:
        """The secret in the cookie, or nothing."""
        return request.cookies.get(SECURE_COOKIE if self._is_https(request) else COOKIE, "")

    def set_cookie(self, request: web.Request, response: web.StreamResponse, secret: str) -> None:
        """Remember a login in the browser; nothing as the secret forgets it."""
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
        """Where a request comes from. Where a proxy stands in front, that has added it to the list it passes on."""
        passed_on = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
        return passed_on[:64] if self._origins.public_url and passed_on else request.remote or ""

    def _is_https(self, request: web.Request) -> bool:
        return request.scheme == "https" or self._origins.public_url.startswith("https://")

    def _check_page(self, request: web.Request) -> None:
        """Raises `NotAllowed` for what another page has asked for."""
        site = request.headers.get("Sec-Fetch-Site")
        if request.method in ("GET", "HEAD"):
            if site not in (None, "same-origin", "none"):
                raise NotAllowed("Only the admin page itself may ask for this.")
            return
        if not self._is_own_page(request):
            raise NotAllowed(
                "Only the admin page itself may do this. If you are on it, set MYNA_PUBLIC_URL to the address in your "
                "browser."
            )
        if request.headers.get(HEADER) != "1":
            raise NotAllowed(f"Send the header `{HEADER}: 1`.")

    def _is_own_page(self, request: web.Request) -> bool:
        """Whether a request that changes something comes from a page of ours."""
        site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
        is_own = origin in self._origins.own(request) if origin is not None else site == "same-origin"
        return is_own and site in (None, "same-origin")
