"""Replies in Slack: streamed, split, stopped, repaired, and posted once."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from adapters.slack import words
from adapters.slack.client import SlackClient
from tests.builders.shop import StartShop
from tests.builders.slack import StartInSlack, delivered, in_slack, only_reply, rows_of
from tests.builders.waiting import until
from tests.builders.web import WebServer, serve
from tests.conftest import new_postgres_database
from tests.fakes.slack.records import BOT, TEAM, Json
from tests.fakes.slack.server import FakeSlack

WORDS = ["To begin with, ", *(f"word{number} " for number in range(40))]


async def ask_and_see(
    server: WebServer, slack: FakeSlack, *, channel: str = "C0SHOP", user: str = "U0ANA"
) -> tuple[str, asyncio.Event]:
    """Ask for WORDS. Return once Slack shows the first; the rest waits for the event."""
    hold = asyncio.Event()
    server.generator.enqueue(*WORDS, delay=0.01, hold=hold)
    text = "tell me" if channel.startswith("D") else f"<@{BOT}> tell me"
    ts = await slack.say(text, channel=channel, user=user)
    await until(lambda: slack.called("chat.startStream") or slack.called("chat.postMessage"))
    return ts, hold


def buttons_below(message: Json) -> list[Json]:
    return [one for block in message.get("blocks", []) for one in block.get("elements", []) if "action_id" in one]


# --- streams ---


async def test_a_reply_streams_and_ends_with_buttons(slack_server: WebServer, slack: FakeSlack) -> None:
    ts, hold = await ask_and_see(slack_server, slack)
    status = slack.session("C0SHOP", ts)
    assert status is not None
    assert (status.status, status.title) == ("processing", "tell me")
    hold.set()
    await delivered(slack_server)
    assert slack.texts_in(ts) == ["".join(WORDS)]
    assert len(slack.called("chat.startStream")) == 1
    assert slack.called("chat.startStream")[0]["recipient_user_id"] == "U0ANA"
    assert slack.called("chat.startStream")[0]["recipient_team_id"] == TEAM
    assert len(slack.called("chat.appendStream")) > 2
    assert not slack.called("chat.postMessage")
    assert not slack.called("chat.update")
    assert [one["action_id"] for one in buttons_below(only_reply(slack))] == [words.VOTE]
    assert status.status == "active"


async def test_a_stream_in_a_direct_conversation_names_no_recipient(slack_server: WebServer, slack: FakeSlack) -> None:
    ts, hold = await ask_and_see(slack_server, slack, channel="D0LIN", user="U0LIN")
    hold.set()
    await delivered(slack_server)
    assert slack.texts_in(ts) == ["".join(WORDS)]
    assert "recipient_user_id" not in slack.called("chat.startStream")[0]
    assert buttons_below(only_reply(slack))[0]["positive_button"]["text"]["text"] == "回答得好"


async def test_a_reply_that_begins_anew_replaces_what_was_shown(start_shop: StartShop, slack: FakeSlack) -> None:
    """The fact check takes a reply back after its beginning was shown."""
    async with start_shop(**in_slack(slack)) as agent, serve(agent) as server:
        slack.bot_url = server.url
        hold = asyncio.Event()
        server.generator.enqueue("You can send anything back within ", "14 days.", hold=hold)
        server.generator.enqueue("Send it back within 30 days of delivery.")
        ts = await slack.say(f"<@{BOT}> How long do I have to send something back?")
        await until(lambda: slack.texts_in(ts) != [])
        hold.set()
        await delivered(server)
        assert slack.texts_in(ts) == ["Send it back within 30 days of delivery. [1]"]


@pytest.mark.parametrize("trouble", ["unknown_method", "ratelimited", "missing_recipient_user_id"])
async def test_a_post_is_updated_where_streams_fail(slack_server: WebServer, slack: FakeSlack, trouble: str) -> None:
    slack.troubles["chat.startStream"].append(trouble)
    ts, hold = await ask_and_see(slack_server, slack)
    hold.set()
    await until(lambda: slack.called("chat.update"))
    await delivered(slack_server)
    assert slack.texts_in(ts) == ["".join(WORDS)]
    assert len(slack.called("chat.postMessage")) == 1
    assert buttons_below(only_reply(slack))


async def test_only_people_are_recipients_of_a_stream(slack_server: WebServer, slack: FakeSlack) -> None:
    """paradigmxyz/centaur#1601, timescale/tiger-agents-for-work#271."""
    _, hold = await ask_and_see(slack_server, slack, user="X0SERVICE")
    hold.set()
    await delivered(slack_server)
    assert not slack.called("chat.startStream")
    assert only_reply(slack)["text"] == "".join(WORDS)


async def test_a_non_agent_app_shows_its_status_below_the_thread(slack_server: WebServer, slack: FakeSlack) -> None:
    """kirodotdev/KiroCrew#9822."""
    slack.is_agent = False
    hold = asyncio.Event()
    slack_server.generator.enqueue("", "done", hold=hold)
    ts = await slack.say("hello", channel="D0ANA")
    await until(lambda: slack.thread_status("D0ANA", ts) == "is thinking ...")
    hold.set()
    await delivered(slack_server)
    assert slack.thread_status("D0ANA", ts) == ""


@pytest.mark.parametrize("update_fails", [False, True])
async def test_an_expired_stream_loses_no_text(slack_server: WebServer, slack: FakeSlack, update_fails: bool) -> None:
    """slackapi/python-slack-sdk#1859, node-slack-sdk#2702, vercel/chat#607 and #671, dust-tt/dust#25031,
    timescale/tiger-agents-for-work#297."""
    hold = asyncio.Event()
    slack_server.generator.enqueue("first words, ", "and some, ", "and the rest.", hold=hold)
    ts = await slack.say(f"<@{BOT}> tell me")
    await until(lambda: slack.running_streams)
    slack.clock.advance(301)
    if update_fails:
        slack.troubles["chat.update"].append("edit_window_closed")
    hold.set()
    await delivered(slack_server)
    assert "".join(slack.texts_in(ts)) == "first words, and some, and the rest."
    assert not slack.running_streams
    assert buttons_below(slack.posted[-1])


async def test_streams_are_ended_before_slack_ends_them(
    slack_server: WebServer, slack: FakeSlack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vercel/chat#637: the reply continues in another message after a line end, and the session continues."""
    monkeypatch.setattr("adapters.slack.live_reply.ROTATE_SECONDS", 1.0)
    lines, hold = [f"line number {number}\n" for number in range(60)], asyncio.Event()
    slack_server.generator.enqueue(*lines, delay=0.06, hold=hold)
    ts = await slack.say(f"<@{BOT}> tell me")
    await until(lambda: slack.running_streams)
    hold.set()
    await delivered(slack_server)
    shown = slack.texts_in(ts)
    assert len(shown) > 2
    assert "".join(shown) == "".join(lines)
    assert all(text.endswith("\n") for text in shown)
    statuses = [one["session_status"] for one in slack.called("chat.stopStream")]
    assert statuses == ["processing"] * (len(shown) - 1) + ["active"]
    assert [bool(buttons_below(one)) for one in slack.posted] == [False] * (len(shown) - 1) + [True]


@pytest.mark.parametrize("streams", [True, False])
async def test_a_long_reply_is_split_without_breaking_its_code(
    slack_server: WebServer, slack: FakeSlack, streams: bool
) -> None:
    """paradigmxyz/centaur#505: no message is too long for Slack, and no text is lost."""
    if not streams:
        slack.troubles["chat.startStream"].append("unknown_method")
    code = [f"row {number:04} of the table, with words\n" for number in range(700)]
    pieces = ["".join(code[begin : begin + 7]) for begin in range(0, 700, 7)]
    slack_server.generator.enqueue("Here:\n\n```sql\n", *pieces, "```\n\nThat is all.", delay=0.002)
    ts = await slack.say(f"<@{BOT}> tell me")
    await delivered(slack_server)
    shown = [_content(one) for one in slack.posted if one["thread_ts"] == ts]
    assert len(shown) > 2
    assert all(len(one) <= 12_000 for one in shown)
    assert all(one.count("```") == 2 for one in shown[:-1])
    assert all(one.startswith("```sql\n") for one in shown[1:])
    assert [one for one in "".join(shown).splitlines(keepends=True) if one.startswith("row ")] == code
    assert shown[-1].endswith("That is all.")


def _content(message: Json) -> str:
    """Return the whole text, which is in a block where there are buttons."""
    return next((one["text"] for one in message.get("blocks", []) if one["type"] == "markdown"), message["text"])


# --- what is not known ---


@pytest.mark.parametrize("method", ["chat.startStream", "chat.appendStream", "chat.stopStream", "chat.postMessage"])
@pytest.mark.parametrize("trouble", ["drops after", "drops", "internal_error", "http_500"])
async def test_unanswered_calls_double_and_lose_nothing(
    slack_server: WebServer, slack: FakeSlack, method: str, trouble: str
) -> None:
    if method == "chat.postMessage":
        slack.troubles["chat.startStream"].append("unknown_method")
    slack.troubles[method].append(trouble)
    ts, hold = await ask_and_see(slack_server, slack)
    hold.set()
    await delivered(slack_server)
    assert not slack.troubles[method]
    assert slack.texts_in(ts) == ["".join(WORDS)]
    assert buttons_below(only_reply(slack))
    status = slack.session("C0SHOP", ts)
    assert status is not None
    assert status.status == "active"


async def test_a_deleted_live_message_is_posted_again_at_the_end(slack_server: WebServer, slack: FakeSlack) -> None:
    hold = asyncio.Event()
    slack_server.generator.enqueue("first words, ", "and the rest.", hold=hold)
    ts = await slack.say(f"<@{BOT}> tell me")
    await until(lambda: slack.running_streams)
    place = slack.channel("C0SHOP")
    place.messages.remove(next(one for one in place.messages if one.get("bot_id")))
    hold.set()
    await delivered(slack_server)
    assert slack.texts_in(ts) == ["first words, and the rest."]


async def test_a_token_revoked_midway_ends_one_reply_only(slack_server: WebServer, slack: FakeSlack) -> None:
    hold = asyncio.Event()
    slack_server.generator.enqueue("first words, ", "and the rest.", hold=hold)
    await slack.say(f"<@{BOT}> tell me")
    await until(lambda: slack.running_streams)
    slack.refuses_token = True
    hold.set()
    await delivered(slack_server)
    assert [row["state"] for row in await rows_of(slack_server, "outbox")] == ["failed"]
    slack.refuses_token = False
    ts = await slack.say(f"<@{BOT}> again")
    await delivered(slack_server, 2)
    assert slack.texts_in(ts) == ["again"]
    assert len(slack.posted) == 2, "what stands there of the first reply is left as it is"


async def test_a_retried_reply_leaves_no_status_behind(slack_server: WebServer, slack: FakeSlack) -> None:
    """app-vitals/shipwright#3149."""
    slack_server.generator.enqueue("half of it ", "and more", error=RuntimeError("the model fell over"))
    slack_server.generator.enqueue("the whole answer")
    ts = await slack.say(f"<@{BOT}> tell me")
    await delivered(slack_server)
    assert slack.texts_in(ts) == ["the whole answer"]
    status = slack.session("C0SHOP", ts)
    assert status is not None
    assert status.status == "active"


# --- replies that follow each other ---


@pytest.mark.parametrize(
    ("method", "trouble"),
    [("chat.postMessage", "drops after"), ("chat.stopStream", "ratelimited"), ("chat.stopStream", "drops after")],
)
async def test_a_waiting_reply_is_posted_before_the_next(
    slack_server: WebServer, slack: FakeSlack, monkeypatch: pytest.MonkeyPatch, method: str, trouble: str
) -> None:
    monkeypatch.setattr("bot.chat.delivery.LOOK_AGAIN_SECONDS", 0.5)
    if method == "chat.postMessage":
        slack.troubles["chat.startStream"].append("unknown_method")
    slack.troubles[method].append(trouble)
    ts, hold = await ask_and_see(slack_server, slack)
    slack_server.generator.enqueue(*WORDS[::-1], delay=0.01)
    hold.set()
    await until(lambda: slack.called(method))
    await slack.say("and then?", thread_ts=ts)
    await delivered(slack_server, 2)
    assert slack.texts_in(ts) == ["".join(WORDS), "".join(WORDS[::-1])], "each once, and in order"


async def test_a_slack_outage_delays_replies_and_loses_none(slack_server: WebServer, slack: FakeSlack) -> None:
    slack.troubles["chat.postMessage"].extend(["http_500"] * 12)
    ts = await slack.say("hello", channel="D0ANA")
    await until(lambda: not slack.troubles["chat.postMessage"], seconds=300)
    await delivered(slack_server)
    assert slack.texts_in(ts) == ["hello"]


async def test_sixty_answers_at_once_leave_no_status_behind(slack_server: WebServer, slack: FakeSlack) -> None:
    threads = await asyncio.gather(
        *[slack.say(f"q {number}", channel=f"D{number:05}", user=f"U{number:05}") for number in range(60)]
    )
    await delivered(slack_server, 60)
    sessions = [slack.session(f"D{number:05}", ts) for number, ts in enumerate(threads)]
    await until(lambda: not any(one and one.status == "processing" for one in sessions))


async def test_a_quick_reply_is_not_overtaken_by_its_own_status(
    slack_server: WebServer, slack: FakeSlack, monkeypatch: pytest.MonkeyPatch
) -> None:
    locale_of, times = SlackClient.locale_of, 0

    async def slow_at_first(self: SlackClient, user_id: str) -> str | None:
        nonlocal times
        times += 1
        await asyncio.sleep(0.5 if times == 1 else 0)
        return await locale_of(self, user_id)

    monkeypatch.setattr(SlackClient, "locale_of", slow_at_first)
    ts = await slack.say(f"<@{BOT}> tell me")
    await delivered(slack_server)
    status = slack.session("C0SHOP", ts)
    await until(lambda: status is None or status.status == "active")
    await asyncio.sleep(0.3)
    assert status is None or status.status == "active"


# --- Stop ---


async def test_a_redelivered_stop_does_not_stop_the_next_answer(slack_server: WebServer, slack: FakeSlack) -> None:
    hold = asyncio.Event()
    slack_server.generator.enqueue("", "never said", hold=hold)
    ts = await slack.say("first", channel="D0ANA")
    await until(lambda: slack_server.generator.num_open)
    event = {"type": "agent_session_stopped", "channel": "D0ANA", "thread_ts": ts, "user": "U0ANA"}
    body = slack.callback(event | {"streaming_message_ts": [], "event_ts": slack.next_ts()})
    assert await slack.deliver(slack_server.url, body) == 200
    await delivered(slack_server)
    slack_server.generator.enqueue(*WORDS, delay=0.02)
    await slack.say("second", channel="D0ANA", thread_ts=ts)
    await until(lambda: slack.running_streams)
    assert await slack.deliver(slack_server.url, body, **{"X-Slack-Retry-Num": "2"}) == 200
    await delivered(slack_server, 2)
    assert [row["state"] for row in await rows_of(slack_server, "reply")] == ["stopped", "answered"]


async def test_stop_midway_keeps_the_text_so_far(slack_server: WebServer, slack: FakeSlack) -> None:
    """NousResearch/hermes-agent#90978."""
    slack_server.generator.enqueue(*(f"word{number} " for number in range(4000)), delay=0.01)
    ts = await slack.say(f"<@{BOT}> tell me")
    await until(lambda: len(slack.called("chat.appendStream")) > 2)
    stopped = await slack.stop("C0SHOP", ts)
    assert len(stopped) == 1
    await delivered(slack_server)
    replies = await rows_of(slack_server, "reply")
    assert [row["state"] for row in replies] == ["stopped"]
    said = next(row["parts"][0]["text"] for row in await rows_of(slack_server, "message") if row["author"] == "bot")
    assert said.startswith("word0 word1 ")
    assert slack.texts_in(ts) == [said], "people see what is remembered"
    assert not slack.called("chat.stopStream"), "Slack has ended it already"
    status = slack.session("C0SHOP", ts)
    assert status is not None
    assert status.status == "active"


async def test_stop_before_the_first_word_leaves_nothing(slack_server: WebServer, slack: FakeSlack) -> None:
    hold = asyncio.Event()
    slack_server.generator.enqueue("", "never said", hold=hold)
    ts = await slack.say(f"<@{BOT}> tell me")
    await until(lambda: slack_server.generator.num_open)
    assert await slack.stop("C0SHOP", ts) == []
    await delivered(slack_server)
    assert slack.texts_in(ts) == []
    assert [row["state"] for row in await rows_of(slack_server, "reply")] == ["stopped"]
    status = slack.session("C0SHOP", ts)
    assert status is not None
    assert status.status == "active"


async def test_stop_after_the_end_changes_nothing(slack_server: WebServer, slack: FakeSlack) -> None:
    ts = await slack.say(f"<@{BOT}> tell me")
    await delivered(slack_server)
    await slack.stop("C0SHOP", ts)
    await slack.stop("C0SHOP", "1700000000.000009")
    await slack.say(f"<@{BOT}> and again", thread_ts=ts)
    await delivered(slack_server, 2)
    assert slack.texts_in(ts) == ["tell me", "and again"]
    assert [row["state"] for row in await rows_of(slack_server, "reply")] == ["answered", "answered"]


# --- edits and deletions ---


async def test_a_deletion_before_its_message_keeps_it_out(slack_server: WebServer, slack: FakeSlack) -> None:
    body = slack.message("my password is hunter2", channel="D0ANA")
    before = {"ts": body["event"]["ts"], "text": "my password is hunter2", "user": "U0ANA"}
    gone = {"type": "message", "subtype": "message_deleted", "channel": "D0ANA", "ts": "1.1"}
    gone |= {"deleted_ts": before["ts"], "previous_message": before}
    assert await slack.deliver(slack_server.url, slack.callback(gone)) == 200
    assert await slack.deliver(slack_server.url, body, **{"X-Slack-Retry-Num": "1"}) == 200
    await asyncio.sleep(0.2)
    assert slack_server.generator.prompts == []
    assert await rows_of(slack_server, "message") == []


@pytest.mark.slow
async def test_an_edit_taken_by_another_process_is_not_undone(
    start_in_slack: StartInSlack, postgres: Any, migrated_postgres: str, slack: FakeSlack
) -> None:
    url = new_postgres_database(postgres, migrated_postgres)
    async with start_in_slack(url) as first:
        first.generator.enqueue("the answer to roses ", *WORDS, delay=0.05)
        ts = await slack.say(f"<@{BOT}> about roses")
        await until(lambda: slack.running_streams)
        first.agent.conversations._accepting = False  # it takes nothing new, so that the other does
        async with start_in_slack(url) as second:
            second.generator.enqueue("the answer to tulips")
            await slack.edit("C0SHOP", ts, f"<@{BOT}> about tulips")
            await delivered(second)
            await until(lambda: first.generator.aborted)
            await asyncio.sleep(0.5)
            assert slack.texts_in(ts) == ["the answer to tulips"]


async def test_an_edit_during_the_answer_restarts_it(slack_server: WebServer, slack: FakeSlack) -> None:
    hold = asyncio.Event()
    slack_server.generator.enqueue("the answer to roses ", "and more", hold=hold)
    slack_server.generator.enqueue("the answer to tulips")
    ts = await slack.say(f"<@{BOT}> about roses")
    await until(lambda: slack.running_streams)
    await slack.edit("C0SHOP", ts, f"<@{BOT}> about tulips")
    await delivered(slack_server)
    assert slack.texts_in(ts) == ["the answer to tulips"]
    assert slack_server.generator.prompts[-1].messages[-1].content == "about tulips"
    assert slack_server.generator.aborted == 1


async def test_messages_left_by_a_dead_process_are_deleted_by_the_next(
    slack_server: WebServer, slack: FakeSlack, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold, call = asyncio.Event(), SlackClient.call

    async def dies(self: SlackClient, method: str, **arguments: Any) -> Any:
        if method == "chat_delete":
            monkeypatch.setattr(SlackClient, "call", call)
            raise asyncio.CancelledError
        return await call(self, method, **arguments)

    slack_server.generator.enqueue("the answer to roses ", "and more", hold=hold)
    slack_server.generator.enqueue("the answer to tulips")
    ts = await slack.say(f"<@{BOT}> about roses")
    await until(lambda: slack.running_streams)
    monkeypatch.setattr(SlackClient, "call", dies)
    await slack.edit("C0SHOP", ts, f"<@{BOT}> about tulips")
    await delivered(slack_server)
    assert slack.texts_in(ts) == ["the answer to tulips"]


async def test_an_edit_after_the_answer_changes_the_history_only(slack_server: WebServer, slack: FakeSlack) -> None:
    ts = await slack.say(f"<@{BOT}> my number is 1")
    await delivered(slack_server)
    await slack.edit("C0SHOP", ts, f"<@{BOT}> my number is 2")
    late = slack.callback(
        {
            "type": "message",
            "subtype": "message_changed",
            "channel": "C0SHOP",
            "ts": "1.1",
            "message": {"ts": ts, "text": "my number is 3", "user": "U0ANA", "edited": {"ts": "1.1"}},
        }
    )
    assert await slack.deliver(slack_server.url, late) == 200
    await slack.say("which was it?", thread_ts=ts)
    await delivered(slack_server, 2)
    asked = [one.content for one in slack_server.generator.prompts[-1].messages if one.role == "user"]
    assert asked == ["my number is 2", "which was it?"], "an older edit that comes late changes nothing"
    assert len(slack_server.generator.prompts) == 2


async def test_a_deleted_message_is_out_of_the_history(slack_server: WebServer, slack: FakeSlack) -> None:
    ts = await slack.say(f"<@{BOT}> hello")
    await delivered(slack_server)
    secret = await slack.say("my password is hunter2", thread_ts=ts)
    await delivered(slack_server, 2)
    await slack.delete("C0SHOP", secret)
    await slack.say("what did I say?", thread_ts=ts)
    await delivered(slack_server, 3)
    assert "hunter2" not in str(slack_server.generator.prompts[-1].messages)
    kept = [row for row in await rows_of(slack_server, "message") if row["external_id"] == secret]
    assert [row["parts"] for row in kept] == [[]], "the words themselves are gone"


async def test_a_message_deleted_during_the_answer_gets_none(slack_server: WebServer, slack: FakeSlack) -> None:
    hold = asyncio.Event()
    slack_server.generator.enqueue("the answer ", "and more", hold=hold)
    ts = await slack.say("hello", channel="D0ANA")
    await until(lambda: slack.running_streams)
    await slack.delete("D0ANA", ts)
    await delivered(slack_server)
    assert slack.posted == []
    assert [row["state"] for row in await rows_of(slack_server, "reply")] == ["stopped"]


async def test_a_preview_of_a_link_is_no_edit(slack_server: WebServer, slack: FakeSlack) -> None:
    ts = await slack.say(f"<@{BOT}> see <https://shop.example>")
    await delivered(slack_server)
    unfurled = {"ts": ts, "text": f"<@{BOT}> see <https://shop.example>", "user": "U0ANA", "attachments": [{}]}
    event = {"type": "message", "subtype": "message_changed", "channel": "C0SHOP", "ts": "2.1", "message": unfurled}
    assert await slack.deliver(slack_server.url, slack.callback(event)) == 200
    await asyncio.sleep(0.2)
    assert len(slack_server.generator.prompts) == 1


# --- many at once ---


async def test_five_messages_in_one_go_are_one_conversation(slack_server: WebServer, slack: FakeSlack) -> None:
    ts = await slack.say(f"<@{BOT}> one")
    for number in ("two", "three", "four", "five"):
        await slack.say(number, thread_ts=ts)
    await until(lambda: any("five" in one.messages[-1].content for one in slack_server.generator.prompts))
    await delivered(slack_server)
    covered = [row["last_seq"] for row in await rows_of(slack_server, "reply")]
    assert covered[-1] == 5
    assert len(slack.texts_in(ts)) == len(covered)


async def test_two_people_in_one_thread_are_answered_in_order(slack_server: WebServer, slack: FakeSlack) -> None:
    ts = await slack.say(f"<@{BOT}> from Ana")
    await delivered(slack_server)
    await slack.say("from Ben", thread_ts=ts, user="U0BEN")
    await delivered(slack_server, 2)
    assert slack.texts_in(ts) == ["from Ana", "from Ben"]
    assert len(await rows_of(slack_server, "person")) == 2


@pytest.mark.slow
async def test_two_hundred_conversations_at_once_get_one_answer_each(slack_server: WebServer, slack: FakeSlack) -> None:
    slack.duplicates, started = 1, time.monotonic()
    threads = await asyncio.gather(
        *[slack.say(f"question {number}", channel=f"D{number:05}", user=f"U{number:05}") for number in range(200)]
    )
    await delivered(slack_server, 200)
    assert [slack.texts_in(ts) for ts in threads] == [[f"question {number}"] for number in range(200)]
    seconds = time.monotonic() - started
    assert len(slack.called("chat.startStream")) <= 20 + seconds / 3 + 1, "twenty at once, and twenty a minute"
    assert len(slack_server.generator.prompts) == 200


@pytest.mark.slow
async def test_slacks_rate_limits_delay_replies_and_lose_none(slack_server: WebServer, slack: FakeSlack) -> None:
    slack.limits = True  # one post a second in a channel, and no more
    threads = [await slack.say(f"q {number}", channel="D0ANA") for number in range(5)]
    await delivered(slack_server, 5)
    assert [slack.texts_in(ts) for ts in threads] == [[f"q {number}"] for number in range(5)]
    asked = len(slack.called("chat.postMessage"))
    assert asked <= 12, f"Retry-After is kept: {asked} calls for five posts"


async def test_a_storm_of_refusals_delays_replies_and_loses_none(slack_server: WebServer, slack: FakeSlack) -> None:
    slack.troubles["chat.postMessage"].extend(["ratelimited"] * 3)
    threads = [await slack.say(f"q {number}", channel=f"D{number:05}", user=f"U{number:05}") for number in range(5)]
    await delivered(slack_server, 5)
    assert [slack.texts_in(ts) for ts in threads] == [[f"q {number}"] for number in range(5)]


async def test_a_slow_slack_does_not_delay_other_channels(
    start_in_slack: StartInSlack, sqlite_url: str, slack: FakeSlack
) -> None:
    slack.troubles["chat.postMessage"].append("hangs")
    async with start_in_slack(sqlite_url) as server:
        stuck = await slack.say("first", channel="D0ANA")
        await until(lambda: slack.called("chat.postMessage"))
        other = await slack.say("second", channel="D0BEN", user="U0BEN")
        await until(lambda: slack.texts_in(other) == ["second"])
        assert slack.texts_in(stuck) == []
        await until(lambda: slack.texts_in(stuck) == ["first"])
        assert json.dumps(await rows_of(server, "shown_part")) == "[]"
