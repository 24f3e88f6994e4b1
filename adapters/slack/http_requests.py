"""Slack's HTTP requests: signature check and routing.

Signatures: docs.slack.dev/authentication/verifying-requests-from-slack. An event is answered with 200 only after its
content is stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web
from slack_sdk.signature import SignatureVerifier

from adapters.slack.inbound import SlackInbound
from bot.errors import InvalidInput, NotAuthenticated, TooLarge

MAX_BODY_BYTES = 1024 * 1024
MAX_FIELDS = 100


class SlackApi:
    """HTTP handlers of one Slack app, for all its installations."""

    def __init__(self, inbound: SlackInbound, signing_secret: str) -> None:
        self._inbound = inbound
        self._verifier = SignatureVerifier(signing_secret)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/slack/events", self.events),
            web.post("/slack/commands", self.commands),
            web.post("/slack/interactivity", self.interactivity),
        ]

    async def events(self, request: web.Request) -> web.Response:
        """Store an event, then answer 200; 503 makes Slack send it again."""
        body = _object(await self._signed(request))
        if body.get("type") == "url_verification":
            return web.json_response({"challenge": str(body.get("challenge", ""))})
        if body.get("type") == "event_callback":
            await self._inbound.event(body)
        return web.Response()

    async def commands(self, request: web.Request) -> web.Response:
        """Answer `/myna ...` with an ephemeral message."""
        return web.json_response(await self._inbound.command(_fields(await self._signed(request))))

    async def interactivity(self, request: web.Request) -> web.Response:
        """Take a button press or a form; an incomplete form is answered with errors beside its fields."""
        payload = _fields(await self._signed(request)).get("payload", "")
        answer = await self._inbound.interaction(_object(payload.encode()))
        return web.Response() if answer is None else web.json_response(answer)

    async def _signed(self, request: web.Request) -> bytes:
        content = await request.read()
        if len(content) > MAX_BODY_BYTES:
            raise TooLarge(f"The request is over {MAX_BODY_BYTES} bytes.", limit=MAX_BODY_BYTES)
        if not self._is_signed(request, content):
            raise NotAuthenticated(
                "The request is not signed by Slack with our secret, or its time is more than five minutes off. Check "
                "MYNA_SLACK_SIGNING_SECRET and this machine's clock."
            )
        return content

    def _is_signed(self, request: web.Request, content: bytes) -> bool:
        try:
            return self._verifier.is_valid_request(content, dict(request.headers))
        except (TypeError, ValueError, OverflowError):  # the verifier fails on headers that Slack would never send
            return False


def _object(content: bytes) -> Mapping[str, Any]:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("The request is not JSON.") from error
    if not isinstance(body, dict):
        raise InvalidInput("The request is not a JSON object.")
    return body


def _fields(content: bytes) -> dict[str, str]:
    try:
        return dict(parse_qsl(content.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS))
    except ValueError as error:
        raise InvalidInput("The request is not a form.") from error
