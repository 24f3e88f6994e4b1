"""Votes, feedback forms, commands and suggested prompts in Slack."""

from __future__ import annotations

import asyncio
import functools
import json
from typing import Any

import pytest

from adapters.slack import words
from bot.chat.feedback import Feedback
from storage.database import StorageUnavailable
from storage.votes import Vote
from tests.builders.waiting import until
from tests.builders.web import WebServer
from tests.fakes.slack.records import BOT, Json
from tests.fakes.slack.server import FakeSlack


async def answered(slack: FakeSlack, text: str = "hello", **more: Any) -> tuple[str, Json]:
    """Ask the bot. Return the thread, and the reply's message once it has buttons."""
    before = len(slack.posted)
    ts = await slack.say(f"<@{BOT}> {text}" if more.get("channel", "C")[0] == "C" else text, **more)
    await until(lambda: len(slack.posted) > before and slack.posted[-1].get("blocks"))
    return ts, slack.posted[-1]


def buttons_of(message: Json) -> Json:
    return next(one for block in message["blocks"] for one in block.get("elements", []) if "action_id" in one)


def reply_id_of(message: Json) -> str:
    return str(buttons_of(message)["positive_button"]["value"]).partition(":")[2]


async def votes_on(server: WebServer, message: Json) -> list[Vote]:
    return await Feedback(server.agent.scope).votes_on(reply_id_of(message))


async def press(slack: FakeSlack, message: Json, verdict: str, user: str = "U0ANA") -> None:
    value = buttons_of(message)[f"{verdict}_button"]["value"]
    answer = await slack.click(message["channel"], message["ts"], words.VOTE, value, user)
    assert answer.status == 200


def written(**fields: str) -> dict[str, dict[str, Json]]:
    return {name: {name: {"type": "plain_text_input", "value": text}} for name, text in fields.items()}


# --- votes ---


async def test_a_person_has_one_vote_and_may_change_it(slack_server: WebServer, slack: FakeSlack) -> None:
    """slackapi/bolt-python#1435: each click is sent again, and a vote can't be withdrawn."""
    _, message = await answered(slack)
    for verdict in ("positive", "positive", "negative", "positive"):
        await press(slack, message, verdict)
    await press(slack, message, "negative", "U0BEN")
    assert await votes_on(slack_server, message) == [Vote(1), Vote(-1)]


async def test_a_thumb_down_asks_what_was_wrong(slack_server: WebServer, slack: FakeSlack) -> None:
    _, message = await answered(slack)
    await press(slack, message, "negative")
    await until(lambda: slack.views)
    view = next(iter(slack.views.values()))
    assert view.content["title"]["text"] == "What was wrong?"
    empty = await slack.submit(view, written(reason="  ", better=""))
    assert empty.body["errors"] == {"reason": "Please write something in one of the two fields."}
    assert view.open
    done = await slack.submit(view, written(reason="It was rude.", better="Good morning!"))
    assert done.status == 200
    assert not view.open
    assert await votes_on(slack_server, message) == [Vote(-1, "It was rude.", "Good morning!")]
    await press(slack, message, "negative")
    assert await votes_on(slack_server, message) == [Vote(-1, "It was rude.", "Good morning!")], "words are kept"


async def test_the_form_speaks_the_language_of_the_person(slack_server: WebServer, slack: FakeSlack) -> None:
    _, message = await answered(slack, channel="D0LIN", user="U0LIN")
    await press(slack, message, "negative", "U0LIN")
    await until(lambda: slack.views)
    view = next(iter(slack.views.values()))
    assert view.content["submit"]["text"] == "发送"
    assert (await slack.submit(view, written(reason=""))).body["errors"] == {"reason": "请至少填写其中一项。"}


async def test_votes_on_missing_replies_are_ignored(slack_server: WebServer, slack: FakeSlack) -> None:
    _, message = await answered(slack)
    button = buttons_of(message)["positive_button"]
    for value in ("up:nobody", "", "up", "down:" + "x" * 5000):
        button["value"] = value
        assert (await slack.click(message["channel"], message["ts"], words.VOTE, value)).status == 200
    assert not slack.views


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"type": "block_actions"},
        {"type": "block_actions", "actions": [5, {"action_id": words.VOTE, "value": None}], "user": "x"},
        {"type": "view_submission"},
        {"type": "view_submission", "view": {"callback_id": words.FEEDBACK_FORM, "private_metadata": "{"}},
        {"type": "view_submission", "view": {"callback_id": words.FEEDBACK_FORM, "private_metadata": "{}"}},
        {"type": "view_submission", "view": {"callback_id": "another's"}},
        {"type": "block_suggestion"},
    ],
)
async def test_nonsensical_interactions_are_acknowledged(
    slack_server: WebServer, slack: FakeSlack, payload: Json
) -> None:
    answer = await slack.deliverer.send_form("/slack/interactivity", payload)
    assert answer.status == 200


# --- commands ---


async def test_the_slash_command_explains_itself(slack_server: WebServer, slack: FakeSlack) -> None:
    for text in ("", "help", "HELP"):
        answer = await slack.slash("/myna", text)
        assert answer.body["response_type"] == "ephemeral"
        assert "/myna feedback" in answer.body["text"]
    unknown = await slack.slash("/myna", "dance `now`")
    assert unknown.body["text"].startswith("I don't know “dance 'now'”.")
    assert "/myna help" in unknown.body["text"]
    chinese = await slack.slash("/myna", "help", user="U0LIN")
    assert "提到我" in chinese.body["text"]


async def test_new_forgets_the_context_of_the_last_conversation_here(slack_server: WebServer, slack: FakeSlack) -> None:
    assert "no conversation" in (await slack.slash("/myna", "new", channel="D0ANA")).body["text"]
    ts, _ = await answered(slack, "my name is Ana", channel="D0ANA")
    answer = await slack.slash("/myna", "new", channel="D0ANA")
    assert "my name is Ana" in answer.body["text"], "it says which one"
    await answered(slack, "what is my name?", channel="D0ANA", thread_ts=ts)
    said = [one.content for one in slack_server.generator.prompts[-1].messages if one.role == "user"]
    assert said == ["what is my name?"]


@pytest.mark.parametrize("order", ["message first", "app_mention first"])
async def test_commands_by_mention_get_an_ephemeral_answer(
    slack_server: WebServer, slack: FakeSlack, order: Any
) -> None:
    slack.mention_order = order
    ts, _ = await answered(slack, "my name is Ana")
    await slack.say(f"<@{BOT}> new", thread_ts=ts)
    await until(lambda: slack.ephemerals)
    await answered(slack, "what is my name?", thread_ts=ts)
    said = [one.content for one in slack_server.generator.prompts[-1].messages if one.role == "user"]
    assert said == ["what is my name?"]
    await asyncio.sleep(0.2)
    assert [(one.user, one.thread_ts) for one in slack.ephemerals] == [("U0ANA", ts)], "once, though it came twice"
    assert len(slack_server.generator.prompts) == 2, "the model was not asked"


async def test_a_command_outside_a_thread_concerns_the_last_thread(slack_server: WebServer, slack: FakeSlack) -> None:
    await answered(slack, "my name is Ana")
    await slack.say(f"<@{BOT}> feedback")
    await until(lambda: slack.ephemerals)
    assert "About my last answer" in slack.ephemerals[0].text
    await slack.say(f"<@{BOT}> new")
    await until(lambda: len(slack.ephemerals) == 2)
    assert "my name is Ana" in slack.ephemerals[1].text


async def test_a_bot_that_left_returns_when_mentioned(slack_server: WebServer, slack: FakeSlack) -> None:
    ts, _ = await answered(slack)
    await slack.say(f"<@{BOT}> leave thread", thread_ts=ts, user="U0BEN")
    await until(lambda: slack.ephemerals)
    await slack.say("among ourselves", thread_ts=ts)
    await asyncio.sleep(0.3)
    assert len(slack_server.generator.prompts) == 1
    await answered(slack, "are you there?", thread_ts=ts)
    await answered_without_mention(slack, ts)
    assert len(slack_server.generator.prompts) == 3


async def test_a_command_runs_exactly_once(
    slack_server: WebServer, slack: FakeSlack, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, working, is_away = slack_server.agent.database, slack_server.agent.database.write, True

    async def write(unit: Any, *arguments: Any, **options: Any) -> Any:
        if is_away and unit.__name__ == "forget_context":
            raise StorageUnavailable("the disk is full")
        return await working(unit, *arguments, **options)

    monkeypatch.setattr(database, "write", write)
    ts, _ = await answered(slack, "hello")
    body = slack.message(f"<@{BOT}> new", thread_ts=ts)
    assert await slack.deliver(slack_server.url, body) == 503
    is_away = False
    assert await slack.deliver(slack_server.url, body) == 200
    await until(lambda: slack.ephemerals)
    await answered(slack, "my name is Ana", thread_ts=ts)
    assert await slack.deliver(slack_server.url, body, **{"X-Slack-Retry-Num": "2"}) == 200
    await answered(slack, "what is my name?", thread_ts=ts)
    said = [one.content for one in slack_server.generator.prompts[-1].messages if one.role == "user"]
    assert said == ["my name is Ana", "what is my name?"]
    assert len(slack.ephemerals) == 1


async def test_a_redelivered_mention_does_not_bring_the_bot_back(slack_server: WebServer, slack: FakeSlack) -> None:
    ts, _ = await answered(slack)
    again = slack.message(f"<@{BOT}> and again", thread_ts=ts)
    assert await slack.deliver(slack_server.url, again) == 200
    await slack.say(f"<@{BOT}> leave", thread_ts=ts)
    await until(lambda: slack.ephemerals)
    assert await slack.deliver(slack_server.url, again, **{"X-Slack-Retry-Num": "2"}) == 200
    await slack.say("among ourselves", thread_ts=ts)
    await asyncio.sleep(0.3)
    assert len(slack_server.generator.prompts) == 2


async def test_an_unknown_locale_is_asked_for_again(
    slack_server: WebServer, slack: FakeSlack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.slack.client.NO_LOCALE_SECONDS", 0.0)
    slack.troubles["users.info"].append("http_500")
    assert "Mention me" in (await slack.slash("/myna", "help", user="U0LIN")).body["text"]
    assert "提到我" in (await slack.slash("/myna", "help", user="U0LIN")).body["text"]


@pytest.mark.parametrize("bad", ["x\ud800", "x\x00"])
async def test_characters_that_databases_refuse_break_nothing(
    slack_server: WebServer, slack: FakeSlack, bad: str
) -> None:
    ts, message = await answered(slack)
    body = slack.message(f"<@{BOT}> hello {bad}", thread_ts=ts) | {"event_id": bad}
    assert await slack.deliver(slack_server.url, body) == 200
    who = {"team": {"id": "T0FERNHILL"}, "user": {"id": bad}}
    pressed = who | {"type": "block_actions", "actions": [{"action_id": words.VOTE, "value": "up:" + bad}]}
    about = json.dumps({"reply_id": reply_id_of(message), "locale": ""})
    view = {"callback_id": words.FEEDBACK_FORM, "private_metadata": about, "state": {"values": written(reason=bad)}}
    for payload in (pressed, who | {"type": "view_submission", "view": view}):
        assert (await slack.deliverer.send_form("/slack/interactivity", payload)).status == 200
    assert await votes_on(slack_server, message) == [Vote(-1, "x\ufffd")]


async def answered_without_mention(slack: FakeSlack, ts: str) -> None:
    before = len(slack.posted)
    await slack.say("and on we go", thread_ts=ts)
    await until(lambda: len(slack.posted) > before)


async def test_leave_is_for_threads_of_several_people(slack_server: WebServer, slack: FakeSlack) -> None:
    assert "mention me there" in (await slack.slash("/myna", "leave")).body["text"]
    await slack.say(f"<@{BOT}> leave", channel="D0ANA")
    await until(lambda: len(slack.ephemerals) == 2)
    assert "direct conversation" in slack.ephemerals[1].text


async def test_feedback_on_the_last_answer_by_command(slack_server: WebServer, slack: FakeSlack) -> None:
    _, message = await answered(slack, channel="D0ANA")
    answer = await slack.slash("/myna", "feedback", channel="D0ANA")
    button = answer.body["blocks"][1]["elements"][0]
    payload = {
        "type": "block_actions",
        "team": {"id": "T0FERNHILL"},
        "user": {"id": "U0ANA"},
        "trigger_id": slack.new_trigger("U0ANA", "T0FERNHILL"),
        "actions": [{"action_id": button["action_id"], "value": button["value"]}],
    }
    assert (await slack.deliverer.send_form("/slack/interactivity", payload)).status == 200
    await until(lambda: slack.views)
    assert await votes_on(slack_server, message) == [], "who looks at the form has not voted"
    assert (await slack.submit(next(iter(slack.views.values())), written(better="Hi!"))).ok
    assert await votes_on(slack_server, message) == [Vote(-1, None, "Hi!")]
    assert "no conversation" in (await slack.slash("/myna", "feedback", user="U0BEN")).body["text"]


async def test_too_many_votes_are_asked_to_wait(
    slack_server: WebServer, slack: FakeSlack, monkeypatch: pytest.MonkeyPatch
) -> None:
    vote = slack_server.agent.feedback.vote
    monkeypatch.setattr(slack_server.agent.feedback, "vote", functools.partial(vote, most_a_minute=2))
    _, message = await answered(slack)
    for verdict in ("positive", "negative", "positive"):
        await press(slack, message, verdict)
    await until(lambda: slack.ephemerals and slack.views)
    assert "many votes at once" in slack.ephemerals[0].text
    refused = await slack.submit(next(iter(slack.views.values())), written(reason="It was rude."))
    assert "many votes at once" in refused.body["errors"]["reason"]
    assert await votes_on(slack_server, message) == [Vote(-1)]


# --- privacy ---


async def test_a_person_says_whether_myna_may_learn_from_them(slack_server: WebServer, slack: FakeSlack) -> None:
    async def told(text: str, user: str = "U0ANA") -> str:
        return str((await slack.slash("/myna", text, user=user)).body["text"])

    assert (await told("privacy")).startswith("Myna may learn")
    assert (await told("privacy off")).startswith("Myna does not learn")
    assert (await told("privacy")).startswith("Myna does not learn")
    assert (await told("privacy", "U0BEN")).startswith("Myna may learn"), "Ana speaks for herself"
    assert (await told("隐私 关", "U0LIN")).startswith("Myna 不会")
    assert (await told("privacy on")).startswith("Myna may learn")
    assert "no conversation" in await told("privacy here off")
    assert "I don't know" in await told("privacy perhaps")


async def test_participants_may_forbid_and_the_starter_may_allow_learning(
    slack_server: WebServer, slack: FakeSlack
) -> None:
    consent = slack_server.agent.consent
    ts, message = await answered(slack, "my name is Ana")
    reply = await slack_server.agent.feedback.reply("slack", reply_id_of(message))

    async def say(text: str, user: str, count: int) -> str:
        await slack.say(f"<@{BOT}> {text}", thread_ts=ts, user=user)
        await until(lambda: len(slack.ephemerals) == count)
        return slack.ephemerals[-1].text

    async def here() -> bool | None:
        return (await consent.choices("slack", "nobody", reply.conversation_id)).conversation

    assert "does not learn from the conversation" in await say("privacy here off", "U0BEN", 1)
    assert await here() is False
    assert "Only the person who began" in await say("privacy here on", "U0BEN", 2)
    assert await here() is False
    assert "does not learn from the conversation" in await say("privacy", "U0BEN", 3)
    assert "may learn from the conversation" in await say("privacy here on", "U0ANA", 4)
    assert await here() is True
    await say("privacy off", "U0ANA", 5)
    assert "Your own words stay out" in await say("privacy here on", "U0ANA", 6)
    assert len(slack_server.generator.prompts) == 1, "the model was not asked"


# --- the agent view ---


async def test_an_empty_direct_conversation_offers_prompts(slack_server: WebServer, slack: FakeSlack) -> None:
    await slack.open_home("U0LIN", "D0LIN")
    await until(lambda: slack.prompts)
    asked = slack.called("assistant.threads.setSuggestedPrompts")[0]
    assert "thread_ts" not in asked
    assert len(next(iter(slack.prompts.values()))) == 3
    assert "你能帮我做什么？" in str(slack.prompts)
    await slack.open_home("U0ANA", "D0ANA", tab="home")
    await asyncio.sleep(0.1)
    assert len(slack.prompts) == 1


async def test_an_old_app_is_offered_prompts_in_its_thread(slack_server: WebServer, slack: FakeSlack) -> None:
    thread = {"channel_id": "D0ANA", "user_id": "U0ANA", "thread_ts": "1700000000.000001"}
    body = slack.callback({"type": "assistant_thread_started", "assistant_thread": thread})
    assert await slack.deliver(slack_server.url, body) == 200
    await until(lambda: slack.called("assistant.threads.setSuggestedPrompts"))
    assert slack.called("assistant.threads.setSuggestedPrompts")[0]["thread_ts"] == "1700000000.000001"
