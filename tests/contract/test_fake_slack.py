"""The fake Slack behaves as documented, for slack_sdk and a small app.

Myna is not involved: the fake is tested with Slack's own Python library.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from slack_sdk.errors import SlackApiError
from slack_sdk.signature import SignatureVerifier
from slack_sdk.socket_mode.aiohttp import SocketModeClient
from slack_sdk.socket_mode.request import SocketModeRequest
from slack_sdk.socket_mode.response import SocketModeResponse
from slack_sdk.web.async_client import AsyncWebClient
from yarl import URL

from tests.builders.waiting import until
from tests.fakes.slack.oauth import Consent
from tests.fakes.slack.records import APP_TOKEN, BOT, CLIENT_ID, CLIENT_SECRET, SECRET, TEAM, TOKEN, Json
from tests.fakes.slack.server import FakeSlack

RECIPIENT = {"recipient_team_id": TEAM, "recipient_user_id": "U0ANA"}
FEEDBACK = {
    "type": "context_actions",
    "elements": [
        {
            "type": "feedback_buttons",
            "action_id": "feedback",
            "positive_button": {"text": {"type": "plain_text", "text": "Good"}, "value": "good"},
            "negative_button": {"text": {"type": "plain_text", "text": "Bad"}, "value": "bad"},
        }
    ],
}
MODAL = {
    "type": "modal",
    "callback_id": "why",
    "title": {"type": "plain_text", "text": "What was wrong?"},
    "submit": {"type": "plain_text", "text": "Send"},
    "blocks": [
        {
            "type": "input",
            "block_id": "why",
            "label": {"type": "plain_text", "text": "Why?"},
            "element": {"type": "plain_text_input", "action_id": "text"},
        }
    ],
}


@pytest.fixture
async def client(bare_slack: FakeSlack) -> AsyncIterator[AsyncWebClient]:
    async with client_of(bare_slack, TOKEN) as made:
        yield made


@asynccontextmanager
async def client_of(slack: FakeSlack, token: str) -> AsyncIterator[AsyncWebClient]:
    async with aiohttp.ClientSession() as session:
        yield AsyncWebClient(token, base_url=slack.url, session=session, retry_handlers=[])


async def refusal(call: Any) -> str:
    """Return the error code that a call ends in."""
    with pytest.raises(SlackApiError) as caught:
        await call
    return str(caught.value.response["error"])


class SmallApp:
    """App that answers every request with `status` and keeps it; fails on a wrong signature."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, str], Any]] = []
        self.status = 200
        self.headers: dict[str, str] = {}
        self.answer: Any = ""
        self.delay = 0.0

    async def handle(self, request: web.Request) -> web.Response:
        content = await request.read()
        assert SignatureVerifier(SECRET).is_valid_request(content, dict(request.headers))
        if request.content_type == "application/json":
            body = json.loads(content)
        else:
            form = dict(await request.post())
            body = json.loads(str(form["payload"])) if "payload" in form else form
        self.heard.append((request.path, dict(request.headers), body))
        await asyncio.sleep(self.delay)
        if isinstance(self.answer, str):
            return web.Response(status=self.status, headers=self.headers, text=self.answer)
        return web.json_response(self.answer, status=self.status, headers=self.headers)

    def events(self) -> list[Json]:
        return [body["event"] for path, _, body in self.heard if path == "/slack/events"]


@pytest.fixture
async def app(bare_slack: FakeSlack) -> AsyncIterator[SmallApp]:
    made = SmallApp()
    server = web.Application()
    server.add_routes([web.post("/slack/{what}", made.handle)])
    runner = web.AppRunner(server, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    bare_slack.bot_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


# --- messages ---


async def test_a_post_an_edit_and_a_reaction_are_read_back(bare_slack: FakeSlack, client: AsyncWebClient) -> None:
    root = await bare_slack.say("hello", thread_ts=None)
    posted = await client.chat_postMessage(
        channel="C0SHOP",
        thread_ts=root,
        markdown_text="**hi**",
        metadata={"event_type": "reply", "event_payload": {"id": "7"}},
    )
    await client.chat_update(channel="C0SHOP", ts=posted["ts"], markdown_text="**ho**")
    await client.reactions_add(channel="C0SHOP", timestamp=root, name="eyes")
    read = await client.conversations_replies(channel="C0SHOP", ts=root, include_all_metadata=True)
    assert [one["text"] for one in read["messages"]] == ["hello", "**ho**"]
    assert read["messages"][0]["reactions"] == [{"name": "eyes", "users": [BOT], "count": 1}]
    assert read["messages"][1]["metadata"]["event_payload"] == {"id": "7"}
    assert read["messages"][1]["edited"]["user"] == BOT
    assert bare_slack.texts_in(root) == ["**ho**"]
    unseen = await client.conversations_replies(channel="C0SHOP", ts=root)
    assert "metadata" not in unseen["messages"][1]


async def test_threads_are_paged_and_a_deleted_root_leaves_a_tombstone(
    bare_slack: FakeSlack, client: AsyncWebClient
) -> None:
    root = (await client.chat_postMessage(channel="D0ANA", text="root"))["ts"]
    for number in range(4):
        await client.chat_postMessage(channel="D0ANA", thread_ts=root, text=str(number))
    bare_slack.page_size = 2
    pages = []
    async for page in await client.conversations_replies(channel="D0ANA", ts=root):
        pages.append([one["text"] for one in page["messages"]])
    assert pages == [["root", "0"], ["1", "2"], ["3"]]
    await client.chat_delete(channel="D0ANA", ts=root)
    read = await client.conversations_replies(channel="D0ANA", ts=root, limit=1)
    assert read["messages"][0]["subtype"] == "tombstone"
    assert await refusal(client.chat_update(channel="D0ANA", ts=root, text="again")) == "message_not_found"


ON = {"channel": "C0SHOP"}
IN_THREAD = {"channel": "C0SHOP", "thread_ts": "ROOT"}
SESSION = {"channel_id": "C0SHOP", "thread_ts": "ROOT"}


@pytest.mark.parametrize(
    ("method", "given", "error"),
    [
        ("chat.postMessage", {"text": "x"}, "invalid_arguments"),
        ("chat.postMessage", {"channel": "C0NONE", "text": "x"}, "channel_not_found"),
        ("chat.postMessage", {"channel": "C0OTHERS", "text": "x"}, "not_in_channel"),
        ("chat.postMessage", ON, "no_text"),
        ("chat.postMessage", {**ON, "text": "x", "markdown_text": "y"}, "markdown_text_conflict"),
        ("chat.postMessage", {**ON, "text": "x" * 40_001}, "msg_too_long"),
        ("chat.postMessage", {**ON, "markdown_text": "x" * 12_001}, "msg_too_long"),
        ("chat.postMessage", {**ON, "blocks": [{"type": "divider"}] * 51}, "invalid_blocks"),
        ("chat.postMessage", {**ON, "blocks": [{"type": "marquee"}]}, "invalid_blocks"),
        ("chat.postMessage", {**ON, "text": "x", "thread_ts": "abc"}, "invalid_thread_ts"),
        ("chat.update", {**ON, "ts": "1.2", "text": "x"}, "message_not_found"),
        ("chat.update", {**ON, "ts": "ROOT", "text": "x"}, "cant_update_message"),
        ("chat.update", {**ON, "ts": "OWN", "text": "x" * 4_001}, "msg_too_long"),
        ("chat.delete", {**ON, "ts": "ROOT"}, "cant_delete_message"),
        ("chat.postEphemeral", {**ON, "user": "U0NONE", "text": "x"}, "user_not_in_channel"),
        ("conversations.replies", {**ON, "ts": "1.2"}, "thread_not_found"),
        ("conversations.open", {"users": "U0NONE"}, "user_not_found"),
        ("users.info", {"user": "U0NONE"}, "user_not_found"),
        ("reactions.add", {**ON, "timestamp": "1.2", "name": "eyes"}, "message_not_found"),
        ("reactions.remove", {**ON, "timestamp": "ROOT", "name": "eyes"}, "no_reaction"),
        ("chat.startStream", IN_THREAD, "missing_recipient_team_id"),
        ("chat.startStream", {**IN_THREAD, "recipient_team_id": TEAM}, "missing_recipient_user_id"),
        ("chat.startStream", {**IN_THREAD, **RECIPIENT, "recipient_user_id": BOT}, "user_not_found"),
        ("chat.startStream", {**IN_THREAD, **RECIPIENT, "recipient_team_id": "T9"}, "team_not_found"),
        ("chat.appendStream", {**ON, "ts": "OWN", "markdown_text": "x"}, "message_not_in_streaming_state"),
        ("chat.appendStream", {**ON, "ts": "ROOT", "markdown_text": "x"}, "message_not_owned_by_app"),
        ("agents.sessions.setStatus", {**SESSION, "status": "busy"}, "invalid_arguments"),
        (
            "agents.sessions.setStatus",
            {**SESSION, "thread_ts": "1700000000.000001", "status": "active"},
            "thread_not_found",
        ),
        (
            "assistant.threads.setSuggestedPrompts",
            {"channel_id": "C0SHOP", "prompts": [{"title": "a", "message": "b"}] * 5},
            "invalid_arguments",
        ),
        ("views.open", {"trigger_id": "1.2.3", "view": MODAL}, "invalid_trigger_id"),
        ("views.update", {"view_id": "V1", "view": MODAL}, "not_found"),
        ("chat.sing", {}, "unknown_method"),
    ],
)
@pytest.mark.parametrize("form", [False, True])
async def test_wrong_calls_get_slacks_own_errors(
    bare_slack: FakeSlack, client: AsyncWebClient, method: str, given: Json, error: str, form: bool
) -> None:
    bare_slack.channel("C0OTHERS").members.clear()
    root = bare_slack.message("hello")["event"]["ts"]
    own = (await client.chat_postMessage(channel="C0SHOP", text="own"))["ts"]
    given = {key: {"ROOT": root, "OWN": own}.get(str(value), value) for key, value in given.items()}
    if form:
        given = {key: value if isinstance(value, str) else json.dumps(value) for key, value in given.items()}
    form = form or method.startswith(("conversations.", "users."))  # Slack reads no JSON there
    call = client.api_call(method, data=given) if form else client.api_call(method, json=given)
    assert await refusal(call) == error


async def test_tokens_and_scopes_are_checked(bare_slack: FakeSlack, client: AsyncWebClient) -> None:
    async with aiohttp.ClientSession() as session, session.get(bare_slack.url + "auth.test") as response:
        assert (await response.json())["error"] == "not_authed"
    async with client_of(bare_slack, "xoxb-none") as stranger:
        assert await refusal(stranger.auth_test()) == "invalid_auth"
    by = bare_slack.installations[TOKEN]
    by.scopes = "im:history"
    with pytest.raises(SlackApiError) as caught:
        await client.chat_postMessage(channel="C0SHOP", text="x")
    assert {key: caught.value.response[key] for key in ("error", "needed", "provided")} == {
        "error": "missing_scope",
        "needed": "chat:write",
        "provided": "im:history",
    }
    by.expires_at = bare_slack.clock.now() + 60
    assert (await client.auth_test())["user_id"] == BOT
    bare_slack.clock.advance(61)
    assert await refusal(client.auth_test()) == "token_expired"
    by.expires_at = None
    await client.auth_revoke()
    assert await refusal(client.auth_test()) == "token_revoked"


async def test_users_have_their_locale(bare_slack: FakeSlack, client: AsyncWebClient) -> None:
    shown = await client.users_info(user="U0LIN", include_locale=True)
    assert shown["user"]["locale"] == "zh-CN"
    assert (await client.conversations_open(users="U0ANA"))["channel"]["id"] == "D0ANA"
    assert (await client.conversations_info(channel="D0ANA"))["channel"]["user"] == "U0ANA"


# --- limits and troubles ---


async def test_rate_limits_count_by_method_workspace_and_channel(bare_slack: FakeSlack, client: AsyncWebClient) -> None:
    bare_slack.limits = True
    await client.chat_postMessage(channel="C0SHOP", text="1")
    await client.chat_postMessage(channel="D0ANA", text="1")
    with pytest.raises(SlackApiError) as caught:
        await client.chat_postMessage(channel="C0SHOP", text="2")
    assert (caught.value.response.status_code, caught.value.response.headers["Retry-After"]) == (429, "1")
    bare_slack.clock.advance(1.0)
    root = (await client.chat_postMessage(channel="C0SHOP", text="2"))["ts"]
    for _ in range(20):
        await client.chat_startStream(channel="C0SHOP", thread_ts=root, **RECIPIENT)
    assert await refusal(client.chat_startStream(channel="C0SHOP", thread_ts=root, **RECIPIENT)) == "ratelimited"
    bare_slack.clock.advance(60)
    await client.chat_startStream(channel="C0SHOP", thread_ts=root, **RECIPIENT)


def slack_has_heard(slack: FakeSlack, calls: int) -> bool:
    return len(slack.calls) == calls


async def test_each_trouble_affects_one_call(bare_slack: FakeSlack, client: AsyncWebClient) -> None:
    bare_slack.troubles["chat.postMessage"].extend(
        ["ratelimited", "internal_error", "http_500", "drops", "drops after"]
    )

    async def post() -> Any:
        return await client.chat_postMessage(channel="C0SHOP", text="x")

    assert await refusal(post()) == "ratelimited"
    assert await refusal(post()) == "internal_error"
    for _ in range(3):
        with pytest.raises((SlackApiError, aiohttp.ClientError)):
            await post()
    await post()
    assert len(bare_slack.called("chat.postMessage")) == 6
    assert len(bare_slack.posted) == 2
    bare_slack.troubles["chat.postMessage"].extend(["hangs", "hangs after"])
    for shown in (2, 3):
        calls, unanswered = len(bare_slack.calls), asyncio.create_task(post())
        await until(partial(slack_has_heard, bare_slack, calls + 1))
        assert len(bare_slack.posted) == shown
        assert not (await asyncio.wait([unanswered], timeout=0.2))[0]
        unanswered.cancel()


# --- streams and sessions ---


async def start(slack: FakeSlack, client: AsyncWebClient, **more: Any) -> tuple[str, str]:
    """Start a stream. Return its thread and its message."""
    root = slack.message("hello", channel="D0ANA")["event"]["ts"]
    started = await client.chat_startStream(channel="D0ANA", thread_ts=root, **more)
    return root, started["ts"]


async def test_a_stream_is_visible_while_it_grows_and_after_it_stops(
    bare_slack: FakeSlack, client: AsyncWebClient
) -> None:
    root, ts = await start(bare_slack, client, markdown_text="In ")
    await client.agents_sessions_setStatus(channel_id="D0ANA", thread_ts=root, status="processing", title="Roses")
    await client.chat_appendStream(channel="D0ANA", ts=ts, markdown_text="May")
    read = await client.conversations_replies(channel="D0ANA", ts=root)
    assert (read["messages"][1]["text"], read["messages"][1]["streaming_state"]) == ("In May", "in_progress")
    assert await refusal(client.chat_update(channel="D0ANA", ts=ts, text="x")) == "streaming_state_conflict"
    assert await refusal(client.chat_delete(channel="D0ANA", ts=ts)) == "cant_delete_message"
    await client.chat_stopStream(channel="D0ANA", ts=ts, markdown_text=".", blocks=[FEEDBACK])
    assert bare_slack.texts_in(root) == ["In May."]
    assert bare_slack.posted[0]["blocks"][0]["type"] == "context_actions"
    session = bare_slack.session("D0ANA", root)
    assert session is not None
    assert (session.statuses, session.title) == (["processing", "active"], "Roses")
    for call in (client.chat_appendStream, client.chat_stopStream):
        assert await refusal(call(channel="D0ANA", ts=ts, markdown_text="x")) == "message_not_in_streaming_state"
    await client.chat_update(channel="D0ANA", ts=ts, markdown_text="In June.")
    assert bare_slack.texts_in(root) == ["In June."]


async def test_an_old_or_idle_stream_ends_and_keeps_its_text(bare_slack: FakeSlack, client: AsyncWebClient) -> None:
    root, ts = await start(bare_slack, client, markdown_text="a")
    for _ in range(14):
        bare_slack.clock.advance(20)
        await client.chat_appendStream(channel="D0ANA", ts=ts, markdown_text="b")
    bare_slack.clock.advance(20)
    assert await refusal(client.chat_stopStream(channel="D0ANA", ts=ts)) == "message_not_in_streaming_state"
    assert bare_slack.texts_in(root) == ["a" + "b" * 14]
    _, idle = await start(bare_slack, client)
    bare_slack.clock.advance(31)
    assert await refusal(client.chat_appendStream(channel="D0ANA", ts=idle, markdown_text="x")) == (
        "message_not_in_streaming_state"
    )


async def test_a_stream_keeps_its_content_type(bare_slack: FakeSlack, client: AsyncWebClient) -> None:
    root, ts = await start(bare_slack, client, markdown_text="a")
    chunk = {"type": "markdown_text", "text": "b"}
    assert await refusal(client.chat_appendStream(channel="D0ANA", ts=ts, chunks=[chunk])) == "streaming_mode_mismatch"
    streamer = await client.chat_stream(channel="D0ANA", thread_ts=root, buffer_size=1)
    await streamer.append(markdown_text="whole ")
    await streamer.append(markdown_text="answer")
    await streamer.stop()
    assert bare_slack.texts_in(root) == ["a", "whole answer"]


async def test_stop_ends_the_streams_of_the_thread(
    bare_slack: FakeSlack, client: AsyncWebClient, app: SmallApp
) -> None:
    root, ts = await start(bare_slack, client, markdown_text="a")
    await bare_slack.stop("D0ANA", root)
    assert app.events()[-1] | {"event_ts": ""} == {
        "type": "agent_session_stopped",
        "channel": "D0ANA",
        "thread_ts": root,
        "user": "U0ANA",
        "streaming_message_ts": [ts],
        "event_ts": "",
    }
    assert await refusal(client.chat_appendStream(channel="D0ANA", ts=ts, markdown_text="b")) == "stopped_by_user"
    assert await refusal(client.chat_stopStream(channel="D0ANA", ts=ts)) == "message_not_in_streaming_state"


async def test_agents_have_sessions_and_other_apps_a_thread_status(
    bare_slack: FakeSlack, client: AsyncWebClient
) -> None:
    root = bare_slack.message("hello", channel="D0ANA")["event"]["ts"]
    where = {"channel_id": "D0ANA", "thread_ts": root}
    await client.agents_sessions_setStatus(**where, status="active", title="One")
    await client.agents_sessions_setStatus(**where, status="processing", title="Two")
    session = bare_slack.session("D0ANA", root)
    assert session is not None
    assert session.title == "One"
    await client.agents_sessions_rename(**where, title="Three")
    assert session.title == "Three"
    prompts = [{"title": "a", "message": "b"}]
    await client.assistant_threads_setSuggestedPrompts(**where, prompts=prompts)
    assert bare_slack.prompts == {}
    await client.assistant_threads_setSuggestedPrompts(channel_id="D0ANA", prompts=prompts)
    assert list(bare_slack.prompts.values()) == [prompts]
    bare_slack.is_agent = False
    assert await refusal(client.agents_sessions_setStatus(**where, status="active")) == "not_authorized"
    await client.assistant_threads_setStatus(**where, status="is thinking")
    assert bare_slack.thread_status("D0ANA", root) == "is thinking"
    bare_slack.clock.advance(121)
    assert bare_slack.thread_status("D0ANA", root) == ""


# --- deliveries ---


async def test_mentions_arrive_twice_and_events_may_be_redelivered(bare_slack: FakeSlack, app: SmallApp) -> None:
    bare_slack.mention_order = "app_mention first"
    ts = await bare_slack.say(f"<@{BOT}> hello")
    assert [(one["type"], one["ts"]) for one in app.events()] == [("app_mention", ts), ("message", ts)]
    app.heard.clear()
    bare_slack.duplicates = 2
    await bare_slack.say("hello", channel="D0ANA")
    bodies = [body for _, _, body in app.heard]
    assert len({one["event_id"] for one in bodies}) == 3
    assert bodies[0]["event"]["channel_type"] == "im"
    assert bodies[0]["authorizations"] == [
        {"enterprise_id": None, "team_id": TEAM, "user_id": BOT, "is_bot": True, "is_enterprise_install": False}
    ]


async def test_failed_deliveries_are_retried_after_0_1_and_5_minutes(bare_slack: FakeSlack, app: SmallApp) -> None:
    app.status = 503
    await bare_slack.say("hello", channel="D0ANA")
    await until(lambda: len(app.heard) == 2)
    bare_slack.clock.advance(60)
    await until(lambda: len(app.heard) == 3)
    app.status = 200
    bare_slack.clock.advance(300)
    await until(lambda: len(app.heard) == 4)
    told = [(headers.get("X-Slack-Retry-Num"), headers.get("X-Slack-Retry-Reason")) for _, headers, _ in app.heard]
    assert told == [(None, None), ("1", "http_error"), ("2", "http_error"), ("3", "http_error")]
    assert len({body["event_id"] for _, _, body in app.heard}) == 1
    assert [(one.attempt, one.status) for one in bare_slack.deliveries] == [(0, 503), (1, 503), (2, 503), (3, 200)]


async def test_slow_absent_and_no_retry_apps(bare_slack: FakeSlack, app: SmallApp) -> None:
    app.delay = 0.5
    slow = asyncio.create_task(bare_slack.say("slow", channel="D0ANA"))
    await until(lambda: len(app.heard) == 1)
    bare_slack.clock.advance(3)
    await slow
    await until(lambda: len(app.heard) == 2)
    assert app.heard[1][1]["X-Slack-Retry-Reason"] == "http_timeout"
    app.delay, app.status, app.headers = 0.0, 500, {"X-Slack-No-Retry": "1"}
    await bare_slack.say("never again", channel="D0ANA")
    bare_slack.clock.advance(600)
    await asyncio.sleep(0.1)
    assert [one.attempt for one in bare_slack.deliveries if one.status == 500] == [0]
    bare_slack.bot_url = "http://127.0.0.1:9"
    await bare_slack.say("nobody there", channel="D0ANA")
    assert bare_slack.deliveries[-1].status == 0


async def test_an_app_may_receive_its_own_messages(
    bare_slack: FakeSlack, client: AsyncWebClient, app: SmallApp
) -> None:
    bare_slack.echoes = True
    await client.chat_postMessage(channel="D0ANA", text="mine")
    await until(lambda: len(app.heard) == 1)
    assert (app.events()[0]["bot_id"], app.events()[0]["channel_type"]) == ("B0BOT", "im")


async def test_edits_and_deletions_include_the_previous_message(bare_slack: FakeSlack, app: SmallApp) -> None:
    ts = await bare_slack.say("one", channel="D0ANA")
    await bare_slack.edit("D0ANA", ts, "two")
    await bare_slack.delete("D0ANA", ts)
    changed, deleted = app.events()[1:]
    assert (changed["subtype"], changed["message"]["text"], changed["previous_message"]["text"]) == (
        "message_changed",
        "two",
        "one",
    )
    assert changed["message"]["edited"]["user"] == "U0ANA"
    assert (deleted["subtype"], deleted["deleted_ts"]) == ("message_deleted", ts)


# --- interactivity ---


async def test_a_click_opens_a_modal_within_three_seconds_once(
    bare_slack: FakeSlack, client: AsyncWebClient, app: SmallApp
) -> None:
    posted = await client.chat_postMessage(channel="D0ANA", text="x", blocks=[FEEDBACK])
    assert (await bare_slack.click("D0ANA", posted["ts"], "feedback", "bad")).status == 200
    payload = app.heard[-1][2]
    assert (payload["type"], payload["actions"][0]["type"], payload["actions"][0]["value"]) == (
        "block_actions",
        "feedback_buttons",
        "bad",
    )
    opened = await client.views_open(trigger_id=payload["trigger_id"], view=MODAL)
    again = client.views_open(trigger_id=payload["trigger_id"], view=MODAL)
    assert await refusal(again) == "exchanged_trigger_id"
    await bare_slack.click("D0ANA", posted["ts"], "feedback", "bad")
    bare_slack.clock.advance(3.1)
    late = client.views_open(trigger_id=app.heard[-1][2]["trigger_id"], view=MODAL)
    assert await refusal(late) == "expired_trigger_id"
    view = bare_slack.views[opened["view"]["id"]]
    app.answer = {"response_action": "errors", "errors": {"why": "Too short"}}
    values = {"why": {"text": {"type": "plain_text_input", "value": "no"}}}
    await bare_slack.submit(view, values)
    assert (view.open, view.errors) == (True, {"why": "Too short"})
    app.answer = ""
    await bare_slack.submit(view, values)
    assert (view.open, app.heard[-1][2]["view"]["state"]["values"]) == (False, values)
    assert await refusal(client.views_update(view_id=view.id, view=MODAL)) == "not_found"


async def test_a_command_has_one_response_and_five_later_ones(bare_slack: FakeSlack, app: SmallApp) -> None:
    app.answer = {"response_type": "ephemeral", "text": "at once"}
    answer = await bare_slack.slash("/myna", "help")
    assert answer.body["text"] == "at once"
    fields = app.heard[-1][2]
    assert (fields["command"], fields["text"], fields["user_id"]) == ("/myna", "help", "U0ANA")
    async with aiohttp.ClientSession() as session:
        statuses = []
        for number in range(6):
            kind = "in_channel" if number else "ephemeral"
            sent = {"text": str(number), "response_type": kind}
            async with session.post(fields["response_url"], json=sent) as response:
                statuses.append(response.status)
    assert statuses == [200] * 5 + [404]
    assert [one.text for one in bare_slack.ephemerals] == ["at once", "0"]
    assert [one["text"] for one in bare_slack.posted] == ["1", "2", "3", "4"]


# --- installing ---


async def install(slack: FakeSlack, client: AsyncWebClient, **more: Any) -> Any:
    """Pass the consent page, and exchange the code."""
    query = {"client_id": CLIENT_ID, "scope": "chat:write", "state": "s1", "redirect_uri": "http://127.0.0.1:9/back"}
    page = slack.url.removesuffix("/api/") + "/oauth/v2/authorize"
    async with aiohttp.ClientSession() as session, session.get(page, params=query, allow_redirects=False) as response:
        assert response.status == 302
        answer = URL(response.headers["Location"]).query
    assert answer["state"] == "s1"
    if "error" in answer:
        return answer["error"]
    keys = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
    made = await client.oauth_v2_access(**keys, code=answer["code"], redirect_uri=query["redirect_uri"])
    assert await refusal(client.oauth_v2_access(**keys, code=answer["code"])) == "invalid_code"
    return made.data


async def test_an_installation_rotates_its_tokens_and_ends(
    bare_slack: FakeSlack, client: AsyncWebClient, app: SmallApp
) -> None:
    bare_slack.add_team("T0NEW")
    bare_slack.oauth.consent = Consent("T0NEW", denied=True)
    assert await install(bare_slack, client) == "access_denied"
    bare_slack.oauth.consent = Consent("T0NEW")
    bare_slack.oauth.rotates = True
    made = await install(bare_slack, client)
    assert (made["team"]["id"], made["enterprise"], made["scope"]) == ("T0NEW", None, "chat:write")
    keys = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, "grant_type": "refresh_token"}
    turned = await client.oauth_v2_access(**keys, refresh_token=made["refresh_token"])
    assert await refusal(client.oauth_v2_access(**keys, refresh_token=made["refresh_token"])) == (
        "invalid_refresh_token"
    )
    bare_slack.clock.advance(43_200)
    async with client_of(bare_slack, made["access_token"]) as old, client_of(bare_slack, turned["access_token"]) as new:
        assert await refusal(old.auth_test()) == "token_expired"
        assert await refusal(new.auth_test()) == "token_expired"
        bare_slack.installations[turned["access_token"]].expires_at = None
        assert (await new.auth_test())["team_id"] == "T0NEW"
        await bare_slack.uninstall("T0NEW")
        assert await refusal(new.auth_test()) == "account_inactive"
    assert [one["type"] for one in app.events()] == ["tokens_revoked", "app_uninstalled"]
    assert app.events()[0]["tokens"] == {"oauth": [], "bot": [BOT]}


async def test_one_installation_serves_an_organization(
    bare_slack: FakeSlack, client: AsyncWebClient, app: SmallApp
) -> None:
    bare_slack.add_team("T0NORTH", "E0FERN")
    bare_slack.add_team("T0SOUTH", "E0FERN")
    bare_slack.oauth.consent = Consent("T0NORTH", enterprise_wide=True)
    made = await install(bare_slack, client)
    assert (made["team"], made["enterprise"]["id"], made["is_enterprise_install"]) == (None, "E0FERN", True)
    root = await bare_slack.say("hello", channel="C0SHOP", team="T0SOUTH")
    body = app.heard[-1][2]
    assert body["context_team_id"] == "T0SOUTH"
    assert body["authorizations"][0] == {
        "enterprise_id": "E0FERN",
        "team_id": None,
        "user_id": BOT,
        "is_bot": True,
        "is_enterprise_install": True,
    }
    async with client_of(bare_slack, made["access_token"]) as wide:
        started = await wide.chat_startStream(
            channel="C0SHOP", thread_ts=root, recipient_team_id="E0FERN", recipient_user_id="U0ANA"
        )
    assert bare_slack.posted[0]["team"] == "T0SOUTH"
    assert bare_slack.channel("C0SHOP").find(started["ts"]) is None


# --- sockets ---


class Listener:
    """slack_sdk's socket client, which acknowledges everything."""

    def __init__(self, slack: FakeSlack) -> None:
        self.requests: list[SocketModeRequest] = []
        self.deaf = False
        self.client = SocketModeClient(
            app_token=APP_TOKEN, web_client=AsyncWebClient(base_url=slack.url), ping_interval=1
        )
        self.client.socket_mode_request_listeners.append(self._listen)

    async def _listen(self, client: Any, request: SocketModeRequest) -> None:
        self.requests.append(request)
        if not self.deaf:
            payload = {"text": "heard"} if request.type == "slash_commands" else None
            await client.send_socket_mode_response(SocketModeResponse(request.envelope_id, payload))


@asynccontextmanager
async def listening(slack: FakeSlack) -> AsyncIterator[Listener]:
    listener = Listener(slack)
    connected = len(slack.sockets.connections)
    await listener.client.connect()
    await until(lambda: len(slack.sockets.connections) > connected)
    try:
        yield listener
    finally:
        await listener.client.close()


async def test_sockets_share_events_and_unacknowledged_ones_return(bare_slack: FakeSlack) -> None:
    await bare_slack.say("before anybody listened", channel="D0ANA")
    async with listening(bare_slack) as one:
        await until(lambda: len(one.requests) == 1)
        async with listening(bare_slack) as other:
            for number in range(4):
                await bare_slack.say(str(number), channel="D0ANA")
            await until(lambda: len(one.requests) + len(other.requests) == 5)
            assert other.requests
            answer = await bare_slack.slash("/myna", "help")
            assert answer.body == {"text": "heard"}
            one.deaf = other.deaf = True
            before = len(one.requests) + len(other.requests)
            await bare_slack.say("who listens?", channel="D0ANA")
            await until(lambda: len(one.requests) + len(other.requests) == before + 1)
            one.deaf = other.deaf = False
            bare_slack.clock.advance(bare_slack.sockets.again_after)
            await until(lambda: len(one.requests) + len(other.requests) == before + 2)
            assert [request.retry_attempt for request in one.requests + other.requests].count(1) == 1


async def test_events_of_a_broken_socket_arrive_on_the_next(bare_slack: FakeSlack) -> None:
    async with aiohttp.ClientSession() as session:
        first = await session.ws_connect(bare_slack.sockets.new_address())
        assert (await first.receive_json())["type"] == "hello"
        await bare_slack.say("hello", channel="D0ANA")
        sent = await first.receive_json()
        assert (sent["type"], sent["retry_attempt"], sent["accepts_response_payload"]) == ("events_api", 0, False)
        await bare_slack.sockets.drop()
        second = await session.ws_connect(bare_slack.sockets.new_address())
        assert (await second.receive_json())["type"] == "hello"
        again = await second.receive_json()
        assert (again["envelope_id"], again["retry_attempt"]) == (sent["envelope_id"], 1)
        await second.send_json({"envelope_id": again["envelope_id"]})
        await second.close()
        await first.close()


async def test_sockets_closed_by_slack_are_reopened(bare_slack: FakeSlack) -> None:
    async with listening(bare_slack) as listener:
        await bare_slack.sockets.ask_to_refresh("refresh_requested", close=False)
        await until(lambda: len(bare_slack.called("apps.connections.open")) == 2)
        await until(lambda: len(bare_slack.sockets.connections) == 1)
        await bare_slack.say("hello again", channel="D0ANA")
        await until(lambda: len(listener.requests) == 1)


async def test_a_ticket_works_once_and_sockets_are_at_most_ten(bare_slack: FakeSlack) -> None:
    async with aiohttp.ClientSession() as session:
        tickets = [bare_slack.sockets.new_address() for _ in range(11)]
        sockets = [await session.ws_connect(one) for one in tickets]
        told = [await one.receive_json() for one in sockets]
        assert [one["type"] for one in told] == ["hello"] * 10 + ["disconnect"]
        assert (told[9]["num_connections"], told[10]["reason"]) == (10, "too_many_websockets")
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(tickets[0])
        for one in sockets:
            await one.close()
        bare_slack.sockets.enabled = False
        shut = await session.ws_connect(bare_slack.sockets.new_address())
        assert (await shut.receive_json())["reason"] == "link_disabled"
        await shut.close()
