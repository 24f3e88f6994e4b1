"""Cross-origin rules of every API: which sites' pages may send requests, and which may read the answers (CORS)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from aiohttp import web

from bot.errors import NotAllowed

CORS = web.RequestKey("cors", dict[str, str])  # the headers that every answer to this request carries


@dataclass(frozen=True, slots=True)
class Origins:
    """Which sites may use the chat: its own pages, and those an admin listed."""

    allowed: tuple[str, ...]
    public_url: str = ""

    def own(self, request: web.Request) -> set[str]:
        """The origins that this server's own pages have."""
        public = {"/".join(self.public_url.split("/")[:3])} if self.public_url else set()
        return {f"{request.scheme}://{request.host}"} | public

    def check(self, request: web.Request) -> None:
        """Raise `NotAllowed` for a request that a foreign page made. Origins are compared whole, never by their end."""
        origin = request.headers.get("Origin")
        if origin is not None and not (origin.isascii() and (origin in self.own(request) or origin in self.allowed)):
            self.refuse()
        if origin is None and request.headers.get("Sec-Fetch-Site") == "cross-site" and request.method != "GET":
            self.refuse()

    def refuse(self) -> NoReturn:
        """Raise the error for a page of a site that is not listed."""
        raise NotAllowed("This page may not use this chat. Add its origin to MYNA_ALLOWED_ORIGINS.")

    def cors_headers(self, request: web.Request) -> dict[str, str]:
        """What lets a listed site's script read the answer."""
        origin = request.headers.get("Origin")
        if origin is None or origin not in self.allowed:
            return {"Vary": "Origin"}
        return {
            "Vary": "Origin",
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": "X-Request-Id, Retry-After, X-Myna-Notice",
        }
