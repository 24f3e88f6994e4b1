"""Votes and learning consent over the web API: ownership, history, limits, bad requests.

`tests/browser/test_chat_feedback.py` has the page.
"""

from __future__ import annotations

from typing import Any

import pytest

from bot.chat.feedback import MAX_WORDS, MOST_A_MINUTE
from storage.database import StorageUnavailable
from tests.builders.agents import StartAgent
from tests.builders.web import SECRET, SHOP, Visitor, WebServer, chat_body, serve

VOTES, HERE, ALL = "/api/chat/c1/votes", "/api/chat/c1/privacy", "/api/privacy"
Json = dict[str, Any]


async def answer_to(call: Any, status: int = 200) -> Json:
    async with call as response:
        found: Json = await response.json()
        assert response.status == status, found
        return found


async def reply_id(visitor: Visitor, chat: str = "c1") -> str:
    await visitor.ask("Hello", chat=chat)
    return str((await visitor.json(f"/api/chat/{chat}"))["messages"][1]["id"])


async def vote(visitor: Visitor, reply: str, value: int, path: str = VOTES, **words: Any) -> Json:
    return await answer_to(visitor.post(path, {"replyId": reply, "value": value, **words}))


async def shown(visitor: Visitor) -> Json | None:
    """The vote that a reload of the chat shows."""
    own, reply = (await visitor.json("/api/chat/c1"))["messages"]
    assert own["metadata"]["vote"] is None
    found: Json | None = reply["metadata"]["vote"]
    return found


async def refused(call: Any, status: int) -> Json:
    error: Json = (await answer_to(call, status))["error"]
    return error


# --- votes ---


@pytest.mark.both_databases
async def test_a_vote_is_shown_after_a_reload_and_its_history_is_kept(server: WebServer, visitor: Visitor) -> None:
    reply = await reply_id(visitor)
    assert await shown(visitor) is None
    answer = await vote(visitor, reply, 1)
    assert (answer["vote"]["value"], answer["vote"]["replacedAt"]) == (1, None)
    await vote(visitor, reply, -1, reason="  It was rude.\r\n ", better="Good morning!")
    assert await shown(visitor) == {"value": -1, "reason": "It was rude.", "better": "Good morning!"}
    history = (await visitor.json(VOTES))["votes"]
    assert [(one["replyId"], one["value"]) for one in history] == [(reply, 1), (reply, -1)]
    assert history[0]["replacedAt"] >= history[0]["createdAt"] > 0
    assert history[1]["replacedAt"] is None


async def test_a_vote_is_taken_back(server: WebServer, visitor: Visitor) -> None:
    reply = await reply_id(visitor)
    await vote(visitor, reply, -1, reason="rude")
    for _ in range(2):
        assert await vote(visitor, reply, 0) == {"vote": None}
    assert await shown(visitor) is None
    assert [one["reason"] for one in (await visitor.json(VOTES))["votes"]] == ["rude"]


async def test_the_same_request_twice_is_one_vote(server: WebServer, visitor: Visitor) -> None:
    reply = await reply_id(visitor)
    first = await vote(visitor, reply, -1, better="Hi!")
    assert await vote(visitor, reply, -1, better="Hi!") == first
    assert len((await visitor.json(VOTES))["votes"]) == 1


async def test_words_are_taken_back_while_the_vote_stays(server: WebServer, visitor: Visitor) -> None:
    reply = await reply_id(visitor)
    await vote(visitor, reply, -1, reason="rude", better="Good morning, Mrs Ward!")
    assert (await vote(visitor, reply, -1))["vote"]["better"] == "Good morning, Mrs Ward!", "left out, they stay"
    await vote(visitor, reply, -1, reason="rude", better="")
    assert await shown(visitor) == {"value": -1, "reason": "rude", "better": None}
    await vote(visitor, reply, -1, reason="", better="")
    assert await shown(visitor) == {"value": -1, "reason": None, "better": None}


async def test_the_id_in_a_stream_can_be_voted_on(server: WebServer, visitor: Visitor) -> None:
    parts = await visitor.ask("Hello")
    started = next(part["messageId"] for part in parts if part["type"] == "start")
    assert (await vote(visitor, started, 1))["vote"]["replyId"] == started


async def test_nobody_votes_in_another_visitors_conversation(sqlite_server: WebServer) -> None:
    ana, eve = await sqlite_server.visitor(), await sqlite_server.visitor()
    reply = await reply_id(ana)
    await reply_id(eve)
    for path, status in ((VOTES, 404), ("/api/chat/other/votes", 404)):
        error = await refused(eve.post(path, {"replyId": reply, "value": -1}), status)
        assert error["code"] == "not_found"
    assert await refused(sqlite_server.nobody.post(VOTES, {"replyId": reply, "value": -1}), 401)
    assert await refused(sqlite_server.nobody.get(VOTES), 401)
    assert (await ana.json(VOTES), await eve.json(VOTES)) == ({"votes": []}, {"votes": []})


async def test_a_reply_of_ones_other_chat_is_not_found(sqlite_server: WebServer) -> None:
    ana = await sqlite_server.visitor()
    await reply_id(ana)
    other = await reply_id(ana, "c2")
    assert "no such reply" in (await refused(ana.post(VOTES, {"replyId": other, "value": 1}), 404))["message"]
    assert await vote(ana, other, 1, "/api/chat/c2/votes")


async def test_ones_own_words_can_t_be_voted_on(sqlite_server: WebServer) -> None:
    ana = await sqlite_server.visitor()
    await reply_id(ana)
    assert await refused(ana.post(VOTES, {"replyId": "m1", "value": 1}), 404)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        pytest.param({"value": 1}, "replyId", id="no reply"),
        pytest.param({"replyId": 5, "value": 1}, "replyId", id="a number for a reply"),
        pytest.param({"replyId": "a b", "value": 1}, "replyId", id="a reply with a space"),
        pytest.param({"replyId": "r"}, "value", id="no value"),
        pytest.param({"replyId": "r", "value": 2}, "value", id="two"),
        pytest.param({"replyId": "r", "value": True}, "value", id="true"),
        pytest.param({"replyId": "r", "value": "1"}, "value", id="a text"),
        pytest.param({"replyId": "r", "value": 0.5}, "value", id="a half"),
        pytest.param({"replyId": "r", "value": -1, "reason": 5}, "reason", id="a number for a reason"),
        pytest.param({"replyId": "r", "value": -1, "better": ["x"]}, "better", id="a list for an answer"),
    ],
)
async def test_bad_votes_are_refused_with_the_field(sqlite_server: WebServer, body: Json, field: str) -> None:
    ana = await sqlite_server.visitor()
    reply = await reply_id(ana)
    error = await refused(ana.post(VOTES, {"replyId": reply, **body} if field != "replyId" else body), 400)
    assert (error["code"], error["field"]) == ("invalid_input", field)
    assert await ana.json(VOTES) == {"votes": []}


async def test_words_that_are_too_long_are_not_cut(sqlite_server: WebServer) -> None:
    ana = await sqlite_server.visitor()
    reply = await reply_id(ana)
    body = {"replyId": reply, "value": -1, "better": "x" * (MAX_WORDS + 1)}
    error = await refused(ana.post(VOTES, body), 413)
    assert (error["code"], error["limit"]) == ("too_large", MAX_WORDS)
    assert await vote(ana, reply, -1, better="x" * MAX_WORDS)


@pytest.mark.both_databases
async def test_text_that_no_database_accepts_is_replaced(server: WebServer, visitor: Visitor) -> None:
    reply = await reply_id(visitor)
    answer = await vote(visitor, reply, -1, reason="a\x00b \ud800 \x1b[31mred 你好")
    assert answer["vote"]["reason"] == "ab \ufffd [31mred 你好"


async def test_a_flood_of_votes_is_limited_and_chats_go_on(sqlite_server: WebServer) -> None:
    ana = await sqlite_server.visitor()
    reply = await reply_id(ana)
    for number in range(MOST_A_MINUTE):
        await vote(ana, reply, 1 if number % 2 else -1)
    async with ana.post(VOTES, {"replyId": reply, "value": -1}) as response:
        assert response.status == 429
        assert 1 <= int(response.headers["Retry-After"]) <= 60
        error = (await response.json())["error"]
    assert (error["code"], "Wait a little" in error["message"]) == ("quota_exceeded", True)
    assert (await shown(ana) or {})["value"] == 1
    assert await ana.ask("Are you there?", id="m2")
    ben = await sqlite_server.visitor()
    assert await vote(ben, await reply_id(ben), -1)


async def test_a_vote_without_a_database_is_refused_and_can_be_retried(
    sqlite_server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ana = await sqlite_server.visitor()
    reply = await reply_id(ana)

    async def gone(*_: Any, **__: Any) -> None:
        raise StorageUnavailable("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(sqlite_server.agent.database, "write", gone)
        assert (await refused(ana.post(VOTES, {"replyId": reply, "value": -1}), 503))["code"] == "unavailable"
    assert await vote(ana, reply, -1)


async def test_a_listed_site_may_vote_and_a_foreign_one_may_not(sqlite_server: WebServer) -> None:
    ana = await sqlite_server.visitor(SHOP)
    reply = await reply_id(ana)
    body = {"replyId": reply, "value": 1}
    async with ana.post(VOTES, body, headers={"Origin": SHOP}) as response:
        assert response.status == 200
        assert response.headers["Access-Control-Allow-Origin"] == SHOP
        assert "Retry-After" in response.headers["Access-Control-Expose-Headers"]
    assert await refused(ana.post(VOTES, body, headers={"Origin": "https://evil.example"}), 403)


# --- privacy ---


async def test_consent_is_stored_and_shown(server: WebServer, visitor: Visitor) -> None:
    nothing = {"policy": "opt-out", "allChats": None, "thisChat": None, "mayLearn": True}
    assert await visitor.json(ALL) == nothing
    await reply_id(visitor)
    assert await visitor.json(HERE) == nothing
    said = await answer_to(visitor.post(HERE, {"mayLearn": False}))
    assert said == {**nothing, "thisChat": False, "mayLearn": False}
    assert await visitor.json(ALL) == nothing, "it was said of one chat only"
    said = await answer_to(visitor.post(ALL, {"mayLearn": False}))
    assert said == {**nothing, "allChats": False, "mayLearn": False}
    await answer_to(visitor.post(HERE, {"mayLearn": True}))
    assert await visitor.json(HERE) == {**nothing, "allChats": False, "thisChat": True, "mayLearn": False}
    for path in (HERE, ALL):
        await answer_to(visitor.post(path, {"mayLearn": None}))
    assert await visitor.json(HERE) == nothing


@pytest.mark.both_databases("one transaction")
async def test_a_no_is_stored_with_the_first_message(
    server: WebServer, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("the process was killed here")

    body = {**chat_body("My name is Ana Ward."), "mayLearn": False}
    with monkeypatch.context() as patch:
        patch.setattr("storage.inbox.consent.set_conversation", broken)
        async with visitor.chat(body) as response:
            assert response.status == 500
    async with visitor.get("/api/chat/c1") as response:
        assert response.status == 404, "both or nothing"
    await visitor.send(body)
    assert (await visitor.json(HERE))["thisChat"] is False
    await visitor.ask("And again", id="m2")
    assert (await visitor.json(HERE))["thisChat"] is False, "a message that says nothing changes nothing"
    await visitor.send({**body, "mayLearn": True})
    assert (await visitor.json(HERE))["thisChat"] is True, "said with the same message when it was sent again"
    assert [text for who, text in await visitor.history() if who == "user"] == ["My name is Ana Ward.", "And again"]
    assert (await refused(visitor.chat({**body, "mayLearn": "no"}), 400))["field"] == "mayLearn"


async def test_opt_in_learns_only_from_those_who_agreed(start_agent: StartAgent, sqlite_url: str) -> None:
    async with start_agent(sqlite_url, secret=SECRET, learning_consent="opt-in") as agent, serve(agent) as server:
        ana = await server.visitor()
        await reply_id(ana)
        said = await ana.json(HERE)
        assert (said["policy"], said["mayLearn"]) == ("opt-in", False)
        assert (await answer_to(ana.post(HERE, {"mayLearn": True})))["mayLearn"]
        assert not (await ana.json(ALL))["mayLearn"]


async def test_consent_of_one_visitor_binds_nobody_else(sqlite_server: WebServer) -> None:
    ana, eve = await sqlite_server.visitor(), await sqlite_server.visitor()
    await reply_id(ana)
    assert await refused(eve.post(HERE, {"mayLearn": False}), 404)
    assert await refused(eve.get(HERE), 404)
    await answer_to(eve.post(ALL, {"mayLearn": False}))
    assert (await ana.json(HERE))["mayLearn"]
    for path in (HERE, ALL):
        assert await refused(sqlite_server.nobody.post(path, {"mayLearn": False}), 401)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"mayLearn": "no"}, id="a text"),
        pytest.param({"mayLearn": 0}, id="zero"),
    ],
)
async def test_bad_choices_are_refused_and_change_nothing(sqlite_server: WebServer, body: Json) -> None:
    ana = await sqlite_server.visitor()
    await reply_id(ana)
    await answer_to(ana.post(HERE, {"mayLearn": False}))
    for path in (HERE, ALL):
        assert (await refused(ana.post(path, body), 400))["field"] == "mayLearn"
    assert (await ana.json(HERE))["thisChat"] is False
