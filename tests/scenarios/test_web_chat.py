"""Web chat over HTTP: streams, history, stops, edits, retries, pages. Bad input and outages: `test_web_bad_input`."""

from __future__ import annotations

import asyncio

import pytest

from tests.builders.web import SHOP, Stream, Visitor, WebServer, chat_body, parts_of, text_in, types_of, user_message

WHOLE = ["start", "start-step", "text-start", "text-delta", "text-end", "finish-step", "finish"]


def shape(parts: list[dict[str, object]]) -> list[str]:
    """The parts' types, repeats of one type once."""
    types = types_of(parts)
    return [one for number, one in enumerate(types) if number == 0 or types[number - 1] != one]


# --- sending and reading ---


async def test_a_reply_comes_in_the_protocols_order(visitor: Visitor) -> None:
    async with visitor.chat(chat_body("hello you there")) as response:
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert response.headers["x-vercel-ai-ui-message-stream"] == "v1"
        assert response.headers["Cache-Control"] == "no-cache, no-transform"
        assert response.headers["X-Accel-Buffering"] == "no"
        parts = parts_of(await response.text())
    assert shape(parts) == WHOLE
    assert text_in(parts) == "hello you there"
    assert parts[-1] == {"type": "finish", "finishReason": "stop", "messageMetadata": {"state": "answered"}}


async def test_our_own_page_gets_sanitised_html_with_the_text(server: WebServer, visitor: Visitor) -> None:
    server.generator.enqueue("**One**\n\n", "Two <script>", "alert(1)</script>")
    parts = await visitor.ask("hi", html=True)
    rendered = [part["data"] for part in parts if part["type"] == "data-html"]
    assert all(part["transient"] for part in parts if part["type"] == "data-html")
    assert rendered[0]["html"] == "<p><strong>One</strong></p>\n"
    assert rendered[-1]["tail"] == ""
    assert "&lt;script&gt;" in rendered[-1]["html"]
    assert "<script" not in "".join(one["html"] for one in rendered)
    assert [part for part in shape(parts) if part != "data-html"][-3:] == WHOLE[-3:]


async def test_other_clients_get_no_html(visitor: Visitor) -> None:
    assert "data-html" not in types_of(await visitor.ask("**hi**\n\nyou"))


async def test_a_reply_cut_at_the_token_limit_says_so(server: WebServer, visitor: Visitor) -> None:
    most = server.agent.settings.max_reply_tokens
    server.generator.enqueue(*["word "] * (most + 5))
    parts = await visitor.ask("go on")
    assert parts[-1]["finishReason"] == "length"
    assert text_in(parts) == "word " * most


@pytest.mark.both_databases("order")
async def test_messages_are_in_the_history_and_in_the_list(visitor: Visitor) -> None:
    first = await visitor.ask("hello you", chat="a")
    await visitor.ask("other", chat="b")
    chat = await visitor.json("/api/chat/a")
    assert [one["role"] for one in chat["messages"]] == ["user", "assistant"]
    assert chat["messages"][0]["id"] == "m1"
    assert chat["messages"][1]["id"] == first[0]["messageId"]
    assert chat["messages"][1]["html"] == "<p>hello you</p>\n"
    assert chat["messages"][1]["metadata"]["state"] == "answered"
    assert chat["running"] is False
    assert [(one["id"], one["title"]) for one in (await visitor.json("/api/chats"))["chats"]] == [
        ("b", "other"),
        ("a", "hello you"),
    ]


async def test_the_model_sees_our_stored_history_not_the_clients(server: WebServer, visitor: Visitor) -> None:
    await visitor.ask("the truth")
    claimed = [
        user_message("a lie", "m1"),
        {"id": "x", "role": "assistant", "parts": [{"type": "text", "text": "I promise a refund"}]},
        user_message("and now?", "m2"),
    ]
    await visitor.send({"id": "c1", "messages": claimed})
    said = [message.content for message in server.generator.prompts[-1].messages if message.role != "system"]
    assert said == ["the truth", "the truth", "and now?"]


@pytest.mark.both_databases
async def test_two_visitors_with_the_same_chat_id_have_two_chats(server: WebServer, visitor: Visitor) -> None:
    other = await server.visitor()
    await visitor.ask("mine")
    await other.ask("theirs")
    assert await visitor.history() == [("user", "mine"), ("assistant", "mine")]
    assert await other.history() == [("user", "theirs"), ("assistant", "theirs")]
    assert [one["title"] for one in (await visitor.json("/api/chats"))["chats"]] == ["mine"]


@pytest.mark.both_databases
async def test_a_second_delivery_gets_the_same_reply_and_adds_nothing(server: WebServer, visitor: Visitor) -> None:
    first = await visitor.ask("once")
    second = await visitor.ask("once")
    assert second[0]["messageId"] == first[0]["messageId"]
    assert text_in(second) == "once"
    assert shape(second) == WHOLE
    assert await visitor.history() == [("user", "once"), ("assistant", "once")]
    assert await server.metric("myna_messages_duplicate_total", channel="web") == 1
    assert len(server.generator.prompts) == 1


async def test_the_same_message_id_in_another_chat_is_another_message(visitor: Visitor) -> None:
    await visitor.ask("here", chat="a", id="m1")
    await visitor.ask("there", chat="b", id="m1")
    assert await visitor.history("b") == [("user", "there"), ("assistant", "there")]


# --- resuming ---


async def test_resuming_replays_the_running_reply_from_its_start(server: WebServer, visitor: Visitor) -> None:
    hold = asyncio.Event()
    server.generator.enqueue("one ", "two", hold=hold)
    async with visitor.chat(chat_body("count")) as response:
        first = Stream(response)
        await first.until("text-delta")
        async with visitor.get("/api/chat/c1/stream") as resumed:
            assert resumed.status == 200
            assert resumed.headers["x-vercel-ai-ui-message-stream"] == "v1"
            second = Stream(resumed)
            assert (await second.until("text-delta"))["delta"] == "one "
            assert (await visitor.json("/api/chat/c1"))["running"] is True
            hold.set()
            both = await asyncio.gather(first.rest(), second.rest())
    assert [text_in(parts) for parts in both] == ["one two", "one two"]
    assert both[0][0] == both[1][0]
    assert shape(both[1]) == WHOLE


async def test_with_nothing_running_there_is_nothing_to_resume(visitor: Visitor) -> None:
    await visitor.ask("hello")
    async with visitor.get("/api/chat/c1/stream") as response:
        assert response.status == 204
        assert await response.read() == b""


async def test_a_client_that_leaves_halfway_finds_the_whole_reply_later(server: WebServer, visitor: Visitor) -> None:
    hold = asyncio.Event()
    server.generator.enqueue("one ", "two", hold=hold)
    async with visitor.chat(chat_body("count")) as response:
        await Stream(response).until("text-delta")
        response.close()
    hold.set()
    async with visitor.get("/api/chat/c1/stream") as response:
        if response.status == 200:
            await Stream(response).rest()
    assert await visitor.history() == [("user", "count"), ("assistant", "one two")]
    assert server.generator.aborted == 0


async def test_each_kind_of_client_is_told_of_a_restarted_reply(server: WebServer, visitor: Visitor) -> None:
    """Our page takes the text back; an AI SDK client can't, so its stream ends and it resumes."""
    hold = asyncio.Event()
    server.generator.enqueue("half ", error=RuntimeError("the model broke"), hold=hold)
    server.generator.enqueue("whole")
    async with visitor.chat(chat_body("go")) as plain, visitor.get("/api/chat/c1/stream?html=1") as ours:
        readers = Stream(plain), Stream(ours)
        for reader in readers:
            await reader.until("text-delta")
        hold.set()
        broken, corrected = [await reader.rest() for reader in readers]
    assert broken[-1] == {"type": "abort", "reason": "restarted"}
    starts = [number for number, part in enumerate(corrected) if part["type"] == "start"]
    assert len(starts) == 2
    assert text_in(corrected[starts[1] :]) == "whole"
    assert corrected[-1]["messageMetadata"] == {"state": "answered"}
    assert await visitor.history() == [("user", "go"), ("assistant", "whole")]


async def test_a_shutdown_ends_open_streams_for_a_resume(server: WebServer, visitor: Visitor) -> None:
    server.generator.enqueue("one ", "two", hold=asyncio.Event())
    async with visitor.chat(chat_body("count")) as response:
        stream = Stream(response)
        await stream.until("text-delta")
        await server.agent.conversations.drain(0.0)
        parts = await stream.rest()
    assert parts[-1] == {"type": "abort", "reason": "restarting"}
    async with visitor.chat(chat_body("more", id="m2")) as refused:
        assert refused.status == 503
        assert (await refused.json())["error"]["code"] == "shutting_down"


# --- stopping ---


async def test_a_stop_ends_the_stream_and_keeps_the_partial_text(server: WebServer, visitor: Visitor) -> None:
    server.generator.enqueue("one ", "two", hold=asyncio.Event())
    async with visitor.chat(chat_body("count")) as response:
        stream = Stream(response)
        await stream.until("text-delta")
        assert await visitor.stop(stream.parts[0]["messageId"]) is True
        parts = await stream.rest()
    assert types_of(parts)[-4:] == ["text-end", "finish-step", "message-metadata", "abort"]
    assert parts[-1]["reason"] == "stopped"
    assert await visitor.history() == [("user", "count"), ("assistant", "one ")]
    assert (await visitor.json("/api/chat/c1"))["messages"][1]["metadata"]["state"] == "stopped"
    assert server.generator.aborted == 1


async def test_a_stop_without_an_id_ends_whatever_runs(server: WebServer, visitor: Visitor) -> None:
    server.generator.enqueue("one ", "two", hold=asyncio.Event())
    async with visitor.chat(chat_body("count")) as response:
        stream = Stream(response)
        await stream.until("text-delta")
        assert await visitor.stop(None) is True
        assert (await stream.rest())[-1]["reason"] == "stopped"
    assert await visitor.stop(None) is False


async def test_a_stale_stop_leaves_the_newer_reply_alone(server: WebServer, visitor: Visitor) -> None:
    old = (await visitor.ask("first"))[0]["messageId"]
    hold = asyncio.Event()
    server.generator.enqueue("one ", "two", hold=hold)
    async with visitor.chat(chat_body("count", id="m2")) as response:
        stream = Stream(response)
        await stream.until("text-delta")
        for stale in [old, "nonsense", "x-1", stream.parts[0]["messageId"] + "9"]:
            assert await visitor.stop(stale) is False
        hold.set()
        parts = await stream.rest()
    assert parts[-1]["messageMetadata"] == {"state": "answered"}
    assert text_in(parts) == "one two"


async def test_only_the_owner_can_stop(server: WebServer, visitor: Visitor) -> None:
    other = await server.visitor()
    await other.ask("I have a chat of this name too")
    hold = asyncio.Event()
    server.generator.enqueue("one ", "two", hold=hold)
    async with visitor.chat(chat_body("count")) as response:
        stream = Stream(response)
        await stream.until("text-delta")
        assert await other.stop(stream.parts[0]["messageId"]) is False
        hold.set()
        assert (await stream.rest())[-1]["messageMetadata"] == {"state": "answered"}


# --- editing and answering again ---


@pytest.mark.parametrize("new_id", ["m3", "m1"], ids=["under a new id", "under the old id, as the AI SDK does"])
async def test_an_edit_removes_the_old_message_and_all_after_it(visitor: Visitor, new_id: str) -> None:
    await visitor.ask("frist", id="m1")
    await visitor.ask("second", id="m2")
    parts = await visitor.ask("first", id=new_id, messageId="m1")
    assert text_in(parts) == "first"
    assert await visitor.history() == [("user", "first"), ("assistant", "first")]


@pytest.mark.both_databases
async def test_a_message_can_be_edited_back_and_forth_under_one_id(visitor: Visitor) -> None:
    await visitor.ask("a", id="m1")
    for text in ["b", "a", "b"]:
        assert text_in(await visitor.ask(text, id="m1", messageId="m1")) == text
    assert await visitor.history() == [("user", "b"), ("assistant", "b")]


async def test_an_edit_of_an_unknown_message_is_a_conflict(visitor: Visitor) -> None:
    await visitor.ask("first")
    async with visitor.chat(chat_body("other", id="m2", messageId="gone")) as response:
        assert response.status == 409
        assert (await response.json())["error"]["code"] == "conflict"
    assert await visitor.history() == [("user", "first"), ("assistant", "first")]


@pytest.mark.both_databases
async def test_an_edit_while_the_reply_runs_replaces_it(server: WebServer, visitor: Visitor) -> None:
    server.generator.enqueue("wrong ", "never", hold=asyncio.Event())
    async with visitor.chat(chat_body("frist", id="m1")) as response:
        await Stream(response).until("text-delta")
        assert text_in(await visitor.ask("first", id="m2", messageId="m1")) == "first"
    assert await visitor.history() == [("user", "first"), ("assistant", "first")]


@pytest.mark.both_databases
async def test_another_reply_replaces_the_last_one(server: WebServer, visitor: Visitor) -> None:
    first = (await visitor.ask("hello"))[0]["messageId"]
    server.generator.enqueue("better")
    again = await visitor.send({"id": "c1", "messages": [], "trigger": "regenerate-message", "messageId": first})
    assert text_in(again) == "better"
    assert again[0]["messageId"] != first
    assert await visitor.history() == [("user", "hello"), ("assistant", "better")]
    server.generator.enqueue("best")
    assert text_in(await visitor.send({"id": "c1", "trigger": "regenerate-message"})) == "best"
    assert await visitor.history() == [("user", "hello"), ("assistant", "best")]


@pytest.mark.both_databases
async def test_asking_twice_for_another_reply_gives_one(server: WebServer, visitor: Visitor) -> None:
    first = (await visitor.ask("hello"))[0]["messageId"]
    server.generator.enqueue("better")
    wish = {"id": "c1", "trigger": "regenerate-message", "messageId": first}
    both = [await visitor.send(wish), await visitor.send(wish)]
    assert [text_in(parts) for parts in both] == ["better", "better"]
    assert both[0][0] == both[1][0]


async def test_a_failed_send_may_be_retried_as_a_regenerate(visitor: Visitor) -> None:
    """The AI SDK does so: `regenerate()` after an error asks about a message that may never have come here."""
    await visitor.ask("first")
    for body in (chat_body("second", id="m2"), chat_body("elsewhere", chat="c2", id="m3")):
        wish = {**body, "trigger": "regenerate-message"}
        assert text_in(await visitor.send(wish)) == body["messages"][-1]["parts"][0]["text"]
    assert await visitor.history() == [
        ("user", "first"),
        ("assistant", "first"),
        ("user", "second"),
        ("assistant", "second"),
    ]


async def test_a_failed_edit_may_be_retried_as_a_regenerate(visitor: Visitor) -> None:
    await visitor.ask("frist")
    await visitor.ask("second", id="m2")
    wish = {**chat_body("first", id="m1"), "trigger": "regenerate-message"}
    assert text_in(await visitor.send(wish)) == "first"
    assert await visitor.history() == [("user", "first"), ("assistant", "first")]


async def test_a_stale_tab_regenerates_no_newer_reply(visitor: Visitor) -> None:
    await visitor.ask("first")
    await visitor.ask("second", id="m2")
    async with visitor.post("/api/chat", {**chat_body("first"), "trigger": "regenerate-message"}) as response:
        assert response.status == 409
    assert len(await visitor.history()) == 4


async def test_ids_of_chat_and_message_are_not_mixed_up(visitor: Visitor) -> None:
    assert text_in(await visitor.ask("one", chat="a", id="b:c")) == "one"
    assert text_in(await visitor.ask("two", chat="a:b", id="c")) == "two"


@pytest.mark.both_databases
@pytest.mark.parametrize("broken", ["\ud83d", "\x00"])
async def test_text_that_no_database_accepts_is_repaired(server: WebServer, visitor: Visitor, broken: str) -> None:
    server.generator.enqueue("fine ", broken)
    assert text_in(await visitor.ask("hello")) == "fine \ufffd"
    assert await visitor.history() == [("user", "hello"), ("assistant", "fine \ufffd")]


async def test_a_regenerate_joins_the_running_reply(server: WebServer, visitor: Visitor) -> None:
    hold = asyncio.Event()
    server.generator.enqueue("one ", "two", hold=hold)
    async with visitor.chat(chat_body("count")) as response:
        await Stream(response).until("text-delta")
    wish = asyncio.create_task(visitor.send({**chat_body("count"), "trigger": "regenerate-message"}))
    await asyncio.sleep(0.05)
    hold.set()
    assert text_in(await wish) == "one two"
    assert await visitor.history() == [("user", "count"), ("assistant", "one two")]


async def test_only_the_last_reply_can_be_regenerated(visitor: Visitor) -> None:
    old = (await visitor.ask("first"))[0]["messageId"]
    await visitor.ask("second", id="m2")
    async with visitor.post("/api/chat", {"id": "c1", "trigger": "regenerate-message", "messageId": old}) as response:
        assert response.status == 409
    assert len(await visitor.history()) == 4


# --- who is asking ---


async def test_a_page_of_our_own_needs_nothing_but_the_cookie(server: WebServer) -> None:
    page = {"Origin": server.url}
    async with server.nobody.post("/api/visitor", headers=page) as response:
        cookie = response.cookies["myna_visitor"]
        known = (await response.json())["visitor"]
        assert response.headers["Cache-Control"] == "no-store"
    assert cookie["httponly"]
    assert (cookie["samesite"], cookie["path"]) == ("Lax", "/")
    person = Visitor(server.session, server.url, {**page, "Cookie": f"myna_visitor={cookie.value}"})
    assert text_in(await person.ask("hello")) == "hello"
    async with person.post("/api/visitor") as response:
        assert (await response.json())["visitor"] == known


async def test_a_listed_sites_script_may_read_the_answers(server: WebServer) -> None:
    person = await server.visitor(SHOP)
    person.headers["Origin"] = SHOP
    async with person.chat(chat_body("hello")) as response:
        assert response.headers["Access-Control-Allow-Origin"] == SHOP
        assert "Origin" in response.headers["Vary"]
        assert "Access-Control-Allow-Credentials" not in response.headers
        assert text_in(parts_of(await response.text())) == "hello"


# --- pages and health ---


async def test_the_page_restricts_its_sources_and_its_frames(sqlite_server: WebServer) -> None:
    async with sqlite_server.session.get(sqlite_server.url + "/") as response:
        assert response.status == 200
        assert response.content_type == "text/html"
        headers = response.headers
        text = await response.text()
    policy = dict(rule.strip().partition(" ")[::2] for rule in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["base-uri"] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert policy["frame-ancestors"] == "'self' https://shop.example https://other.example"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "<script>" not in text
    assert " style=" not in text
    assert " onclick=" not in text


@pytest.mark.parametrize(
    ("path", "type"),
    [
        ("/widget.js", "javascript"),
        ("/static/page.js", "javascript"),
        ("/static/page.css", "text/css"),
        ("/static/icon.svg", "image/svg+xml"),
        ("/favicon.ico", "image/svg+xml"),
    ],
)
async def test_scripts_and_styles_are_served_with_their_types(sqlite_server: WebServer, path: str, type: str) -> None:
    async with sqlite_server.session.get(sqlite_server.url + path) as response:
        assert response.status == 200
        assert type in response.content_type
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Cache-Control"] == "no-cache"
        assert await response.read()


async def test_other_sites_may_load_the_widgets_script(sqlite_server: WebServer) -> None:
    for path in ["/widget.js", "/static/chat.js"]:
        async with sqlite_server.session.get(sqlite_server.url + path) as response:
            assert response.headers["Access-Control-Allow-Origin"] == "*"
            assert response.headers["Cross-Origin-Resource-Policy"] == "cross-origin"


async def test_the_settings_of_the_page_can_be_read_by_anyone(sqlite_server: WebServer) -> None:
    settings = sqlite_server.agent.settings
    config = await sqlite_server.nobody.json("/api/config")
    assert (config["title"], config["maxMessageChars"]) == (settings.title, settings.max_message_chars)


@pytest.mark.both_databases
async def test_health_is_told_apart_from_readiness(server: WebServer) -> None:
    assert await server.nobody.json("/healthz") == {"ok": True}
    ready = {"ready": True, "database": True, "model": True, "accepting": True}
    assert await server.nobody.json("/readyz") == ready
    await server.generator.close()
    async with server.nobody.get("/readyz") as response:
        assert response.status == 503
        assert await response.json() == {**ready, "ready": False, "model": False}
    assert await server.nobody.json("/healthz") == {"ok": True}


async def test_messages_replies_and_tokens_are_counted(server: WebServer, visitor: Visitor) -> None:
    await visitor.ask("hello you")
    assert await server.metric("myna_messages_accepted_total", channel="web") == 1
    assert await server.metric("myna_replies_total", channel="web", state="answered") == 1
    assert await server.metric("myna_tokens_total", kind="completion") == 2
    assert await server.metric("myna_first_piece_seconds_count") == 1
    assert await server.metric("myna_replies_running") == 0
    async with server.nobody.get("/metrics") as response:
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


async def test_a_request_keeps_the_id_it_came_with(sqlite_server: WebServer) -> None:
    for given, kept in [("trace-1_A", True), ("not ok", False), ("x" * 65, False), ("", False)]:
        async with sqlite_server.nobody.get("/healthz", headers={"X-Request-Id": given}) as response:
            assert (response.headers["X-Request-Id"] == given) is kept
            assert response.headers["X-Request-Id"]


async def test_a_quiet_stream_gives_signs_of_life(
    server: WebServer, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.chat.history.SIGN_OF_LIFE_SECONDS", 0.05)
    hold = asyncio.Event()
    server.generator.enqueue("", "late", hold=hold)
    async with visitor.chat(chat_body("wait")) as response:
        while await response.content.readline() != b": ping\n":
            pass
        hold.set()
        parts = await Stream(response).rest()
    assert text_in(parts) == "late"
