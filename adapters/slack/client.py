"""Calls of Slack's Web API for one installation: what each answer means, and what has to wait.

Knows: Slack's errors and limits (docs.slack.dev/apis/web-api). Does not know: what is said, where tokens are kept.
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
# After these it is open whether Slack did what it was asked.
_BROKEN = {"fatal_error", "internal_error", "request_timeout", "service_unavailable", "team_added_to_org"}
_LIMITED = {"ratelimited", "rate_limited", "message_limit_exceeded"}
LATE_TOKEN_SECONDS = 30.0
NO_LOCALE_SECONDS = 60.0


class CallRefused(Never):
    """Slack answered with an error of this name, and has done nothing."""

    def __init__(self, method: str, code: str) -> None:
        super().__init__(f"Slack answered {method} with {code}")
        self.code = code


@dataclass(frozen=True, slots=True)
class BotIdentity:
    """Which bot a token stands for. `tenant` is the organization where all of it has the app, else the team.

    Either is "" if Slack does not say it.
    """

    user_id: str
    tenant: str


class SlackClient:
    """One installation's API. Nothing is tried again here: who calls knows what may have happened."""

    def __init__(self, token: str, url: str) -> None:
        self._web = AsyncWebClient(token=token, base_url=url, timeout=TIMEOUT_SECONDS, retry_handlers=[])
        self._limits = RateLimits()
        self._identity: BotIdentity | None = None
        self._asking = asyncio.Lock()
        self._locales: dict[str, tuple[float, str]] = {}
        self._has_sessions = True

    async def close(self) -> None:
        """Close the connections that are kept; a call after that opens new ones."""
        if self._web.session is not None:
            await self._web.session.close()

    def set_token(self, token: str) -> None:
        """Go on with another token of the same installation."""
        self._web.token = token

    def wait_for(self, method: str, channel: str = "") -> float:
        """0 if a call may be made now, which is then counted; else the seconds until one may."""
        return self._limits.take(method, channel)

    def has_room(self, method: str) -> bool:
        """Whether a call that is only nice may be made: half of the calls are kept for those that must be."""
        return self._limits.is_half_full(method)

    def set_aside(self, method: str) -> bool:
        """Count a call that will have to be made, if there is room for it."""
        return self.has_room(method) and not self._limits.take(method, "")

    async def call(self, method: str, *, counted: bool = False, **arguments: Any) -> Mapping[str, Any]:
        """Slack's answer to a method, named as slack_sdk does. `counted`: `wait_for` has been asked already.

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
        """Answer a command or a press at the address that came with it. Raises as `call`."""
        await self._post(response_url, "a response_url", json=dict(message))

    async def upload(self, channel: str, name: str, content: bytes, about: str) -> None:
        """Share a picture in a channel, `about` for those who can't see it. Raises as `call`."""
        place = await self.call("files_getUploadURLExternal", filename=name, length=len(content), alt_txt=about[:1000])
        await self._post(str(place["upload_url"]), "an upload", data=content)
        files = [{"id": str(place["file_id"]), "title": about}]
        await self.call("files_completeUploadExternal", files=files, channel_id=channel)

    async def _post(self, url: str, what: str, **body: Any) -> None:
        """Post to an address that Slack has given us, without the token."""
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
        """The one that all calls share; else each would open a connection of its own."""
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
        """Asked for once. Raises as `call`."""
        async with self._asking:
            if self._identity is None:
                found = await self.call("auth_test")
                of_organization = found.get("is_enterprise_install") and found.get("enterprise_id")
                tenant = of_organization or found.get("team_id")
                self._identity = BotIdentity(str(found.get("user_id") or ""), str(tenant or ""))
        return self._identity

    async def locale_of(self, user_id: str) -> str | None:
        """A person's language in Slack, like zh-CN; None if Slack does not say."""
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
        """Show that an answer is on its way, if Slack lets us. Whether it may be shown now.

        An app that is not declared an agent has no sessions; there, `words` stand below the thread.
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

    async def show_rest(self, channel: str, thread_ts: str) -> None:
        """Show that nothing is on its way any more, however long that takes: it would stand there for ever."""
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
    """Slack's name of an error. Behind a proxy, or in an outage, the answer may be a page for people."""
    response: Any = error.response
    named = response.data.get("error") if isinstance(response.data, Mapping) else None
    return str(named or f"status {response.status_code}")


def _retry_after(headers: Mapping[str, str]) -> float:
    given = headers.get("Retry-After") or headers.get("retry-after") or ""
    return min(float(given), 300.0) if given.isascii() and given.isdigit() else 1.0
