"""CORS and origin checks (CSRF) of every API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from aiohttp import web

from bot.errors import NotAllowed

CORS = web.RequestKey("cors", dict[str, str])  # the headers that every answer to this request carries

FOREIGN_TO_ADMIN = (
    "Only the admin page itself may do this. If you are on it, set MYNA_PUBLIC_URL to the address in your browser."
)


@dataclass(frozen=True, slots=True)
class Origins:
    """Allowed origins: our own pages, and the sites that an admin listed."""

    allowed: tuple[str, ...]
    public_url: str = ""

    def own(self, request: web.Request) -> set[str]:
        """Return the origins of this server's own pages."""
        public = {"/".join(self.public_url.split("/")[:3])} if self.public_url else set()
        return {f"{request.scheme}://{request.host}"} | public

    def check(self, request: web.Request) -> None:
        """Raise `NotAllowed` for a request from a foreign page. Origins are compared whole, never by suffix."""
        origin = request.headers.get("Origin")
        if origin is not None and not (origin.isascii() and (origin in self.own(request) or origin in self.allowed)):
            self.refuse(request)
        if origin is None and request.headers.get("Sec-Fetch-Site") == "cross-site" and request.method != "GET":
            self.refuse(request)

    def refuse(self, request: web.Request) -> NoReturn:
        """Raise `NotAllowed` for a page of an unlisted site."""
        if request.path.startswith("/admin"):
            raise NotAllowed(FOREIGN_TO_ADMIN)
        raise NotAllowed("This page may not use this chat. Add its origin to MYNA_ALLOWED_ORIGINS.")

    def cors_headers(self, request: web.Request) -> dict[str, str]:
        """Return the CORS headers that let a listed site's script read the response."""
        origin = request.headers.get("Origin")
        if origin is None or origin not in self.allowed:
            return {"Vary": "Origin"}
        return {
            "Vary": "Origin",
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": "X-Request-Id, Retry-After, X-Myna-Notice",
        }
