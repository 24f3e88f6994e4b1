"""OAuth installation: the consent page, the exchange of codes, and token rotation.

Source: docs.slack.dev/reference/methods/oauth.v2.access.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from dataclasses import dataclass
from urllib.parse import urlencode

from aiohttp import web

from tests.fakes.slack.calls import SlackError
from tests.fakes.slack.records import CLIENT_ID, CLIENT_SECRET, TEAM, Installation, Json
from tests.fakes.slack.state import State

CODE_SECONDS = 600.0
TOKEN_SECONDS = 43_200


@dataclass
class Consent:
    """The next decision of the person on the consent page."""

    team_id: str = TEAM
    enterprise_wide: bool = False
    user: str = "U0ANA"
    denied: bool = False


@dataclass
class _Code:
    consent: Consent
    scopes: str
    redirect_uri: str
    at: float
    used: bool = False


class OAuth:
    """OAuth endpoints; `consent` is the next decision, `rotates` is True if the app has token rotation on."""

    def __init__(self, slack: State) -> None:
        self._slack = slack
        self._codes: dict[str, _Code] = {}
        self.consent = Consent()
        self.rotates = False

    async def authorize(self, request: web.Request) -> web.StreamResponse:
        """Serve the consent page: the person decides at once, and is redirected to the app."""
        query = request.query
        if query.get("client_id") != CLIENT_ID:
            return web.Response(status=400, text="invalid_client_id")
        redirect_uri = query.get("redirect_uri", "")
        if not redirect_uri:
            return web.Response(status=400, text="bad_redirect_uri")
        if self.consent.denied:
            answer = {"error": "access_denied", "state": query.get("state", "")}
        else:
            code = secrets.token_hex(16)
            now = self._slack.clock.now()
            self._codes[code] = _Code(self.consent, query.get("scope", ""), redirect_uri, now)
            answer = {"code": code, "state": query.get("state", "")}
        separator = "&" if "?" in redirect_uri else "?"
        return web.Response(status=302, headers={"Location": redirect_uri + separator + urlencode(answer)})

    def access(self, given: Json, authorization: str) -> Json:
        self._check_client(given, authorization)
        kind = given.get("grant_type") or "authorization_code"
        if kind == "refresh_token":
            return self._refresh(str(given.get("refresh_token") or ""))
        if kind != "authorization_code":
            raise SlackError("invalid_grant_type")
        return self._exchange(given)

    def _check_client(self, given: Json, authorization: str) -> None:
        """Check the client's credentials, in the arguments or by HTTP Basic, as the SDKs send them."""
        client, secret = given.get("client_id"), given.get("client_secret")
        if authorization.startswith("Basic "):
            try:
                client, _, secret = base64.b64decode(authorization[6:]).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                raise SlackError("invalid_client_id") from None
        if client != CLIENT_ID:
            raise SlackError("invalid_client_id")
        if secret != CLIENT_SECRET:
            raise SlackError("bad_client_secret")

    def _exchange(self, given: Json) -> Json:
        code = self._codes.get(str(given.get("code") or ""))
        if code is None or code.used or self._slack.clock.now() > code.at + CODE_SECONDS:
            raise SlackError("invalid_code")
        if str(given.get("redirect_uri") or "") not in ("", code.redirect_uri):
            raise SlackError("bad_redirect_uri")
        code.used = True
        made = self._slack.install(
            code.consent.team_id,
            token=f"xoxb-{secrets.token_hex(12)}",
            enterprise_wide=code.consent.enterprise_wide,
            scopes=code.scopes,
        )
        return self._shown(made) | {"authed_user": {"id": code.consent.user}}

    def _refresh(self, refresh_token: str) -> Json:
        """Exchange a refresh token, valid once; the access token before it stays valid until it expires."""
        for old in list(self._slack.installations.values()):
            if refresh_token and old.refresh_token == refresh_token:
                old.refresh_token = ""
                made = Installation(**{**vars(old), "token": f"xoxe.xoxb-{secrets.token_hex(12)}"})
                self._slack.installations[made.token] = made
                return self._shown(made)
        raise SlackError("invalid_refresh_token")

    def _shown(self, made: Installation) -> Json:
        team, wide = self._slack.teams[made.team_id], made.enterprise_wide
        enterprise = {"id": team.enterprise_id, "name": "Fernhill Group"} if team.enterprise_id else None
        shown: Json = {
            "access_token": made.token,
            "token_type": "bot",
            "scope": made.scopes,
            "bot_user_id": made.bot_user_id,
            "app_id": self._slack.app_id,
            "team": None if wide else {"id": team.id, "name": team.name},
            "enterprise": enterprise,
            "is_enterprise_install": wide,
        }
        if self.rotates:
            made.refresh_token = f"xoxe-1-{secrets.token_hex(12)}"
            made.expires_at = self._slack.clock.now() + TOKEN_SECONDS
            shown |= {"refresh_token": made.refresh_token, "expires_in": TOKEN_SECONDS}
        return shown
