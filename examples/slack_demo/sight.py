"""A person's view of the fake Slack, as JSON for the demo page."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from examples.slack_demo.journal import Journal
from examples.slack_demo.markup import to_people, with_names
from tests.fakes.slack.records import BOT, TEAM, Channel, Ephemeral, Json, View
from tests.fakes.slack.server import FakeSlack

BOT_NAME = "Myna"
MOST_MESSAGES = 400
_MARKED = {"mrkdwn", "plain_text"}


@dataclass
class Sight:
    """Views of a fake Slack; `chosen` maps (channel, message, action, user) to the value that Slack's page keeps."""

    slack: FakeSlack
    journal: Journal
    chosen: dict[tuple[str, str, str, str], str] = field(default_factory=dict)
    _places: list[tuple[str, float]] = field(default_factory=list)

    @property
    def people(self) -> list[str]:
        return [one.id for one in self.slack.users.values() if not one.is_bot]

    @property
    def ids(self) -> dict[str, str]:
        """Return everybody's id by name."""
        return {self.name_of(one): one for one in self.slack.users}

    def name_of(self, user: str) -> str:
        return BOT_NAME if user == BOT else self.slack.users[user].name.title()

    def channels_of(self, user: str) -> list[Channel]:
        found = [one for one in self.slack.channels.values() if user in one.members and one.team_id == TEAM]
        return sorted(found, key=lambda one: (one.kind == "im", one.id))

    def of(self, user: str) -> Json:
        """Return everything that `user` sees."""
        self.slack.end_old_streams()
        self._place_ephemerals()
        channels = self.channels_of(user)
        return {
            "me": user,
            "bot": BOT,
            "users": [self._user(one) for one in self.slack.users],
            "channels": [self._channel(one) for one in channels],
            "messages": {one.id: self._messages(one, user) for one in channels},
            "working": [self._working(*key) for key in self._working_keys(channels)],
            "prompts": {one.id: self.slack.prompts.get((TEAM, one.id, ""), []) for one in channels},
            "titles": self._titles(channels),
            "view": self._view(user),
            "journal": self.journal.lines(),
        }

    def _user(self, user: str) -> Json:
        known = self.slack.users[user]
        return {"id": user, "name": self.name_of(user), "locale": known.locale, "is_bot": known.is_bot}

    def _channel(self, channel: Channel) -> Json:
        is_direct = channel.kind == "im"
        name = BOT_NAME if is_direct else channel.id[2:].lower()
        return {"id": channel.id, "name": name, "is_direct": is_direct, "members": sorted(channel.members)}

    # --- messages ---

    def _messages(self, channel: Channel, user: str) -> list[Json]:
        """Return messages in the order of creation; an ephemeral one stands after the messages present when it came."""
        found = [(float(one["ts"]), -1, self._message(channel, one, user)) for one in channel.messages]
        for number, one in enumerate(self.slack.ephemerals):
            if (one.channel, one.user) == (channel.id, user):
                found.append((float(self._places[number][0]), number, self._ephemeral(number, one)))
        return [one for *_, one in sorted(found, key=lambda one: one[:2])][-MOST_MESSAGES:]

    def _message(self, channel: Channel, message: Json, user: str) -> Json:
        by = str(message.get("user", ""))
        stream = self.slack.stream_of(channel, message["ts"])
        actions = _action_ids(message.get("blocks", []))
        return {
            "key": message["ts"],
            "ts": message["ts"],
            "at": float(message["ts"]),
            "thread": message.get("thread_ts", message["ts"]),
            "user": by,
            "text": self._text(message["text"], by),
            "blocks": self._blocks(message.get("blocks", [])),
            "files": [str(one.get("name", "")) for one in message.get("files", [])],
            "is_deleted": message.get("subtype") == "tombstone",
            "is_edited": "edited" in message and by != BOT,
            "is_streaming": stream is not None and stream.running,
            "is_stopped": stream is not None and stream.ended_by == "user",
            "chosen": {one: self.chosen.get((channel.id, message["ts"], one, user), "") for one in actions},
        }

    def _text(self, text: str, by: str) -> str:
        """Return a message's text for people: the bot writes Markdown, people write Slack's markup."""
        return with_names(text, self.ids) if by == BOT else to_people(text, self.ids)

    def _blocks(self, blocks: list[Json]) -> list[Json]:
        return [self._translated(one) for one in blocks]

    def _translated(self, value: Any) -> Any:
        """Return blocks with names in place of ids; Slack's markup is unescaped, Markdown is not escaped."""
        if isinstance(value, list):
            return [self._translated(one) for one in value]
        if not isinstance(value, dict):
            return value
        done = {key: self._translated(one) for key, one in value.items()}
        if value.get("type") == "markdown":
            done["text"] = with_names(value["text"], self.ids)
        elif value.get("type") in _MARKED and isinstance(value.get("text"), str):
            done["text"] = to_people(value["text"], self.ids)
        return done

    def _place_ephemerals(self) -> None:
        """Record the time of new ephemeral messages, which the fake does not keep."""
        for one in self.slack.ephemerals[len(self._places) :]:
            messages = self.slack.channel(one.channel).messages
            self._places.append((messages[-1]["ts"] if messages else "0", self.slack.clock.now()))

    def _ephemeral(self, number: int, shown: Ephemeral) -> Json:
        return {
            "key": f"ephemeral-{number}",
            "ephemeral": number,
            "at": self._places[number][1],
            "thread": shown.thread_ts,
            "user": BOT,
            "text": to_people(shown.text, self.ids),
            "blocks": self._blocks(shown.blocks),
            "files": [],
            "chosen": {},
        }

    # --- what goes on ---

    def _working_keys(self, channels: list[Channel]) -> list[tuple[str, str]]:
        mine = {(one.id, message["ts"]) for one in channels for message in one.messages}
        sessions = [key[1:] for key, one in self.slack.sessions.items() if one.status == "processing"]
        statuses = [key[1:] for key in self.slack.thread_statuses if self.slack.thread_status(key[1], key[2])]
        return sorted(mine.intersection(sessions + statuses))

    def _titles(self, channels: list[Channel]) -> list[Json]:
        """Return the titles that the bot gave to its threads."""
        mine = {one.id for one in channels}
        found = [(key, one.title) for key, one in self.slack.sessions.items() if key[1] in mine]
        return [{"channel": channel, "thread": thread, "title": title} for (_, channel, thread), title in found]

    def _working(self, channel: str, thread: str) -> Json:
        words = self.slack.thread_status(channel, thread)
        streams = [(one.channel.id, one.message["thread_ts"]) for one in self.slack.running_streams]
        default = "is answering ..." if (channel, thread) in streams else "is thinking ..."
        return {"channel": channel, "thread": thread, "words": words or default}

    def _view(self, user: str) -> Json | None:
        """Return the newest open form."""
        view = self.open_view(user)
        if view is None:
            return None
        shown = ("id", "hash", "title", "submit", "close", "blocks")
        return {**{name: view.content[name] for name in shown}, "errors": view.errors}

    def open_view(self, user: str) -> View | None:
        mine = [one for one in self.slack.views.values() if one.open and one.user == user]
        return mine[-1] if mine else None


def _action_ids(blocks: list[Json]) -> list[str]:
    return [element["action_id"] for block in blocks for element in block.get("elements", []) if "action_id" in element]


def find_element(blocks: list[Json], action_id: str) -> Json | None:
    """Return the element of a message with this action."""
    elements = [element for block in blocks for element in block.get("elements", [])]
    return next((one for one in elements if one.get("action_id") == action_id), None)
