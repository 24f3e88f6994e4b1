"""`POST /v1/feedback` over plain HTTP and through the official client.

`tests/contract/test_votes.py` has the effect of a vote.
"""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from bot.chat.feedback import MAX_WORDS
from bot.completions.api_keys_access import create_key
from storage.votes import Vote
from tests.builders.programs import Program, new_program, question
from tests.builders.web import WebServer

FEEDBACK = "/v1/feedback"
Json = dict[str, Any]


async def said(program: Program, text: str = "Hello", conversation: str = "order-7") -> str:
    """Ask in a conversation with memory, and give the completion's id."""
    return str((await program.ask(question(text, metadata={"conversation": conversation})))["id"])


async def tell(program: Program, **body: Any) -> Json:
    return await program.ask({"conversation": "order-7", **body}, FEEDBACK)


async def test_a_completion_s_id_names_its_reply(server: WebServer, program: Program) -> None:
    first, second = await said(program), await said(program, "And now?")
    assert first != second
    answer = await tell(program, reply=first, value=-1, reason="rude", better="Good morning!")
    assert answer == {
        "object": "feedback",
        "conversation": "order-7",
        "reply": first,
        "value": -1,
        "reason": "rude",
        "better": "Good morning!",
        "may_learn": None,
    }
    assert (await tell(program, value=1))["reply"] == second, "without an id the newest is meant"
    assert (await tell(program, reply=first.removeprefix("chatcmpl-"), value=0))["value"] == 0


async def test_a_stream_and_a_repeated_request_name_the_same_reply(server: WebServer, program: Program) -> None:
    body = question("Hello", metadata={"conversation": "order-7"})
    chunks = await program.stream(body)
    (streamed,) = {chunk["id"] for chunk in chunks}
    assert (await tell(program, value=1))["reply"] == streamed
    again = [await program.ask(body, headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert again[0]["id"] == again[1]["id"] != streamed


async def test_an_id_without_memory_names_no_reply(sqlite_server: WebServer, caller: Program) -> None:
    await said(caller)
    stray = str((await caller.ask(question("Hello")))["id"])
    error = await caller.refused({"conversation": "order-7", "reply": stray, "value": 1}, 404, FEEDBACK)
    assert error["code"] == "not_found"


async def test_the_same_request_twice_is_one_vote(server: WebServer, program: Program) -> None:
    reply = await said(program)
    for _ in range(2):
        await tell(program, value=-1, reason="rude")
    await tell(program, value=-1, better="Hi!")
    answer = await tell(program, value=-1)
    assert (answer["reason"], answer["better"]) == ("rude", "Hi!")
    votes = await server.agent.feedback.votes_on(reply.removeprefix("chatcmpl-"))
    assert votes == [Vote(-1, "rude", "Hi!")]


async def test_another_key_reaches_none_of_it(sqlite_server: WebServer, caller: Program) -> None:
    reply = await said(caller)
    other = await new_program(sqlite_server, "other")
    assert (
        "no such conversation"
        in (await other.refused({"conversation": "order-7", "value": 1}, 404, FEEDBACK))["message"]
    )
    await said(other)
    assert await other.refused({"conversation": "order-7", "reply": reply, "value": 1}, 404, FEEDBACK)
    nobody = Program(sqlite_server, None)
    error = await nobody.refused({"conversation": "order-7", "value": 1}, 401, FEEDBACK)
    assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
    assert await sqlite_server.agent.feedback.votes_on(reply.removeprefix("chatcmpl-")) == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        pytest.param({}, "value", id="nothing"),
        pytest.param({"conversation": None, "value": 1}, "conversation", id="no conversation"),
        pytest.param({"conversation": "x" * 129, "value": 1}, "conversation", id="a long name"),
        pytest.param({"value": 5}, "value", id="five"),
        pytest.param({"value": True}, "value", id="true"),
        pytest.param({"value": 1, "reply": ""}, "reply", id="an empty reply"),
        pytest.param({"value": 1, "better": "x"}, "better", id="a better answer to a good one"),
        pytest.param({"value": 0, "reason": "x"}, "reason", id="a reason for taking back"),
        pytest.param({"value": -1, "reason": {}}, "reason", id="an object for a reason"),
        pytest.param({"may_learn": "no"}, "may_learn", id="a text for a choice"),
    ],
)
async def test_bad_requests_are_refused_with_the_field(caller: Program, body: Json, param: str) -> None:
    await said(caller)
    error = await caller.refused({"conversation": "order-7", **body}, 400, FEEDBACK)
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


async def test_words_that_are_too_long_are_refused(caller: Program) -> None:
    await said(caller)
    body = {"conversation": "order-7", "value": -1, "reason": "x" * (MAX_WORDS + 1)}
    assert (await caller.refused(body, 413, FEEDBACK))["code"] == "too_large"


async def test_consent_for_a_conversation_is_stored_and_shown(server: WebServer, program: Program) -> None:
    await said(program)
    assert await tell(program, may_learn=False) == {"object": "feedback", "conversation": "order-7", "may_learn": False}
    answer = await tell(program, value=1)
    assert (answer["value"], answer["may_learn"]) == (1, False), "a vote says nothing else"
    assert (await tell(program, may_learn=None))["may_learn"] is None


async def test_a_flood_of_votes_is_a_rate_limit(
    sqlite_server: WebServer, caller: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.openai.v1_feedback.MOST_A_MINUTE", 2)
    await said(caller)
    for value in (1, -1):
        await tell(caller, value=value)
    async with caller.post({"conversation": "order-7", "value": 1}, FEEDBACK) as response:
        assert response.status == 429
        assert int(response.headers["Retry-After"]) >= 1
        error = (await response.json())["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert (await tell(caller, value=-1))["value"] == -1


async def test_the_official_client(sqlite_server: WebServer) -> None:
    agent = sqlite_server.agent
    secret = await create_key(agent.scope, "client", None, None)

    def use() -> str:
        with openai.OpenAI(base_url=f"{sqlite_server.url}/v1", api_key=secret, max_retries=0) as client:
            answer = client.chat.completions.create(
                model="fake", messages=[{"role": "user", "content": "Hello"}], metadata={"conversation": "order-7"}
            )
            body: Json = {"conversation": "order-7", "reply": answer.id, "value": -1, "better": "Hi!"}
            told: Any = client.post("/feedback", body=body, cast_to=object)
            assert (told["reply"], told["value"], told["better"]) == (answer.id, -1, "Hi!")
            with pytest.raises(openai.NotFoundError, match="no such conversation"):
                client.post("/feedback", body={**body, "conversation": "order-8"}, cast_to=object)
            with pytest.raises(openai.BadRequestError) as refused:
                client.post("/feedback", body={**body, "value": 7}, cast_to=object)
            assert refused.value.param == "value"
            return answer.id.removeprefix("chatcmpl-")

    reply = await asyncio.to_thread(use)
    assert [one.better for one in await agent.feedback.votes_on(reply)] == ["Hi!"]
