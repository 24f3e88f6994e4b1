"""Socket Mode: Slack's requests over outgoing WebSockets.

For a Myna that can't be reached from the internet (docs.slack.dev/apis/events-api/using-socket-mode). slack_sdk reopens
each socket; two are held, so that no request waits while one is renewed.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from slack_sdk.errors import SlackApiError
from slack_sdk.socket_mode.aiohttp import SocketModeClient
from slack_sdk.socket_mode.async_client import AsyncBaseSocketModeClient
from slack_sdk.socket_mode.request import SocketModeRequest
from slack_sdk.socket_mode.response import SocketModeResponse
from slack_sdk.web.async_client import AsyncWebClient

from adapters.slack.client import name_of
from adapters.slack.inbound import SlackInbound
from bot.errors import MynaError
from storage.database import StorageUnavailable

log = logging.getLogger("myna.slack")

SOCKETS = 2


class _Socket(SocketModeClient):
    """slack_sdk's client, with a failed connection logged in one line."""

    async def issue_new_wss_url(self) -> str:
        try:
            answer = await self.web_client.apps_connections_open(app_token=self.app_token)
        except SlackApiError as error:
            log.error("Slack gives us no socket: %s. Check MYNA_SLACK_APP_TOKEN.", name_of(error))
            raise
        return str(answer["url"])


class SlackSockets:
    """WebSockets of one Slack app."""

    def __init__(self, inbound: SlackInbound, app_token: str, api_url: str) -> None:
        self._inbound = inbound
        self._app_token = app_token
        self._api_url = api_url

    async def work(self) -> None:
        """Keep the sockets open until cancelled. slack_sdk reopens each, however long that takes."""
        sockets = [self._make() for _ in range(SOCKETS)]
        try:
            await asyncio.gather(*[socket.connect() for socket in sockets])  # type: ignore[no-untyped-call]
            await asyncio.Event().wait()
        finally:
            for socket in sockets:
                await socket.close()  # type: ignore[no-untyped-call]

    def _make(self) -> _Socket:
        quiet = logging.getLogger("myna.slack.socket")
        quiet.setLevel(logging.CRITICAL)  # it logs a traceback every few seconds while the network is away
        socket = _Socket(self._app_token, web_client=AsyncWebClient(base_url=self._api_url), logger=quiet)
        socket.socket_mode_request_listeners.append(self._take)
        return socket

    async def _take(self, client: AsyncBaseSocketModeClient, request: SocketModeRequest) -> None:
        """Handle a request, then acknowledge it. Slack repeats a request without acknowledgement, so none is lost."""
        try:
            answer = await self._answer(request)
        except (MynaError, StorageUnavailable) as error:
            log.error("a request of Slack's is left for later: %s", error)
            return
        except Exception:
            log.exception("a request of Slack's could not be handled")
            return
        await client.send_socket_mode_response(SocketModeResponse(request.envelope_id, answer))

    async def _answer(self, request: SocketModeRequest) -> dict[str, Any] | None:
        if request.type == "events_api":
            await self._inbound.event(request.payload)
        elif request.type == "slash_commands":
            return await self._inbound.command(request.payload)
        elif request.type == "interactive":
            return await self._inbound.interaction(request.payload)
        return None
