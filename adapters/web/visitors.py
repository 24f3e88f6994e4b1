"""Visitor identity: a random id in a signed cookie or bearer token."""

from __future__ import annotations

import secrets

from aiohttp import web
from itsdangerous import BadSignature, URLSafeTimedSerializer

from bot.errors import NotAuthenticated

COOKIE = "myna_visitor"
COOKIE_SECONDS = 365 * 86_400
TOKEN_SECONDS = 30 * 86_400
_NOT_SIGNED_IN = "You are not signed in to this chat. Ask POST /api/visitor for a token first."


class Visitors:
    """Issues and checks visitors' credentials."""

    def __init__(self, secret: str, *, secure_cookie: bool) -> None:
        self._cookies = URLSafeTimedSerializer(secret, salt="myna.visitor.cookie")
        self._tokens = URLSafeTimedSerializer(secret, salt="myna.visitor.token")
        self._secure = secure_cookie

    def identify(self, request: web.Request) -> str:
        """Return the visitor's id. Raises `NotAuthenticated` without a valid credential.

        A request that changes something needs an Origin or a token: a foreign page could send the cookie alone (CSRF).
        """
        header = request.headers.get("Authorization", "")
        if header[:7].lower() == "bearer ":
            return self._from_token(header[7:].strip(), request.headers.get("Origin"))
        if request.method not in ("GET", "HEAD") and "Origin" not in request.headers:
            raise NotAuthenticated("Send the token from POST /api/visitor as `Authorization: Bearer TOKEN`.")
        return self._from_cookie(request.cookies.get(COOKIE, ""))

    def _from_cookie(self, value: str) -> str:
        try:
            visitor = self._cookies.loads(value, max_age=COOKIE_SECONDS)
        except (BadSignature, UnicodeError):  # a header that is not UTF-8 is not from us
            raise NotAuthenticated(_NOT_SIGNED_IN) from None
        return str(visitor)

    def _from_token(self, value: str, origin: str | None) -> str:
        try:
            claims = self._tokens.loads(value, max_age=TOKEN_SECONDS)
            visitor, bound_to = str(claims["visitor"]), str(claims["origin"])
        except (BadSignature, KeyError, TypeError, UnicodeError):
            raise NotAuthenticated(_NOT_SIGNED_IN) from None
        if origin is not None and bound_to and origin != bound_to:
            raise NotAuthenticated("This token belongs to another site.")
        return visitor

    def welcome(self, request: web.Request) -> tuple[str, str]:
        """Return `(visitor, new token)`: the visitor who asks if known, else a new visitor."""
        try:
            visitor = self.identify(request)
        except NotAuthenticated:
            visitor = secrets.token_urlsafe(18)
        return visitor, self._tokens.dumps({"visitor": visitor, "origin": request.headers.get("Origin", "")})

    def set_cookie(self, response: web.StreamResponse, visitor: str) -> None:
        response.set_cookie(
            COOKIE,
            self._cookies.dumps(visitor),
            max_age=COOKIE_SECONDS,
            path="/",
            httponly=True,
            samesite="Lax",
            secure=self._secure,
        )
