"""A Web API call as its method sees it: caller, arguments, refusal."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.fakes.slack.records import Channel, Installation, Json, is_ts
from tests.fakes.slack.state import State

POST_TEXT = 40_000
UPDATE_TEXT = 4_000
MARKDOWN_TEXT = 12_000
MOST_BLOCKS = 50
EARLIEST_THREAD = 631_152_000
BLOCK_TYPES = {
    "actions",
    "alert",
    "card",
    "carousel",
    "context",
    "context_actions",
    "data_table",
    "divider",
    "file",
    "header",
    "image",
    "input",
    "markdown",
    "plan",
    "rich_text",
    "section",
    "table",
    "task_card",
    "video",
}


class SlackError(Exception):
    """An error that Slack answers; `more` goes into the answer."""

    def __init__(self, error: str, **more: Any) -> None:
        super().__init__(error)
        self.error = error
        self.more = more


def invalid_arguments(*messages: str) -> SlackError:
    texts = [f"[ERROR] {one}" for one in messages]
    return SlackError("invalid_arguments", response_metadata={"messages": texts})


@dataclass
class Asked:
    """A call; `by` is the installation whose token was sent."""

    slack: State
    by: Installation
    given: Json

    def text(self, name: str) -> str:
        value = self.given.get(name)
        return "" if value is None else str(value)

    def flag(self, name: str) -> bool:
        return self.text(name).lower() in ("true", "1")

    def parsed(self, name: str) -> Any:
        """Parse a nested argument: JSON in a JSON body, a string of JSON in a form."""
        value = self.given.get(name)
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError:
            return value

    def need(self, *names: str) -> None:
        missing = [f"missing required field: {name}" for name in names if self.text(name) == ""]
        if missing:
            raise invalid_arguments(*missing)

    def find_channel(self, name: str = "channel") -> Channel:
        """Return the channel of an argument, among those that the token reaches."""
        wanted = self.text(name)
        teams = self.slack.teams_of(self.by)
        if self.text("team_id") in teams:
            teams = [self.text("team_id")]
        for team in teams:
            if (team, wanted) in self.slack.channels:
                return self.slack.channels[team, wanted]
        raise SlackError("channel_not_found")

    def find_writable(self, name: str = "channel") -> Channel:
        found = self.find_channel(name)
        if self.by.bot_user_id not in found.members:
            raise SlackError("not_in_channel" if found.kind == "channel" else "channel_not_found")
        return found

    def find_own(self, channel: Channel, refusal: str) -> Json:
        message = channel.find(self.text("ts"))
        if message is None or message.get("subtype") == "tombstone":
            raise SlackError("message_not_found")
        if message.get("bot_id") != self.by.bot_id:
            raise SlackError(refusal)
        return message

    def thread_ts(self, name: str = "thread_ts") -> str:
        """Return the thread by its root's ts; "" if none is given."""
        wanted = self.text(name)
        latest = self.slack.clock.now() + 3600
        if wanted and not (is_ts(wanted) and EARLIEST_THREAD < float(wanted) <= latest):
            raise SlackError("invalid_thread_ts")
        return wanted

    # --- what a message says ---

    def blocks(self, name: str = "blocks", too_many: str = "invalid_blocks") -> list[Json] | None:
        found = self.parsed(name)
        if found is None:
            return None
        if not isinstance(found, list):
            raise SlackError("invalid_blocks_format")
        if len(found) > MOST_BLOCKS:
            raise SlackError(too_many)
        if any(not isinstance(one, dict) or one.get("type") not in BLOCK_TYPES for one in found):
            raise SlackError("invalid_blocks")
        for number, one in enumerate(found):
            one.setdefault("block_id", f"b{number}")
        return found

    def markdown_text(self) -> str:
        if len(self.text("markdown_text")) > MARKDOWN_TEXT:
            raise SlackError("msg_too_long")
        return self.text("markdown_text")

    def content(self, longest: int = POST_TEXT) -> Json:
        """Return the text, blocks and attachments of a message."""
        blocks, attachments = self.blocks(), self.parsed("attachments") or []
        text, markdown = self.text("text"), self.markdown_text()
        if markdown and (text or blocks):
            raise SlackError("markdown_text_conflict")
        if len(text) > longest:
            raise SlackError("msg_too_long")
        if not (text or markdown or blocks or attachments):
            raise SlackError("no_text")
        found: Json = {"text": markdown or text}
        if blocks is not None:
            found["blocks"] = blocks
        if attachments:
            found["attachments"] = attachments
        return found

    def metadata(self) -> Json:
        """Return `{"metadata": ...}`, or nothing if none is given."""
        found = self.parsed("metadata")
        if found is None:
            return {}
        if not isinstance(found, dict) or not isinstance(found.get("event_payload"), dict):
            raise SlackError("invalid_metadata_format")
        return {"metadata": found}

    def new_message(self, channel: Channel, content: Json, thread_ts: str = "") -> Json:
        """Add a message of this bot to the channel; in a thread that doesn't exist, Slack posts it as a root."""
        message: Json = {
            "type": "message",
            "user": self.by.bot_user_id,
            "bot_id": self.by.bot_id,
            "app_id": self.slack.app_id,
            "team": channel.team_id,
            "ts": self.slack.next_ts(),
            **content,
        }
        root = channel.find(thread_ts)
        if root is not None:
            message["thread_ts"] = root.get("thread_ts", root["ts"])
        channel.add(message)
        self.slack.message_added(channel, message)
        return message

    def clear_thread_status(self, channel: Channel, thread_ts: str) -> None:
        self.slack.thread_statuses.pop((channel.team_id, channel.id, thread_ts), None)
