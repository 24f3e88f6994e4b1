"""Slack over HTTP: answers, failures of Slack, and forged requests."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.cli.wiring import slack_config
from adapters.slack.events import Thread, read_message, to_plain
from bot.errors import MynaError
from bot.settings import Settings
from tests.builders.waiting import until
from tests.builders.web import WebServer
from tests.fakes.slack.deliveries import signed
from tests.fakes.slack.records import BOT, SECRET, TEAM, TOKEN
from tests.fakes.slack.server import FakeSlack


async def say(slack_server: WebServer, slack: FakeSlack, body: dict[str, Any]) -> str:
    """Deliver a message and return its thread."""
    assert await slack.deliver(slack_server.url, body) == 200
    return str(body["event"].get("thread_ts") or body["event"]["ts"])


async def settle(slack_server: WebServer, slack: FakeSlack, posts: int) -> None:
    """Wait until there are `posts` posts and nothing is left to do."""
    await until(lambda: len(slack.posted) >= posts)
    await asyncio.sleep(0.3)
    assert len(slack.posted) == posts


async def test_mentions_and_direct_messages_are_answered_in_their_thread(
    slack_server: WebServer, slack: FakeSlack
) -> None:
    slack_server.generator.enqueue("In ", "May.")
    slack_server.generator.enqueue("Gladly.")
    in_channel = await say(slack_server, slack, slack.message(f"<@{BOT}> when do the roses bloom?"))
    await until(lambda: slack.texts_in(in_channel) == ["In May."])
    directly = await say(slack_server, slack, slack.message("Can you help?", channel="D0ANA"))
    await until(lambda: slack.texts_in(directly) == ["Gladly."])
    assert slack_server.generator.prompts[0].messages[-1].content == "when do the roses bloom?"
    assert [one["channel"] for one in slack.posted] == ["C0SHOP", "D0ANA"]


async def test_a_followed_thread_needs_no_mention_and_others_are_ignored(
    slack_server: WebServer, slack: FakeSlack
) -> None:
    thread = await say(slack_server, slack, slack.message(f"<@{BOT}> hello"))
    await settle(slack_server, slack, 1)
    await say(slack_server, slack, slack.message("and in autumn?", thread_ts=thread, user="U0BEN"))
    await settle(slack_server, slack, 2)
    await say(slack_server, slack, slack.message("nobody asked the bot"))
    await say(slack_server, slack, slack.message("in a thread of others", thread_ts="1700000000.000001"))
    await say(slack_server, slack, slack.message(f"<@{BOT}> come in", thread_ts="1700000000.000001"))
    await settle(slack_server, slack, 3)
    assert [one["thread_ts"] for one in slack.posted] == [thread, thread, "1700000000.000001"]
    roles = [(one.role, one.content) for one in slack_server.generator.prompts[1].messages if one.role == "user"]
    assert roles == [("user", "hello"), ("user", "and in autumn?")]


async def test_repeated_deliveries_get_one_answer(slack_server: WebServer, slack: FakeSlack) -> None:
    """RasaHQ/rasa#3882, slackapi/node-slack-sdk#2141: the same message arrives again during the answer."""
    slack_server.generator.enqueue("slow ", "answer", delay=0.3)
    body = slack.message(f"<@{BOT}> once, please")
    twin = slack.callback(body["event"] | {"type": "app_mention"})
    again = slack.callback(body["event"])
    for one in (body, twin, body, again):
        assert await slack.deliver(slack_server.url, one, **{"X-Slack-Retry-Num": "1"}) == 200
    await settle(slack_server, slack, 1)
    assert len(slack_server.generator.prompts) == 1


@pytest.mark.parametrize(
    "more",
    [
        {"bot_id": "B0OTHER"},
        {"user": BOT},
        {"subtype": "channel_join"},
        {"subtype": "message_deleted"},
        {"user": None},
        {"text": ""},
        {"channel": "C0/../x"},
        {"ts": 5},
        {"type": "reaction_added"},
    ],
)
async def test_events_without_a_persons_message_are_acknowledged(
    slack_server: WebServer, slack: FakeSlack, more: dict[str, Any]
) -> None:
    body = slack.message(f"<@{BOT}> hello")
    assert await slack.deliver(slack_server.url, slack.callback(body["event"] | more)) == 200
    await settle(slack_server, slack, 0)


async def test_files_are_named_and_markup_is_resolved(slack_server: WebServer, slack: FakeSlack) -> None:
    body = slack.message(f"<@{BOT}> see", subtype="file_share", files=[{"name": "roses.png"}, {}, 5])
    await say(slack_server, slack, body)
    await settle(slack_server, slack, 1)
    assert slack_server.generator.prompts[0].messages[-1].content == (
        "see\n(A file was sent here: roses.png. You can't read it yet.)\n"
        "(A file was sent here: without a name. You can't read it yet.)"
    )
    await until(lambda: slack.ephemerals)
    assert "only see their names (roses.png, without a name)" in slack.ephemerals[0].text
    assert to_plain("<tel:" * 100_000) == "<tel:" * 100_000, "read once; more than once would take minutes"
    assert to_plain(f"&amp;#{'9' * 5_000};") == f"&#{'9' * 5_000};", "what is no sign of Slack's stays as it is"
    assert to_plain("a &lt; b &amp; <https://x.example|the page> <https://y.example> <#C1|general> <!here>") == (
        "a < b & the page (https://x.example) https://y.example general @here"
    )


async def test_rate_limited_posts_are_retried_after_retry_after(slack_server: WebServer, slack: FakeSlack) -> None:
    slack.troubles["chat.postMessage"].extend(["ratelimited", "ratelimited"])
    started = time.monotonic()
    thread = await say(slack_server, slack, slack.message("hello", channel="D0ANA"))
    await until(lambda: len(slack.texts_in(thread)) == 1)
    assert time.monotonic() - started >= 2.0


@pytest.mark.parametrize("trouble", ["hangs after", "internal_error", "hangs"])
async def test_a_post_of_unknown_outcome_is_looked_for_not_doubled(
    slack_server: WebServer, slack: FakeSlack, trouble: Any
) -> None:
    thread = await say(slack_server, slack, slack.message("first", channel="D0ANA"))
    for number in range(3):  # more in the thread than one page holds
        await settle(slack_server, slack, number + 1)
        await say(slack_server, slack, slack.message("more", channel="D0ANA", thread_ts=thread))
    await settle(slack_server, slack, 4)
    slack.troubles["chat.postMessage"].append(trouble)
    await say(slack_server, slack, slack.message("and now", channel="D0ANA", thread_ts=thread))
    await until(lambda: bool(slack.called("conversations.replies")))
    await settle(slack_server, slack, 5)


async def test_a_refused_post_does_not_block_others(slack_server: WebServer, slack: FakeSlack) -> None:
    slack.troubles["chat.postMessage"].append("channel_not_found")
    refused = await say(slack_server, slack, slack.message("hello", channel="D0ANA"))
    await until(lambda: len(slack.called("chat.postMessage")) == 1)
    other = await say(slack_server, slack, slack.message("hello", channel="D0BEN"))
    await until(lambda: len(slack.texts_in(other)) == 1)
    assert slack.texts_in(refused) == []


async def test_events_are_redelivered_while_the_token_is_rejected(slack_server: WebServer, slack: FakeSlack) -> None:
    slack.refuses_token = True
    body = slack.message("hello", channel="D0ANA")
    assert await slack.deliver(slack_server.url, body) == 503
    slack.refuses_token = False
    thread = await say(slack_server, slack, body)
    await until(lambda: len(slack.texts_in(thread)) == 1)


async def test_the_url_verification_challenge_is_answered(slack_server: WebServer) -> None:
    content = json.dumps({"type": "url_verification", "challenge": "3eZbrw1a"}).encode()
    async with slack_server.session.post(
        slack_server.url + "/slack/events", data=content, headers=signed(content)
    ) as response:
        assert (response.status, await response.json()) == (200, {"challenge": "3eZbrw1a"})


async def test_unsigned_requests_are_refused(slack_server: WebServer, slack: FakeSlack) -> None:
    content = json.dumps(slack.message("hello", channel="D0ANA")).encode()
    good = signed(content)
    bad: list[dict[str, str]] = [
        {},
        signed(content, secret="another"),
        signed(content, at=time.time() - 310),
        signed(content, at=time.time() + 310),
        signed(content + b" "),
        good | {"X-Slack-Request-Timestamp": "abc"},
        good | {"X-Slack-Request-Timestamp": "9" * 400},
        good | {"X-Slack-Signature": "v0=\u00e9"},
        good | {"X-Slack-Signature": ""},
    ]
    for headers in bad:
        async with slack_server.session.post(
            slack_server.url + "/slack/events", data=content, headers=headers
        ) as response:
            assert response.status == 401, headers
            assert "MYNA_SLACK_SIGNING_SECRET" in await response.text()
    await settle(slack_server, slack, 0)


async def test_signed_nonsense_is_refused_or_acknowledged(slack_server: WebServer, slack: FakeSlack) -> None:
    assert await slack.deliver(slack_server.url, b"\xff\xfe") == 401
    for content in (b"{", b"[]", b"null", b'"x"', b"[" * 100_000):
        assert await slack.deliver(slack_server.url, content) == 400
    assert await slack.deliver(slack_server.url, b" " * (1024 * 1024 + 1)) == 413
    assert await slack.deliver(slack_server.url, {"type": "app_rate_limited"}) == 200
    assert await slack.deliver(slack_server.url, slack.message("\ud800 and \x00", channel="D0ANA")) == 200
    await settle(slack_server, slack, 1)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.sampled_from(["message", BOT, "D1", "1.2"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
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
                    "files",
                    "name",
                ]
            ),
            inner,
            max_size=8,
        )
    ),
    max_leaves=20,
)


@given(event=JUNK, team=JUNK)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_no_event_breaks_the_reader(event: Any, team: Any) -> None:
    spoken = read_message({"type": "event_callback", "team_id": team, "event": event}, BOT)
    if spoken is not None:
        assert Thread.of_key(spoken.incoming.conversation_key) == spoken.thread
        json.dumps([part["text"] for part in spoken.incoming.parts]).encode()


def test_equal_channel_ids_of_two_teams_are_two_conversations() -> None:
    event = {"type": "message", "channel_type": "im", "user": "U1", "text": "hi", "ts": "1.2", "channel": "D1"}
    read = [read_message({"team_id": team, "event": event}, BOT) for team in (TEAM, "T2")]
    assert read[0] is not None
    assert read[1] is not None
    first, second = (one.incoming for one in read if one is not None)
    assert first.conversation_key != second.conversation_key
    assert first.dedupe_key != second.dedupe_key
    assert first.sender != second.sender


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"slack_bot_token": TOKEN}, "needs both"),
        ({"slack_signing_secret": SECRET}, "MYNA_SLACK_BOT_TOKEN"),
        ({"slack_client_id": "1.2", "slack_signing_secret": SECRET}, "MYNA_SLACK_CLIENT_SECRET"),
        ({"slack_client_id": "1.2", "slack_client_secret": "x", "slack_bot_token": TOKEN}, "Set one of them"),
        ({"slack_client_id": "1.2", "slack_client_secret": "x", "slack_app_token": "xapp-1"}, "serves one workspace"),
        ({"slack_client_id": "1.2", "slack_client_secret": "x"}, "MYNA_SLACK_SIGNING_SECRET"),
    ],
)
def test_incomplete_settings_are_an_error(given: dict[str, str], complaint: str) -> None:
    assert not slack_config(Settings()).is_used
    with pytest.raises(MynaError, match=complaint):
        slack_config(Settings(**given)).check()
