"""Dispatch of Web API calls: tokens, scopes, rate limits and injected faults."""

from __future__ import annotations

import asyncio
import json
import math
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tests.fakes.slack import agents, files, messages, views
from tests.fakes.slack.calls import Asked, SlackError
from tests.fakes.slack.oauth import OAuth
from tests.fakes.slack.records import APP_TOKEN, CONFIG_TOKEN, Call, Installation, Json
from tests.fakes.slack.socket_mode import Sockets
from tests.fakes.slack.state import State


@dataclass(frozen=True)
class Method:
    """A method; a token needs one of its `scopes`, `per_minute` is its rate limit tier."""

    do: Callable[[Asked], Json]
    scopes: tuple[str, ...] = ()
    per_minute: int = 50


WRITE = ("chat:write",)
HISTORY = ("channels:history", "groups:history", "im:history", "mpim:history")
READ = ("channels:read", "groups:read", "im:read", "mpim:read")
READ_NO_JSON = {"api.test", "conversations.history", "conversations.info", "conversations.replies", "users.info"}
ASSISTANT = ("chat:write", "assistant:write")


def auth_test(asked: Asked) -> Json:
    by = asked.by
    team = asked.slack.teams[by.team_id]
    shown: Json = {
        "url": f"https://{team.name.lower()}.slack.com/",
        "team": team.name,
        "user": asked.slack.users[by.bot_user_id].name,
        "team_id": by.enterprise_id if by.enterprise_wide else team.id,
        "user_id": by.bot_user_id,
        "bot_id": by.bot_id,
        "is_enterprise_install": by.enterprise_wide,
    }
    return shown | ({"enterprise_id": team.enterprise_id} if team.enterprise_id else {})


def auth_revoke(asked: Asked) -> Json:
    if asked.flag("test"):
        return {"revoked": False}
    asked.by.refused_with = "token_revoked"
    return {"revoked": True}


def bot_info(asked: Asked) -> Json:
    if asked.text("bot") != asked.by.bot_id:
        raise SlackError("bot_not_found")
    return {"bot": {"id": asked.by.bot_id, "app_id": asked.slack.app_id, "user_id": asked.by.bot_user_id}}


METHODS = {
    "bots.info": Method(bot_info, ("users:read",)),
    "auth.test": Method(auth_test, per_minute=600),
    "auth.revoke": Method(auth_revoke),
    "chat.postMessage": Method(messages.post_message, WRITE, per_minute=600),
    "chat.update": Method(messages.update, WRITE),
    "chat.delete": Method(messages.delete, WRITE),
    "chat.postEphemeral": Method(messages.post_ephemeral, WRITE, per_minute=100),
    "chat.startStream": Method(agents.start_stream, WRITE, per_minute=20),
    "chat.appendStream": Method(agents.append_stream, WRITE, per_minute=100),
    "chat.stopStream": Method(agents.stop_stream, WRITE, per_minute=20),
    "conversations.replies": Method(messages.replies, HISTORY),
    "conversations.history": Method(messages.history, HISTORY),
    "conversations.info": Method(messages.channel_info, READ),
    "conversations.open": Method(messages.open_conversation, ("im:write", "mpim:write", "channels:manage")),
    "users.info": Method(messages.user_info, ("users:read",), per_minute=100),
    "files.getUploadURLExternal": Method(files.get_upload_url, ("files:write",), per_minute=100),
    "files.completeUploadExternal": Method(files.complete_upload, ("files:write",), per_minute=100),
    "views.open": Method(views.open_view, per_minute=100),
    "views.update": Method(views.update_view, per_minute=100),
    "reactions.add": Method(messages.add_reaction, ("reactions:write",)),
    "reactions.remove": Method(messages.remove_reaction, ("reactions:write",), per_minute=20),
    "agents.sessions.setStatus": Method(agents.set_session_status, WRITE),
    "agents.sessions.rename": Method(agents.rename_session, WRITE),
    "assistant.threads.setStatus": Method(agents.set_thread_status, ASSISTANT, per_minute=600),
    "assistant.threads.setTitle": Method(agents.set_thread_title, ASSISTANT, per_minute=100),
    "assistant.threads.setSuggestedPrompts": Method(agents.set_suggested_prompts, ASSISTANT, per_minute=100),
}


class WebApi:
    def __init__(self, slack: State, oauth: OAuth, sockets: Sockets) -> None:
        self._slack = slack
        self._oauth = oauth
        self._sockets = sockets
        self._spent: defaultdict[tuple[str, ...], deque[float]] = defaultdict(deque)

    async def call(self, request: web.Request) -> web.StreamResponse:
        method = request.match_info["method"]
        try:
            given, token = await _read(request)
        except ValueError:
            return _answer({"ok": False, "error": "invalid_json"})
        self._slack.calls.append(Call(method, given, token, self._slack.clock.now()))
        waiting = self._slack.troubles[method]
        trouble = waiting.popleft() if waiting else ""
        if trouble in ("hangs", "drops"):
            return await _vanish(request, trouble)
        answer = _answer_to(trouble) or self._answer(method, given, token, request)
        if trouble in ("hangs after", "drops after"):
            return await _vanish(request, trouble)
        return answer

    def _answer(self, method: str, given: Json, token: str, request: web.Request) -> web.Response:
        try:
            return self._do(method, given, token, request.headers.get("Authorization", ""))
        except SlackError as error:
            return _answer({"ok": False, "error": error.error, **error.more})

    def _do(self, method: str, given: Json, token: str, authorization: str) -> web.Response:
        if method == "api.test":
            error = given.get("error")
            return _answer({"ok": not error, "args": given, **({"error": error} if error else {})})
        if method == "oauth.v2.access":
            return _answer({"ok": True, **self._oauth.access(given, authorization)})
        if method == "apps.connections.open":
            _check_app_token(token)
            return _answer({"ok": True, "url": self._sockets.new_address()})
        if method == "apps.manifest.export":
            return _answer({"ok": True, "manifest": self._export_manifest(given, token)})
        if method not in METHODS:
            raise SlackError("unknown_method", req_method=method)
        by = self._check_token(token)
        wait = self._wait_for(method, given, by) if self._slack.limits else 0
        if wait:
            return _too_many(wait)
        _check_scopes(METHODS[method], by)
        self._slack.end_old_streams()
        done = METHODS[method].do(Asked(self._slack, by, given))
        return _answer({"ok": True, **done}, {"X-OAuth-Scopes": by.scopes})

    def _check_token(self, token: str) -> Installation:
        if not token:
            raise SlackError("not_authed")
        by = self._slack.installations.get(token)
        if by is None or self._slack.refuses_token:
            raise SlackError("invalid_auth")
        if by.refused_with:
            raise SlackError(by.refused_with)
        if by.expires_at is not None and self._slack.clock.now() >= by.expires_at:
            raise SlackError("token_expired")
        return by

    def _export_manifest(self, given: Json, token: str) -> Json:
        if token != CONFIG_TOKEN:
            raise SlackError("invalid_auth")
        if given.get("app_id") != self._slack.app_id:
            raise SlackError("invalid_app_id")
        return self._slack.manifest

    # --- limits ---

    def _wait_for(self, method: str, given: Json, by: Installation) -> int:
        """Return the whole seconds until the call is allowed; 0 takes it from the budget."""
        workspace = by.enterprise_id if by.enterprise_wide else by.team_id
        budgets: list[tuple[tuple[str, ...], int, float]] = [((workspace, method), METHODS[method].per_minute, 60.0)]
        if method == "chat.postMessage":
            budgets.append(((workspace, method, str(given.get("channel"))), 1, 1.0))
        now = self._slack.clock.now()
        waits = []
        for key, most, seconds in budgets:
            spent = self._spent[key]
            while spent and spent[0] <= now - seconds:
                spent.popleft()
            waits.append(spent[0] + seconds - now if len(spent) >= most else 0.0)
        if any(waits):
            return math.ceil(max(waits))
        for key, _, _ in budgets:
            self._spent[key].append(now)
        return 0


def _check_app_token(token: str) -> None:
    if not token:
        raise SlackError("not_authed")
    if token != APP_TOKEN:
        raise SlackError("not_allowed_token_type" if token.startswith("xoxb-") else "invalid_auth")


def _check_scopes(method: Method, by: Installation) -> None:
    granted = by.scopes.split(",")
    if method.scopes and not set(method.scopes) & set(granted):
        raise SlackError("missing_scope", needed=",".join(method.scopes), provided=by.scopes)


async def _read(request: web.Request) -> tuple[Json, str]:
    """Read the arguments, from query, form or JSON, and the token."""
    given: dict[str, Any] = dict(request.query)
    if request.content_type == "application/json":
        content = json.loads(await request.text() or "{}")
        if not isinstance(content, dict):
            raise ValueError
        if request.match_info["method"] not in READ_NO_JSON:
            given |= content
    else:
        given |= dict(await request.post())
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    sent = str(given.pop("token", ""))
    return given, token if kind == "Bearer" else sent


def _answer(body: Json, headers: dict[str, str] | None = None, status: int = 200) -> web.Response:
    return web.json_response(body, headers=headers, status=status)


def _too_many(seconds: int) -> web.Response:
    return _answer({"ok": False, "error": "ratelimited"}, {"Retry-After": str(seconds)}, 429)


def _answer_to(trouble: str) -> web.Response | None:
    """Return the answer of an injected fault, if it has one."""
    if trouble in ("", "hangs after", "drops after"):
        return None
    if trouble == "ratelimited":
        return _too_many(1)
    if trouble == "http_500":
        return web.Response(status=500, text="Internal Server Error")
    return _answer({"ok": False, "error": trouble})


async def _vanish(request: web.Request, how: str) -> web.StreamResponse:
    """Give no answer: hold the connection for an hour, or close it."""
    if how.startswith("drops") and request.transport is not None:
        request.transport.close()
    await asyncio.sleep(3600)
    return web.Response(status=500)
