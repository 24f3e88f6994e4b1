"""Recorded webhooks of Slack, signed again, and fuzzed requests."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.slack.commands import Command, command_of
from adapters.slack.events import read_change, read_message, read_stop, tenant_of
from adapters.slack.inbound import SlackInbound
from tests.builders.waiting import until
from tests.builders.web import WebServer
from tests.fakes.slack.deliveries import COMMANDS, EVENTS, INTERACTIVITY, signed
from tests.fakes.slack.records import BOT, TEAM, Json, User
from tests.fakes.slack.server import FakeSlack

RECORDINGS = Path(__file__).parent.parent / "recordings" / "slack"


def recorded() -> Iterator[tuple[str, str, Json]]:
    """Return `(bot user, name, body)` of each webhook."""
    for path in sorted(RECORDINGS.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        for name, body in content.items():
            if isinstance(body, dict) and name != "slashCommandModalContext":  # which is no webhook
                yield content["botUserId"], f"{path.name.partition('.')[0]}/{name}", body


BODIES = list(recorded())


def request_of(body: Json) -> tuple[str, bytes, bool]:
    """Return the path, the content, and True for a form."""
    if body.get("type") == "event_callback":
        return EVENTS, json.dumps(body).encode(), False
    if "command" in body:
        return COMMANDS, urlencode(body).encode(), True
    return INTERACTIVITY, urlencode({"payload": json.dumps(body)}).encode(), True


def speaks_to_the_bot(body: Json) -> bool:
    event = body.get("event", {})
    return event.get("type") in ("message", "app_mention") and "<@" in event["text"]


async def send(server: WebServer, body: Json, **changes: Any) -> int:
    path, content, is_form = request_of(body)
    headers = signed(content, form=is_form, **changes)
    async with server.session.post(server.url + path, data=content, headers=headers) as response:
        await response.read()
        return response.status


@pytest.fixture
def known_to(slack: FakeSlack) -> Any:
    """Give the fake the ids of the recorded workspace."""

    def prepare(bot_user: str, body: Json) -> None:
        installation = next(iter(slack.installations.values()))
        installation.bot_user_id = bot_user
        slack.users[bot_user] = User(bot_user, is_bot=True)
        team = body.get("team_id") or body.get("team", {}).get("id") or TEAM
        slack.add_team(team)
        installation.team_id = team
        event = body.get("event", {})
        if "channel" in event:
            root = event.get("thread_ts", event["ts"]) if "ts" in event else slack.next_ts()
            place = slack.channel(event["channel"], team)
            place.messages.append({"type": "message", "user": "U00FAKEUSER1", "text": "", "ts": root})

    return prepare


@pytest.mark.parametrize(("bot_user", "name", "body"), BODIES, ids=[name for _, name, _ in BODIES])
async def test_a_recorded_webhook_is_answered_once_in_its_thread(
    slack_server: WebServer, slack: FakeSlack, known_to: Any, bot_user: str, name: str, body: Json
) -> None:
    known_to(bot_user, body)
    assert await send(slack_server, body, secret="another") == 401
    assert await send(slack_server, body, at=time.time() - 600) == 401
    for _ in range(3):
        assert await send(slack_server, body) == 200
    if not speaks_to_the_bot(body):
        await asyncio.sleep(0.2)
        assert slack.posted == []
        return
    other = "message" if body["event"]["type"] == "app_mention" else "app_mention"
    twin = body | {"event": body["event"] | {"type": other}, "event_id": "Ev0TWIN"}
    assert await send(slack_server, twin) == 200
    await until(lambda: slack.posted)
    await asyncio.sleep(0.3)
    assert [(one["channel"], one["thread_ts"]) for one in slack.posted] == [
        (body["event"]["channel"], body["event"].get("thread_ts", body["event"]["ts"]))
    ]
    assert bot_user not in slack_server.generator.prompts[0].messages[-1].content


async def test_a_recorded_conversation_continues_without_a_mention(
    slack_server: WebServer, slack: FakeSlack, known_to: Any
) -> None:
    """microsoft/Agents#335, onyx-dot-app/onyx#1496: the bot answers in the thread and follows it."""
    bodies = {name: (bot, body) for bot, name, body in BODIES}
    bot, mention = bodies["slack/mention"]
    known_to(bot, mention)
    assert await send(slack_server, mention) == 200
    await until(lambda: len(slack.posted) == 1)
    assert await send(slack_server, bodies["slack/followUp"][1]) == 200
    await until(lambda: len(slack.posted) == 2)
    assert {one["thread_ts"] for one in slack.posted} == {mention["event"]["ts"]}


# --- deliveries that come again ---


async def test_an_unstored_event_is_redelivered_and_answered_once(
    slack_server: WebServer, slack: FakeSlack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """agno-agi/agno#10073, vercel/chat#666 and #667: a delivery with the retry header may be the first to arrive."""
    from storage.database import StorageUnavailable

    database, working, failures = slack_server.agent.database, slack_server.agent.database.write, 2

    async def write(unit: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal failures
        if unit.__name__ == "accept" and failures:
            failures -= 1
            raise StorageUnavailable("the disk is full")
        return await working(unit, *arguments, **options)

    monkeypatch.setattr(database, "write", write)
    ts = await slack.say("hello", channel="D0ANA")
    await until(lambda: len(slack.deliveries) == 2)
    slack.clock.advance(61)
    await until(lambda: slack.texts_in(ts) == ["hello"])
    assert [one.status for one in slack.deliveries] == [503, 503, 200]
    body = slack.callback({"type": "message", "user": "U0ANA", "text": "hello", "ts": ts, "channel": "D0ANA"})
    assert await slack.deliver(slack_server.url, body, **{"X-Slack-Retry-Num": "3"}) == 200
    await asyncio.sleep(0.2)
    assert len(slack_server.generator.prompts) == 1


async def test_a_slow_answer_does_not_delay_the_acknowledgement(slack_server: WebServer, slack: FakeSlack) -> None:
    """RasaHQ/rasa#3882, slackapi/bolt-python#1027."""
    hold = asyncio.Event()
    slack_server.generator.enqueue("", "at last", hold=hold)
    ts = await slack.say("hello", channel="D0ANA")
    slack.clock.advance(3600)
    hold.set()
    await until(lambda: slack.texts_in(ts) == ["at last"])
    assert [(one.attempt, one.status) for one in slack.deliveries] == [(0, 200)]


# --- requests that make no sense ---


@pytest.mark.parametrize("path", [EVENTS, COMMANDS, INTERACTIVITY])
async def test_every_route_refuses_unsigned_requests(slack_server: WebServer, path: str) -> None:
    for content in (b"", b"{}", b"payload=%7B%7D", b"\xff\xfe\x00", b"a" * 2_000_000):
        for headers in ({}, {"X-Slack-Signature": "v0=0", "X-Slack-Request-Timestamp": "x"}, signed(content, at=0)):
            async with slack_server.session.post(slack_server.url + path, data=content, headers=headers) as response:
                text = await response.text()
                assert response.status in (401, 413), text
                assert "Traceback" not in text


async def test_signed_junk_is_refused_or_ignored(slack_server: WebServer, slack: FakeSlack) -> None:
    forms = [b"payload=", b"payload=%FF", b"\xff=\xff", b"payload=[]", b"payload=5", b"&" * 500, b"=", b"text=%00"]
    for path in (COMMANDS, INTERACTIVITY):
        for content in forms:
            headers = signed(content, form=True)
            async with slack_server.session.post(slack_server.url + path, data=content, headers=headers) as response:
                assert response.status in (200, 400, 401), await response.text()
    assert slack.posted == []


KEYS = st.sampled_from(
    [
        "type",
        "subtype",
        "user",
        "text",
        "ts",
        "thread_ts",
        "channel",
        "channel_type",
        "bot_id",
        "message",
        "previous_message",
        "deleted_ts",
        "edited",
        "team_id",
        "team",
        "authorizations",
        "enterprise_id",
        "event",
        "is_enterprise_install",
        "streaming_message_ts",
        "tokens",
        "bot",
        "assistant_thread",
        "tab",
        "files",
        "actions",
        "action_id",
        "value",
        "view",
        "callback_id",
        "private_metadata",
        "state",
        "trigger_id",
    ]
)
VALUES = st.sampled_from(
    [
        "message",
        "app_mention",
        "message_changed",
        "message_deleted",
        "agent_session_stopped",
        "block_actions",
        "view_submission",
        "app_home_opened",
        "myna_vote",
        "myna_feedback",
        "up:x",
        BOT,
        "D1",
        "1.2",
        TEAM,
        "true",
        "{}",
    ]
)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=8),
    max_leaves=25,
)


@given(body=st.dictionaries(KEYS, JUNK, max_size=8))
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_no_body_breaks_the_readers(body: Json) -> None:
    tenant_of(body)
    read_message(body, BOT)
    read_stop(body)
    change = read_change(body, BOT)
    assert change is None or change.at_ms >= 0
    assert command_of(str(body.get("text"))) in (None, *get_args(Command))


async def test_no_body_breaks_the_inbound_side(slack_server: WebServer) -> None:
    inbound = slack_server.agent.slack.inbound  # type: ignore[union-attr]
    assert isinstance(inbound, SlackInbound)
    bodies = [_example(number) for number in range(150)]
    for body in bodies:
        await inbound.event(body)
        await inbound.interaction(body)
        await inbound.command(body)


def _example(number: int) -> Json:
    """Return junk that is the same in each run."""
    import random

    chosen = random.Random(number)

    def value(depth: int) -> Any:
        kind = chosen.randrange(6 if depth else 3)
        if kind < 3:
            return chosen.choice(
                [None, True, 5, "", "message", "app_mention", "message_changed", "1.2", "D1", TEAM, BOT]
            )
        if kind == 3:
            return [value(depth - 1) for _ in range(chosen.randrange(3))]
        keys = [
            "type",
            "user",
            "text",
            "ts",
            "channel",
            "event",
            "message",
            "team_id",
            "actions",
            "view",
            "value",
            "tab",
        ]
        return {chosen.choice(keys): value(depth - 1) for _ in range(chosen.randrange(6))}

    body = value(4)
    return {"event": body, "team_id": TEAM, "type": chosen.choice(["block_actions", "view_submission", 5])}
