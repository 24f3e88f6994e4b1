"""Actions of people in Slack, and the events and payloads that follow from them."""

from __future__ import annotations

import json
import uuid
from typing import Any, Literal

from tests.fakes.slack.deliveries import COMMANDS, EVENTS, INTERACTIVITY, Answer, Deliverer
from tests.fakes.slack.messages import remove
from tests.fakes.slack.oauth import OAuth
from tests.fakes.slack.records import TEAM, Channel, Ephemeral, Installation, Json, ResponseUrl, View
from tests.fakes.slack.socket_mode import Sockets
from tests.fakes.slack.state import State
from tests.fakes.slack.views import answer_submission, respond


class People(State):
    """Acts for people; each event is delivered `duplicates` more times under other event ids.

    With `echoes` the app hears of its own messages too, as one that is subscribed to messages does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sockets = Sockets(self)
        self.oauth = OAuth(self)
        self.deliverer = Deliverer(self, self.sockets)
        self.duplicates = 0
        self.echoes = False
        self.mention_order: Literal["message first", "app_mention first"] = "message first"
        self.tells_authorizations = True

    # --- bodies of events, without sending them ---

    def message(
        self, text: str, *, channel: str = "C0SHOP", user: str = "U0ANA", team: str = TEAM, **more: Any
    ) -> Json:
        """Add a person's message to the channel; return the body of its event, not yet delivered."""
        place = self.channel(channel, team)
        self.add_user(user)
        place.members.add(user)
        message = {"type": "message", "user": user, "text": text, "ts": self.next_ts(), "team": team} | more
        message["client_msg_id"] = str(uuid.uuid4())
        if "thread_ts" in more and place.find(more["thread_ts"]) is None:
            root = {"type": "message", "user": "U0BEN", "text": "before", "ts": more["thread_ts"], "team": team}
            place.messages.insert(0, root)
        place.add(message)
        return self.callback(self._event_of(message, place), team=team)

    def _event_of(self, message: Json, place: Channel) -> Json:
        shown = {key: message[key] for key in message if key not in ("reply_count", "latest_reply", "reactions")}
        where = {"channel": place.id, "channel_type": place.kind, "event_ts": message["ts"]}
        return shown | where

    def callback(self, event: Json, *, team: str = TEAM) -> Json:
        """Return an event in the envelope that the app receives."""
        enterprise = self.teams[team].enterprise_id or None if team in self.teams else None
        body: Json = {
            "token": "an old token that nobody checks",
            "team_id": team,
            "context_team_id": team,
            "context_enterprise_id": enterprise,
            "api_app_id": self.app_id,
            "type": "event_callback",
            "event_id": f"Ev{self.next_number():08d}",
            "event_time": int(self.clock.now()),
            "event": event,
            "is_ext_shared_channel": False,
            "event_context": f"4-{self.next_number()}",
        }
        if enterprise:
            body["enterprise_id"] = enterprise
        if self.tells_authorizations:
            body["authorizations"] = [self._authorization(one, team) for one in self.installations_of(team)[:1]]
        return body

    def _authorization(self, by: Installation, team: str) -> Json:
        return {
            "enterprise_id": by.enterprise_id or None,
            "team_id": None if by.enterprise_wide else team,
            "user_id": by.bot_user_id,
            "is_bot": True,
            "is_enterprise_install": by.enterprise_wide,
        }

    async def deliver(self, url: str, body: Any, **headers: str) -> int:
        """Post a test's own body to the app's events, signed; return the status of the answer."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return (await self.deliverer.post(url + EVENTS, content, headers=headers, patience=60.0)).status

    # --- what people do ---

    async def say(
        self,
        text: str,
        *,
        channel: str = "C0SHOP",
        user: str = "U0ANA",
        thread_ts: str | None = None,
        team: str = TEAM,
        files: list[Json] | None = None,
    ) -> str:
        """Post a message and deliver its event; return the message's ts."""
        more: Json = {"thread_ts": thread_ts} if thread_ts else {}
        if files:
            more |= {"subtype": "file_share", "files": files, "upload": True}
        body = self.message(text, channel=channel, user=user, team=team, **more)
        bodies = [body]
        mentioned = any(f"<@{one.bot_user_id}>" in text for one in self.installations_of(team))
        if mentioned and self.channel(channel, team).kind != "im":
            event = {key: value for key, value in body["event"].items() if key != "channel_type"}
            bodies.append(self.callback(event | {"type": "app_mention"}, team=team))
        for one in bodies if self.mention_order == "message first" else bodies[::-1]:
            await self._tell(one)
        return str(body["event"]["ts"])

    async def edit(self, channel: str, ts: str, text: str, *, team: str = TEAM) -> None:
        place, message = self._message(channel, ts, team)
        before = dict(message)
        message |= {"text": text, "edited": {"user": message["user"], "ts": self.next_ts()}}
        event = {"subtype": "message_changed", "message": dict(message), "previous_message": before}
        await self._tell_change(place, event)

    async def delete(self, channel: str, ts: str, *, team: str = TEAM) -> None:
        place, message = self._message(channel, ts, team)
        before = dict(message)
        remove(place, message)
        await self._tell_change(place, {"subtype": "message_deleted", "deleted_ts": ts, "previous_message": before})

    async def click(
        self,
        channel: str,
        message_ts: str,
        action_id: str,
        value: str = "",
        user: str = "U0ANA",
        *,
        team: str = TEAM,
        trigger_id: str = "",
    ) -> Answer:
        """Press a button of a message, or one of its feedback buttons, by its `value`."""
        place, message = self._message(channel, message_ts, team)
        thread = {"thread_ts": message["thread_ts"]} if "thread_ts" in message else {}
        container = {"message_ts": message_ts, "is_ephemeral": False, **thread}
        pressed = self._action(*_find_element(message, action_id), value)
        payload = self._press(place, user, container, pressed, trigger_id) | {"message": dict(message)}
        return await self.deliverer.send_form(INTERACTIVITY, payload)

    async def click_ephemeral(self, shown: Ephemeral, action_id: str, *, team: str = TEAM) -> Answer:
        """Press a button of a message that only this person sees. Slack sends no message with it."""
        pressed = self._action(*_find_element({"blocks": shown.blocks}, action_id), "")
        thread = {"thread_ts": shown.thread_ts} if shown.thread_ts else {}
        container = {"message_ts": self.next_ts(), "is_ephemeral": True, **thread}
        payload = self._press(self.channel(shown.channel, team), shown.user, container, pressed)
        self.response_urls[payload["response_url"].rpartition("/")[2]].shown = shown
        return await self.deliverer.send_form(INTERACTIVITY, payload)

    def _press(self, place: Channel, user: str, container: Json, pressed: Json, trigger_id: str = "") -> Json:
        """Deliver the click on a button, whatever kind of message holds it."""
        message_ts = "" if container["is_ephemeral"] else container["message_ts"]
        return self._payload("block_actions", user, place.team_id) | {
            "trigger_id": trigger_id or self.new_trigger(user, place.team_id),
            "response_url": self.new_response_url(place, user, message_ts),
            "container": {"type": "message", "channel_id": place.id, **container},
            "channel": {"id": place.id, "name": "directmessage" if place.kind == "im" else place.id[2:].lower()},
            "state": {"values": {}},
            "actions": [pressed],
        }

    def _action(self, block: Json, element: Json, value: str) -> Json:
        pressed = element
        for name in ("positive_button", "negative_button"):
            if element.get(name, {}).get("value") == value:
                pressed = element[name]
        found = {
            "type": element["type"],
            "action_id": element["action_id"],
            "block_id": block.get("block_id", ""),
            "action_ts": self.next_ts(),
            "value": value or str(element.get("value", "")),
        }
        return found | ({"text": pressed["text"]} if "text" in pressed else {})

    async def slash(
        self, command: str, text: str = "", *, channel: str = "C0SHOP", user: str = "U0ANA", team: str = TEAM
    ) -> Answer:
        place = self.channel(channel, team)
        enterprise = self.teams[team].enterprise_id
        fields: Json = {
            "token": "an old token that nobody checks",
            "api_app_id": self.app_id,
            "team_id": team,
            "team_domain": self.teams[team].name.lower(),
            "channel_id": channel,
            "channel_name": "directmessage" if place.kind == "im" else channel[2:].lower(),
            "user_id": user,
            "user_name": self.users[user].name,
            "command": command,
            "text": text,
            "response_url": self.new_response_url(place, user),
            "trigger_id": self.new_trigger(user, team),
            "is_enterprise_install": str(self._by(team).enterprise_wide).lower(),
            **({"enterprise_id": enterprise, "enterprise_name": "Fernhill Group"} if enterprise else {}),
        }
        answer = await self.deliverer.send_form(COMMANDS, fields)
        said = answer.body if isinstance(answer.body, dict) else {"text": answer.body}
        if answer.ok and (said.get("text") or said.get("blocks")):
            respond(self, ResponseUrl(self.clock.now(), place, user), said)
        return answer

    async def submit(self, view: View, values: dict[str, dict[str, Json]]) -> Answer:
        """Submit a modal. `values` are by block and action: {"why": {"text": {"type": ..., "value": ...}}}."""
        team = view.content["team_id"]
        view.content["state"] = {"values": values}
        payload = self._payload("view_submission", view.user, team) | {
            "trigger_id": self.new_trigger(view.user, team),
            "view": dict(view.content),
            "response_urls": [],
        }
        answer = await self.deliverer.send_form(INTERACTIVITY, payload)
        if answer.ok:
            answer_submission(self, view, answer.body)
        return answer

    async def open_home(
        self, user: str, channel: str, *, tab: Literal["home", "messages"] = "messages", team: str = TEAM
    ) -> None:
        event = {"type": "app_home_opened", "user": user, "channel": channel, "tab": tab, "event_ts": self.next_ts()}
        await self._tell(self.callback(event, team=team))

    async def stop(self, channel: str, thread_ts: str, user: str = "U0ANA", *, team: str = TEAM) -> list[str]:
        """Press Stop: Slack ends the streams of the thread, then tells the app which they were."""
        ended = []
        for stream in self.running_streams:
            if (stream.channel.team_id, stream.channel.id) == (team, channel) and (
                stream.message["thread_ts"] == thread_ts
            ):
                stream.end("user")
                ended.append(stream.message["ts"])
        event: Json = {"type": "agent_session_stopped", "channel": channel, "thread_ts": thread_ts, "user": user}
        event |= {"streaming_message_ts": ended, "event_ts": self.next_ts()}
        await self._tell(self.callback(event, team=team))
        return ended

    async def uninstall(self, team: str = TEAM) -> None:
        """Remove the app: its tokens are revoked before it hears of it."""
        by = self._by(team)
        revoked = self.callback({"type": "tokens_revoked", "tokens": {"oauth": [], "bot": [by.bot_user_id]}}, team=team)
        uninstalled = self.callback({"type": "app_uninstalled"}, team=team)
        for one in self.installations_of(team):
            one.refused_with = "account_inactive"
        await self._tell(revoked)
        await self._tell(uninstalled)

    # --- telling ---

    async def _tell(self, body: Json) -> None:
        await self.deliverer.send_event(body)
        for _ in range(self.duplicates):
            await self.deliverer.send_event(body | {"event_id": f"Ev{self.next_number():08d}"})

    def message_added(self, channel: Channel, message: Json) -> None:
        if self.echoes:
            body = self.callback(self._event_of(message, channel), team=channel.team_id)
            self.deliverer.in_background(self._tell(body))

    async def _tell_change(self, place: Channel, event: Json) -> None:
        now = self.next_ts()
        where = {"channel": place.id, "channel_type": place.kind, "ts": now, "event_ts": now, "hidden": True}
        await self._tell(self.callback({"type": "message", **event, **where}, team=place.team_id))

    def _payload(self, kind: str, user: str, team: str) -> Json:
        """Return the fields that clicks and submissions share."""
        enterprise = self.teams[team].enterprise_id
        name = self.users[user].name
        return {
            "type": kind,
            "token": "an old token that nobody checks",
            "api_app_id": self.app_id,
            "team": {"id": team, "domain": self.teams[team].name.lower()},
            "enterprise": {"id": enterprise, "name": "Fernhill Group"} if enterprise else None,
            "user": {"id": user, "username": name, "name": name, "team_id": team},
            "is_enterprise_install": self._by(team).enterprise_wide,
        }

    def _by(self, team: str) -> Installation:
        return self.installations_of(team)[0]

    def _message(self, channel: str, ts: str, team: str) -> tuple[Channel, Json]:
        place = self.channel(channel, team)
        message = place.find(ts)
        assert message is not None, f"no message {ts} in {channel}"
        return place, message


def _find_element(message: Json, action_id: str) -> tuple[Json, Json]:
    for block in message.get("blocks", []):
        for element in [*block.get("elements", []), block.get("accessory") or {}]:
            if element.get("action_id") == action_id:
                return block, element
    raise AssertionError(f"the message has no {action_id}: {message}")
