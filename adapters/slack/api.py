"""Slack's requests: checked, understood, stored, and only then answered with 200.

Knows: which events are for whom. Does not know: how replies are made; they go out through the outbox.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web
from slack_sdk.signature import SignatureVerifier

from adapters.slack.client import SlackClient
from adapters.slack.events import CHANNEL, Spoken, read_message
from bot.conversation import Conversations
from bot.errors import InvalidInput, NotAuthenticated, NotFound, TooLarge

MAX_BODY_BYTES = 1024 * 1024


class SlackApi:
    """Handlers of one Slack workspace, whose conversations belong to a workspace of ours."""

    def __init__(
        self,
        conversations: Conversations,
        client: SlackClient,
        signing_secret: str,
        workspace_id: str,
    ) -> None:
        self._conversations = conversations
        self._client = client
        self._verifier = SignatureVerifier(signing_secret)
        self._workspace_id = workspace_id

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/slack/events", self.events)]

    async def events(self, request: web.Request) -> web.Response:
        """200 once the message is stored, or if there is nothing to store; 503 has Slack send it again."""
        body = await self._signed_body(request)
        if body.get("type") == "url_verification":
            return web.json_response({"challenge": str(body.get("challenge", ""))})
        if body.get("type") == "event_callback":
            spoken = read_message(body, (await self._client.identity()).user_id)
            if spoken is not None and await self._is_for_us(spoken):
                await self._conversations.accept(self._workspace_id, spoken.incoming)
        return web.Response()

    async def _signed_body(self, request: web.Request) -> Mapping[str, Any]:
        content = await request.read()
        if len(content) > MAX_BODY_BYTES:
            raise TooLarge(f"The request is over {MAX_BODY_BYTES} bytes.", limit=MAX_BODY_BYTES)
        if not self._is_signed(request, content):
            raise NotAuthenticated(
                "The request is not signed by Slack with our secret, or its time is more than five minutes off. Check "
                "MYNA_SLACK_SIGNING_SECRET and this machine's clock."
            )
        try:
            body = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise InvalidInput("The request is not JSON.") from error
        if not isinstance(body, dict):
            raise InvalidInput("The request is not a JSON object.")
        return body

    def _is_signed(self, request: web.Request, content: bytes) -> bool:
        try:
            return self._verifier.is_valid_request(content, dict(request.headers))
        except (TypeError, ValueError, OverflowError):  # it takes for granted what only Slack would send
            return False

    async def _is_for_us(self, spoken: Spoken) -> bool:
        """A thread that the bot takes part in needs no further mention."""
        if spoken.is_addressed:
            return True
        try:
            await self._conversations.find(self._workspace_id, CHANNEL, spoken.thread.key)
        except NotFound:
            return False
        return True
