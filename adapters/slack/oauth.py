"""OAuth 2 (RFC 6749) installation of the app in further workspaces.

The `state` parameter ties Slack's redirect to the browser that began the installation, against CSRF.
"""

from __future__ import annotations

import hashlib
import html
import logging
import secrets
from typing import Any
from urllib.parse import urlencode, urlsplit

from aiohttp import web

from adapters.slack.client import CallRefused
from adapters.slack.installations import App, StoredInstallations
from adapters.slack.manifest import BOT_SCOPES
from bot.chat.delivery import NotNow, Unknown
from storage import slack_installs
from storage.scope import Scope

log = logging.getLogger("myna.slack")

STATE_SECONDS = 600
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="/static/notice.css">
<main class="notice"><h1>{title}</h1><p>{text}</p><p><a href="{link}">{link_text}</a></p></main>
</html>
"""


class SlackOAuth:
    """Handlers of `/slack/install` and `/slack/oauth_redirect`."""

    def __init__(self, installations: StoredInstallations, scope: Scope, app: App, public_url: str) -> None:
        self._installations = installations
        self._scope = scope
        self._app = app
        self._public_url = public_url
        self._is_secure = public_url.startswith("https://")

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/slack/install", self.install), web.get("/slack/oauth_redirect", self.come_back)]

    async def install(self, _: web.Request) -> web.Response:
        """Redirect to Slack with a `state` for one use, bound to this browser by a cookie."""
        state = secrets.token_urlsafe(24)
        await self._scope.write(slack_installs.begin_attempt, _digest(state), STATE_SECONDS * 1000)
        asked = {
            "client_id": self._app.client_id,
            "scope": ",".join(BOT_SCOPES),
            "state": state,
            **self._redirect_uri(),
        }
        address = f"{_site_of(self._app.api_url)}/oauth/v2/authorize?{urlencode(asked)}"
        response = web.Response(status=302, headers={"Location": address, "Cache-Control": "no-store"})
        response.set_cookie(
            self._cookie, state, max_age=STATE_SECONDS, httponly=True, samesite="Lax", secure=self._is_secure, path="/"
        )
        return response

    async def come_back(self, request: web.Request) -> web.Response:
        """Exchange Slack's authorization code for tokens and store them."""
        state = request.query.get("state", "")
        if not state or not secrets.compare_digest(state.encode(), request.cookies.get(self._cookie, "").encode()):
            return _page(400, "Not installed", "This browser did not begin the installation, or took too long.")
        if not await self._scope.write(slack_installs.take_attempt, _digest(state)):
            return _page(400, "Not installed", "This link has been used already, or took too long.")
        if request.query.get("error"):
            return _page(200, "Not installed", "You chose not to install the app. Nothing was changed.")
        try:
            answer = await self._app.exchange(code=request.query.get("code", ""), **self._redirect_uri())
            identity = await self._installations.add(answer)
        except (NotNow, CallRefused, Unknown, KeyError) as error:
            log.error("the app could not be installed: %r", error)
            return _page(502, "Not installed", "Slack did not give Myna access. The reason is in Myna's log.")
        log.warning("the Slack app was installed in %s", identity.tenant)
        response = _page(
            200,
            "Installed",
            "Myna is in your workspace now. Mention it in a channel, or write to it directly.",
            link="https://slack.com/app_redirect?" + urlencode({"app": str(answer.get("app_id") or "")}),
            link_text="Open Slack",
        )
        response.del_cookie(self._cookie, path="/")
        return response

    @property
    def _cookie(self) -> str:
        return "__Host-myna_slack" if self._is_secure else "myna_slack"

    def _redirect_uri(self) -> dict[str, Any]:
        """Return the `redirect_uri` argument; empty without a public URL, so that Slack takes the app's first one."""
        return {"redirect_uri": f"{self._public_url}/slack/oauth_redirect"} if self._public_url else {}


def _digest(state: str) -> str:
    return hashlib.sha256(state.encode()).hexdigest()


def _site_of(api_url: str) -> str:
    parts = urlsplit(api_url)
    return f"{parts.scheme}://{parts.netloc}"


def _page(
    status: int, title: str, text: str, *, link: str = "/slack/install", link_text: str = "Try again"
) -> web.Response:
    shown = {"title": title, "text": text, "link": link, "link_text": link_text}
    return web.Response(
        status=status,
        text=_PAGE.format(**{name: html.escape(value) for name, value in shown.items()}),
        content_type="text/html",
        headers={
            "Content-Security-Policy": "default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'",
            "Cache-Control": "no-store",
        },
    )
