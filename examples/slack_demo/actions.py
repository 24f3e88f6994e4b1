"""Actions of people on the demo page: JSON requests, checked and done in the fake Slack."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from examples.slack_demo.markup import to_slack
from examples.slack_demo.sight import Sight, find_element
from tests.fakes.slack.deliveries import Answer
from tests.fakes.slack.records import Channel, Json

COMMAND = "/myna"
LONGEST_TEXT = 40_000
MOST_FILES = 10
_DONE: Json = {"ok": True}


def refusal(kind: type[web.HTTPError], why: str) -> web.HTTPError:
    return kind(text=json.dumps({"error": why}), content_type="application/json")


@dataclass(frozen=True)
class Act:
    """A request's body, and the person who sent it."""

    given: Json
    sight: Sight

    def text(self, name: str, *, may_be_empty: bool = False) -> str:
        value = self.given.get(name, "")
        if not isinstance(value, str) or len(value) > LONGEST_TEXT:
            raise refusal(web.HTTPBadRequest, f"{name} must be text of at most {LONGEST_TEXT} characters")
        if not value.strip() and not may_be_empty:
            raise refusal(web.HTTPBadRequest, f"{name} is missing")
        return value

    @property
    def user(self) -> str:
        if self.text("user") not in self.sight.people:
            raise refusal(web.HTTPNotFound, "there is no such person")
        return self.text("user")

    @property
    def channel(self) -> Channel:
        for one in self.sight.channels_of(self.user):
            if one.id == self.text("channel"):
                return one
        raise refusal(web.HTTPNotFound, "there is no such channel")

    @property
    def message(self) -> Json:
        found = self.channel.find(self.text("ts"))
        if found is None:
            raise refusal(web.HTTPNotFound, "there is no such message")
        return found

    @property
    def own_message(self) -> Json:
        if self.message.get("user") != self.user or self.message.get("subtype") == "tombstone":
            raise refusal(web.HTTPForbidden, "this message is not yours")
        return self.message

    @property
    def thread(self) -> str:
        """Return the ts of a thread's first message; "" if none is given."""
        ts = self.text("thread", may_be_empty=True)
        if ts and self.channel.find(ts) is None:
            raise refusal(web.HTTPNotFound, "there is no such thread")
        return ts

    @property
    def files(self) -> list[Json]:
        names = self.given.get("files", [])
        if not isinstance(names, list) or len(names) > MOST_FILES or not all(isinstance(one, str) for one in names):
            raise refusal(web.HTTPBadRequest, f"files must be at most {MOST_FILES} names")
        return [{"id": f"F{number:08d}", "name": name[:200]} for number, name in enumerate(names, 1)]


class Actions:
    """Handlers below /demo/."""

    def __init__(self, sight: Sight) -> None:
        self._sight = sight
        self._slack = sight.slack

    def routes(self) -> list[web.RouteDef]:
        acts = (
            self.say,
            self.edit,
            self.delete,
            self.click,
            self.slash,
            self.submit,
            self.cancel,
            self.stop,
            self.open,
        )
        return [web.post(f"/demo/{one.__name__}", one) for one in acts]

    async def _read(self, request: web.Request) -> Act:
        """Read a body of type JSON only: a form on another site can't send that type without a CORS preflight."""
        if request.content_type != "application/json":
            raise refusal(web.HTTPUnsupportedMediaType, "send application/json")
        try:
            given: Any = json.loads(await request.read())
        except (ValueError, RecursionError):
            raise refusal(web.HTTPBadRequest, "the body is not JSON") from None
        if not isinstance(given, dict):
            raise refusal(web.HTTPBadRequest, "the body is not a JSON object")
        return Act(given, self._sight)

    async def say(self, request: web.Request) -> web.Response:
        act = await self._read(request)
        files = act.files
        text = to_slack(act.text("text", may_be_empty=bool(files)), self._sight.ids)
        ts = await self._slack.say(
            text, channel=act.channel.id, user=act.user, thread_ts=act.thread or None, files=files
        )
        return web.json_response(_DONE | {"ts": ts})

    async def edit(self, request: web.Request) -> web.Response:
        act = await self._read(request)
        text = to_slack(act.text("text"), self._sight.ids)
        await self._slack.edit(act.channel.id, act.own_message["ts"], text)
        return web.json_response(_DONE)

    async def delete(self, request: web.Request) -> web.Response:
        act = await self._read(request)
        await self._slack.delete(act.channel.id, act.own_message["ts"])
        return web.json_response(_DONE)

    async def click(self, request: web.Request) -> web.Response:
        act = await self._read(request)
        action, value = act.text("action"), act.text("value", may_be_empty=True)
        if "ephemeral" in act.given:
            return await self._click_ephemeral(act, action)
        channel, message, user = act.channel, act.message, act.user
        element = find_element(message.get("blocks", []), action)
        if element is None:
            raise refusal(web.HTTPNotFound, "the message has no such button")
        answer = await self._slack.click(channel.id, message["ts"], action, value, user)
        if answer.ok and element["type"] == "feedback_buttons":
            self._sight.chosen[channel.id, message["ts"], action, user] = value
        return self._answered("block_actions", answer)

    async def _click_ephemeral(self, act: Act, action: str) -> web.Response:
        number, user, all_of_them = act.given["ephemeral"], act.user, self._slack.ephemerals
        if not isinstance(number, int) or not 0 <= number < len(all_of_them) or all_of_them[number].user != user:
            raise refusal(web.HTTPNotFound, "there is no such message")
        if find_element(all_of_them[number].blocks, action) is None:
            raise refusal(web.HTTPNotFound, "the message has no such button")
        return self._answered("block_actions", await self._slack.click_ephemeral(all_of_them[number], action))

    async def slash(self, request: web.Request) -> web.Response:
        act = await self._read(request)
        command, text = act.text("command"), act.text("text", may_be_empty=True)
        if command != COMMAND:
            raise refusal(web.HTTPBadRequest, f"{command} is not a valid command; there is {COMMAND}")
        answer = await self._slack.slash(command, text, channel=act.channel.id, user=act.user)
        return self._answered("slash_commands", answer)

    async def submit(self, request: web.Request) -> web.Response:
        """Submit a form; `values` are by block and action, as Slack sends them."""
        act = await self._read(request)
        view, values = self._sight.open_view(act.user), act.given.get("values")
        if view is None or view.id != act.text("view"):
            raise refusal(web.HTTPNotFound, "there is no such form")
        if not isinstance(values, dict) or not all(isinstance(one, dict) for one in values.values()):
            raise refusal(web.HTTPBadRequest, "values must be objects by block and action")
        return self._answered("view_submission", await self._slack.submit(view, values))

    async def cancel(self, request: web.Request) -> web.Response:
        act = await self._read(request)
        view = self._sight.open_view(act.user)
        if view is None or view.id != act.text("view"):
            raise refusal(web.HTTPNotFound, "there is no such form")
        view.open = False
        return web.json_response(_DONE)

    async def stop(self, request: web.Request) -> web.Response:
        act = await self._read(request)
        act.text("thread")
        await self._slack.stop(act.channel.id, act.thread, act.user)
        return web.json_response(_DONE)

    async def open(self, request: web.Request) -> web.Response:
        """Open a person's direct messages with the bot."""
        act = await self._read(request)
        if act.channel.kind == "im":
            await self._slack.open_home(act.user, act.channel.id)
        return web.json_response(_DONE)

    def _answered(self, name: str, answer: Answer) -> web.Response:
        """Return the answer, or an error if the app failed at a click or command: Slack does not retry these."""
        self._sight.journal.note_form(name, answer)
        if not answer.ok:
            why = answer.problem or f"status {answer.status}"
            raise refusal(web.HTTPBadGateway, f"Myna did not take it ({why})")
        return web.json_response(_DONE)
