"""Calls of Slack's Web API: who we are, posting a reply into its thread, and looking for one that may be there.

Knows: Slack's errors and limits (docs.slack.dev/apis/web-api/rate-limits). Does not know: what is said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from adapters.slack.events import CHANNEL, Thread
from bot.delivery import Never, NotNow, Unknown
from bot.errors import Unavailable
from storage.values import Outgoing

TIMEOUT_SECONDS = 8
MAX_MARKDOWN = 12_000
METADATA_TYPE = "myna_reply"
PAGE = 200
# After these it is open whether Slack did what it was asked.
_BROKEN = {"fatal_error", "internal_error", "request_timeout", "service_unavailable"}


@dataclass(frozen=True, slots=True)
class Identity:
    """Which bot a token stands for."""

    user_id: str
    team_id: str


class SlackClient:
    """One workspace's API. Nothing is tried again here: the outbox does, and knows what may have been posted."""

    channel = CHANNEL

    def __init__(self, token: str, url: str) -> None:
        self.url = url
        self._web = AsyncWebClient(token=token, base_url=url, timeout=TIMEOUT_SECONDS, retry_handlers=[])
        self._identity: Identity | None = None
        self._asking = asyncio.Lock()

    async def identity(self) -> Identity:
        """Asked for once. Raises `Unavailable`."""
        async with self._asking:
            if self._identity is None:
                try:
                    found = await self._web.auth_test()
                except (SlackApiError, aiohttp.ClientError, TimeoutError) as error:
                    raise Unavailable(f"Slack does not say who the bot is: {_reason(error)}.") from error
                self._identity = Identity(found["user_id"], found["team_id"])
        return self._identity

    async def post(self, outgoing: Outgoing) -> str:
        """See `Poster.post`: the id is the message's time, which Slack names it by."""
        thread = Thread.of_key(outgoing.conversation_key)
        metadata = {"event_type": METADATA_TYPE, "event_payload": {"reply_id": outgoing.id}}
        try:
            posted = await self._web.chat_postMessage(
                channel=thread.channel, thread_ts=thread.ts, metadata=metadata, **_content(outgoing.body["text"])
            )
        except SlackApiError as error:
            raise _meaning_of(error) from error
        except aiohttp.ClientConnectorError as error:
            raise NotNow(2.0) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unknown(f"no answer from Slack: {error!r}") from error
        return str(posted["ts"])

    async def find(self, outgoing: Outgoing) -> str | None:
        """See `Poster.find`: Slack keeps what was posted along with the message."""
        thread, cursor = Thread.of_key(outgoing.conversation_key), None
        while True:
            try:
                page = await self._web.conversations_replies(
                    channel=thread.channel, ts=thread.ts, include_all_metadata=True, limit=PAGE, cursor=cursor
                )
            except (SlackApiError, aiohttp.ClientError, TimeoutError) as error:
                raise Unknown(f"Slack does not show the thread: {_reason(error)}") from error
            for message in page.get("messages") or ():
                if _reply_id_of(message) == outgoing.id:
                    return str(message["ts"])
            cursor = (page.get("response_metadata") or {}).get("next_cursor")
            if not cursor:
                return None


def _content(text: str) -> dict[str, Any]:
    """Slack reads Markdown up to a length; what is longer is shown as it is written."""
    return {"markdown_text": text} if len(text) <= MAX_MARKDOWN else {"text": text}


def _reply_id_of(message: Mapping[str, Any]) -> str | None:
    metadata = message.get("metadata") or {}
    return (
        (metadata.get("event_payload") or {}).get("reply_id") if metadata.get("event_type") == METADATA_TYPE else None
    )


def _meaning_of(error: SlackApiError) -> Exception:
    code = error.response.get("error") or f"status {error.response.status_code}"
    if error.response.status_code == 429 or code in ("ratelimited", "rate_limited"):
        return NotNow(_retry_after(error))
    if code in _BROKEN or error.response.status_code >= 500:
        return Unknown(f"Slack answered {code}")
    return Never(f"Slack answered {code}")


def _retry_after(error: SlackApiError) -> float:
    given = error.response.headers.get("Retry-After", "")
    return min(float(given), 300.0) if given.isascii() and given.isdigit() else 1.0


def _reason(error: Exception) -> str:
    if isinstance(error, SlackApiError):
        return str(error.response.get("error") or error.response.status_code)
    return repr(error)
