"""Slack's requests: checked, understood, stored, and only then answered with 200.

Knows: which events are for whom. Does not know: how replies are made; they go out through the outbox.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from adapters.slack.client import SlackClient
from adapters.slack.events import CHANNEL, Spoken, read_message
from adapters.slack.signature import SignatureCheck
from bot.conversation import Conversations
from bot.errors import InvalidInput, NotFound, TooLarge

MAX_BODY_BYTES = 1024 * 1024


class SlackApi:
    """Handlers of one Slack workspace, whose conversations belong to a workspace of ours."""

    def __init__(
        self,
        conversations: Conversations,
        client: SlackClient,
        signing_secret: str,
        workspace_id: str,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._conversations = conversations
        self._client = client
        self._signature = SignatureCheck(signing_secret, *([clock] if clock else []))
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
        self._signature.check(request.headers, content)
        try:
            body = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise InvalidInput("The request is not JSON.") from error
        if not isinstance(body, dict):
            raise InvalidInput("The request is not a JSON object.")
        return body

    async def _is_for_us(self, spoken: Spoken) -> bool:
        """A thread that the bot takes part in needs no further mention."""
        if spoken.meant == "yes":
            return True
        try:
            await self._conversations.find(self._workspace_id, CHANNEL, spoken.thread.key)
        except NotFound:
            return False
        return True
