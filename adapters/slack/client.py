"""Slack Web API client for one installation, with rate limits.

Each of Slack's errors (docs.slack.dev/apis/web-api) becomes `NotNow`, `CallRefused` or `Unknown`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from slack_sdk.errors import SlackApiError, SlackClientError
from slack_sdk.web.async_client import AsyncWebClient

from adapters.slack.limits import RateLimits
from bot.chat.delivery import Never, NotNow, Unknown

TIMEOUT_SECONDS = 8
LOCALE_SECONDS = 3600.0
MAX_LOCALES = 10_000
STATUS_DELAYS = (1.0, 2.0, 5.0, 15.0, 30.0, 60.0, 60.0, 60.0)
# After these errors the call may or may not have been carried out.
_BROKEN = {"fatal_error", "internal_error", "request_timeout", "service_unavailable", "team_added_to_org"}
_LIMITED = {"ratelimited", "rate_limited", "message_limit_exceeded"}
LATE_TOKEN_SECONDS = 30.0
NO_LOCALE_SECONDS = 60.0


class CallRefused(Never):
    """Slack answered with the error `code`, and has done nothing."""

    def __init__(self, method: str, code: str) -> None:
        super().__init__(f"Slack answered {method} with {code}")
        self.code = code


@dataclass(frozen=True, slots=True)
class BotIdentity:
    """The bot that a token belongs to; "" for each value that Slack does not give.

    `tenant` is the id of the organization if the app is installed in all of it, else of the team.
    """

    user_id: str
    tenant: str


class SlackClient:
    """The Web API of one installation. It never retries: only the caller knows whether a second call does harm."""

    def __init__(self, token: str, url: str) -> None:
        self._web = AsyncWebClient(token=token, base_url=url, timeout=TIMEOUT_SECONDS, retry_handlers=[])
        self._limits = RateLimits()
        self._identity: BotIdentity | None = None
        self._asking = asyncio.Lock()
        self._locales: dict[str, tuple[float, str]] = {}
        self._has_sessions = True

    async def close(self) -> None:
        """Close the connection pool; a later call opens a new one."""
        if self._web.session is not None:
            await self._web.session.close()

    def set_token(self, token: str) -> None:
        """Use a renewed token of the same installation."""
        self._web.token = token

    def wait_for(self, method: str, channel: str = "") -> float:
        """Count a call and return 0, or return the seconds until the rate limit allows it."""
        return self._limits.take(method, channel)

    def has_room(self, method: str) -> bool:
        """Return True if an optional call may be made: half of the rate limit is kept for required calls."""
        return self._limits.is_half_full(method)

    def set_aside(self, method: str) -> bool:
        """Reserve a later required call; False if the rate limit has no room for it."""
        return self.has_room(method) and not self._limits.take(method, "")

    async def call(self, method: str, *, counted: bool = False, **arguments: Any) -> Mapping[str, Any]:
        """Call a method, by slack_sdk's name for it, and return the answer. `counted`: `wait_for` has counted it.

        Raises `NotNow` if nothing was done and a later try may work, `CallRefused`,
        or `Unknown` if it may have been done.
        """
        channel = str(arguments.get("channel") or "")
        if not counted and (seconds := self._limits.take(method, channel)):
            raise NotNow(seconds)
        self._session()
        try:
            answer = await getattr(self._web, method)(**arguments)
        except SlackApiError as error:
            raise self._meaning_of(error, method, channel) from error
        except aiohttp.ClientConnectorError as error:
            raise NotNow(2.0) from error
        except (aiohttp.ClientError, TimeoutError, SlackClientError, ValueError) as error:
            raise Unknown(f"no answer from Slack to {method}: {error!r}") from error
        return answer.data if isinstance(answer.data, Mapping) else {}

    async def respond(self, response_url: str, message: Mapping[str, Any]) -> None:
        """Answer a command or a button press at its `response_url`. Raises as `call`."""
        await self._post(response_url, "a response_url", json=dict(message))

    async def upload(self, channel: str, name: str, content: bytes, about: str) -> None:
        """Upload a picture to a channel, with `about` as title and alt text. Raises as `call`."""
        target = await self.call("files_getUploadURLExternal", filename=name, length=len(content), alt_txt=about[:1000])
        await self._post(str(target["upload_url"]), "an upload", data=content)
        files = [{"id": str(target["file_id"]), "title": about}]
        await self.call("files_completeUploadExternal", files=files, channel_id=channel)

    async def _post(self, url: str, what: str, **body: Any) -> None:
        """Post to a URL that Slack has issued, without the token. `what` names it in errors."""
        try:
            async with self._session().post(url, **body) as response:
                status = response.status
        except aiohttp.ClientConnectorError as error:
            raise NotNow(2.0) from error
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise Unknown(f"no answer from Slack to {what}: {error!r}") from error
        if status >= 500:
            raise Unknown(f"Slack answered {what} with status {status}")
        if status >= 400:
            raise CallRefused(what, f"status {status}")

    def _session(self) -> aiohttp.ClientSession:
        """Return the session that all calls share; without it, each call would open its own connection."""
        if self._web.session is None or self._web.session.closed:
            self._web.session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS))
        return self._web.session

    def _meaning_of(self, error: SlackApiError, method: str, channel: str) -> Exception:
        response: Any = error.response
        code = name_of(error)
        if response.status_code == 429 or code in _LIMITED:
            seconds = _retry_after(response.headers)
            self._limits.close(method, channel, seconds)
            return NotNow(seconds)
        if code == "token_expired":  # it is being renewed
            return NotNow(LATE_TOKEN_SECONDS)
        if code in _BROKEN or response.status_code >= 500:
            return Unknown(f"Slack answered {method} with {code}")
        return CallRefused(method, code)

    async def identity(self) -> BotIdentity:
        """Return the bot's identity, asked of Slack once. Raises as `call`."""
        async with self._asking:
            if self._identity is None:
                found = await self.call("auth_test")
                of_organization = found.get("is_enterprise_install") and found.get("enterprise_id")
                tenant = of_organization or found.get("team_id")
                self._identity = BotIdentity(str(found.get("user_id") or ""), str(tenant or ""))
        return self._identity

    async def locale_of(self, user_id: str) -> str | None:
        """Return a person's locale in Slack, like zh-CN; None if Slack does not give it. Cached for an hour."""
        known = self._locales.get(user_id)
        if known is not None and known[0] > time.monotonic():
            return known[1] or None
        try:
            user = (await self.call("users_info", user=user_id, include_locale=True)).get("user") or {}
        except (NotNow, Never, Unknown):
            user = {}
        if len(self._locales) >= MAX_LOCALES:
            self._locales.clear()
        locale = str(user.get("locale") or "")
        self._locales[user_id] = (time.monotonic() + (LOCALE_SECONDS if locale else NO_LOCALE_SECONDS), locale)
        return locale or None

    async def show_working(self, channel: str, thread_ts: str, title: str, words: str) -> bool:
        """Show that an answer is on its way. Return False if Slack certainly does not show it.

        An app that is not declared an agent has no sessions; there, `words` appear below the thread.
        """
        method = "agents_sessions_setStatus" if self._has_sessions else "assistant_threads_setStatus"
        if not self.has_room(method):
            return False
        try:
            await self._set_status(channel, thread_ts, "processing", words, title)
        except (NotNow, Never):
            return False
        except Unknown:
            return True
        return True

    async def clear_status(self, channel: str, thread_ts: str) -> None:
        """Clear the status of a thread, with retries: Slack would show it for ever."""
        for delay in STATUS_DELAYS:
            try:
                await self._set_status(channel, thread_ts, "active", "", "")
                return
            except NotNow as error:
                await asyncio.sleep(error.retry_after + delay)
            except Unknown:
                await asyncio.sleep(delay)
            except Never:
                return

    async def _set_status(self, channel: str, thread_ts: str, status: str, words: str, title: str) -> None:
        if self._has_sessions:
            more: dict[str, Any] = {"title": title[:200]} if title else {}
            try:
                await self.call(
                    "agents_sessions_setStatus", channel_id=channel, thread_ts=thread_ts, status=status, **more
                )
                return
            except CallRefused as error:
                if error.code not in ("not_authorized", "unknown_method", "not_allowed_token_type"):
                    raise
                self._has_sessions = False
        await self.call("assistant_threads_setStatus", channel_id=channel, thread_ts=thread_ts, status=words)


def name_of(error: SlackApiError) -> str:
    """Return Slack's error code, or the HTTP status where a proxy or an outage answers with HTML."""
    response: Any = error.response
    named = response.data.get("error") if isinstance(response.data, Mapping) else None
    return str(named or f"status {response.status_code}")


def _retry_after(headers: Mapping[str, str]) -> float:
    given = headers.get("Retry-After") or headers.get("retry-after") or ""
    return min(float(given), 300.0) if given.isascii() and given.isdigit() else 1.0
