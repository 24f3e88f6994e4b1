"""Model API over HTTP: keys, quotas, answers, streams, usage records, bad requests.

`tests/scenarios/test_openai_clients.py` has real clients.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bot.errors import GeneratorBusy, GeneratorFailed
from storage import api_keys
from tests.builders.agents import StartAgent
from tests.builders.programs import CHAT, Json, Program, new_program, question
from tests.builders.web import WebServer, serve
from tests.fakes.generator import FakeGenerator


async def usage_of(server: WebServer, num_rows: int = 1) -> list[Json]:
    """What was written down; that may come a moment after the answer."""
    agent = server.agent
    async with asyncio.timeout(10):
        while len(rows := await agent.database.read(api_keys.usage_page, agent.workspace_id, "", 0)) < num_rows:
            await asyncio.sleep(0.02)
    return rows


# --- answers ---


@pytest.mark.both_databases
async def test_a_whole_answer(server: WebServer, program: Program) -> None:
    server.generator.enqueue("I am ", "fine.")
    answer = await program.ask(question())
    assert answer["id"].startswith("chatcmpl-")
    assert (answer["object"], answer["model"]) == ("chat.completion", "fake")
    message = {"role": "assistant", "content": "I am fine.", "refusal": None, "annotations": []}
    assert answer["choices"] == [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]
    assert answer["usage"] == {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}
    (row,) = await usage_of(server)
    known = {
        "key": "shop",
        "endpoint": "chat",
        "model": "fake",
        "version": None,
        "prompt_tokens": 4,
        "completion_tokens": 2,
        "outcome": "stop",
    }
    assert known.items() <= row.items()
    assert 0 <= row["first_token_ms"] <= row["total_ms"]


async def test_a_stream_says_the_same_piece_by_piece(sqlite_server: WebServer, caller: Program) -> None:
    sqlite_server.generator.enqueue("I am ", "fine.")
    chunks = await caller.stream(question(stream_options={"include_usage": True}))
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks[:-1]]
    assert deltas == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "I am "},
        {"content": "fine."},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None, None, None, "stop"]
    assert (chunks[-1]["choices"], chunks[-1]["usage"]["completion_tokens"]) == ([], 2)


async def test_a_stream_has_no_usage_without_the_option(caller: Program) -> None:
    assert all("usage" not in chunk for chunk in await caller.stream(question()))


async def test_several_choices(sqlite_server: WebServer, caller: Program) -> None:
    for text in ("one", "two", "three"):
        sqlite_server.generator.enqueue(text)
    answer = await caller.ask(question(n=3, seed=5))
    assert sorted(choice["message"]["content"] for choice in answer["choices"]) == ["one", "three", "two"]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert answer["usage"]["completion_tokens"] == 3
    assert {one.seed for one in sqlite_server.generator.samplings} == {5, 6, 7}


async def test_a_text_is_continued(sqlite_server: WebServer, caller: Program) -> None:
    sqlite_server.generator.enqueue(" Paris", ".")
    body = {"model": "fake", "prompt": "The capital of France is"}
    answer = await caller.ask(body, "/v1/completions")
    assert answer["object"] == "text_completion"
    assert answer["choices"] == [{"index": 0, "text": " Paris.", "logprobs": None, "finish_reason": "stop"}]
    sqlite_server.generator.enqueue(" Paris", ".")
    chunks = await caller.stream(body, "/v1/completions")
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == " Paris."
    assert sqlite_server.generator.prompts[0].text == "The capital of France is"


async def test_all_sampling_options_are_passed_on(sqlite_server: WebServer, caller: Program) -> None:
    await caller.ask(
        question(
            max_completion_tokens=3,
            max_tokens=9,
            temperature=0.5,
            top_p=0.5,
            top_k=4,
            min_p=0.1,
            seed=-1,
            stop="END",
            presence_penalty=0.5,
            frequency_penalty=-0.5,
            repetition_penalty=1.2,
            logprobs=True,
            top_logprobs=2,
            response_format={"type": "json_object"},
            service_tier="flex",
            user="u",
            store=False,
        )
    )
    sampling = sqlite_server.generator.samplings[0]
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.top_k) == (3, 0.5, 0.5, 4)
    assert (sampling.min_p, sampling.seed, sampling.stop) == (0.1, 2**63 - 1, ("END",))
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -0.5)
    assert (sampling.repetition_penalty, sampling.logprobs, sampling.json_schema) == (1.2, 2, '{"type": "object"}')


async def test_missing_options_follow_the_settings(sqlite_server: WebServer, caller: Program) -> None:
    await caller.ask(question())
    sampling = sqlite_server.generator.samplings[0]
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens) == (0.2, 0.9, 512)
    assert sampling.repetition_penalty == 1.0, "of chats alone: who asks for the likeliest words gets these"


async def test_roles_and_parts_of_messages(sqlite_server: WebServer, caller: Program) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
    ]
    await caller.ask({"model": "fake", "messages": messages})
    got = sqlite_server.generator.prompts[0].messages
    assert [one.role for one in got] == ["system", "user", "assistant", "tool"]
    assert got[1].content == "What is this?\n(An image was sent here. You can't see images.)"
    assert (got[2].content, got[2].tool_calls[0].name, got[3].tool_call_id) == ("", "find", "c1")


# --- functions ---

TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("find", "cancel")
]


async def test_a_forced_call_is_held_to_its_schema_and_parsed(sqlite_server: WebServer, caller: Program) -> None:
    sqlite_server.generator.enqueue('{"name": "find", ', '"arguments": {"order": 7}}')
    answer = await caller.ask(question(tools=TOOLS, tool_choice="required"))
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert (call["type"], call["function"]) == ("function", {"name": "find", "arguments": '{"order": 7}'})
    schema = json.loads(sqlite_server.generator.samplings[0].json_schema or "")
    assert [one["properties"]["name"]["const"] for one in schema["anyOf"]] == ["find", "cancel"]


async def test_references_inside_the_parameters_still_resolve(sqlite_server: WebServer, caller: Program) -> None:
    item = {"type": "object", "properties": {"next": {"$ref": "#"}, "size": {"$ref": "#/$defs/Size"}}}
    function = {"name": "f", "parameters": item | {"$defs": {"Size": {"type": "integer"}}}}
    tools = [{"type": "function", "function": function}, TOOLS[0]]
    for count, where in ((1, "#/properties/arguments"), (2, "#/anyOf/0/properties/arguments")):
        await caller.ask(question(tools=tools[:count], tool_choice="required"))
        schema = json.loads(sqlite_server.generator.samplings[-1].json_schema or "")
        call = schema if count == 1 else schema["anyOf"][0]
        references = call["properties"]["arguments"]["properties"]
        assert [one["$ref"] for one in references.values()] == [where, f"{where}/$defs/Size"]


@pytest.mark.parametrize("depth", [100, 250, 330, 490, 900])
async def test_deep_schemas_are_accepted_or_refused(sqlite_server: WebServer, caller: Program, depth: int) -> None:
    parameters = '{"properties":{"a":' * depth + "{}" + "}}" * depth
    function = f'[{{"type": "function", "function": {{"name": "f", "parameters": {parameters}}}}}]'
    said = json.dumps(question())[:-1]
    data = f'{said}, "tools": {function}, "tool_choice": "required"}}'.encode()
    headers = caller._headers | {"Content-Type": "application/json"}
    async with sqlite_server.session.post(sqlite_server.url + CHAT, data=data, headers=headers) as response:
        assert response.status == (200 if depth == 100 else 400)


async def test_a_named_call_in_a_stream(sqlite_server: WebServer, caller: Program) -> None:
    sqlite_server.generator.enqueue('{"name": "cancel", "arguments": {}}')
    chunks = await caller.stream(
        question(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "cancel"}})
    )
    (call,) = [one for chunk in chunks for one in chunk["choices"][0]["delta"].get("tool_calls", [])]
    assert (call["index"], call["function"]["name"]) == (0, "cancel")
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_a_call_that_was_cut_off_stays_text(sqlite_server: WebServer, caller: Program) -> None:
    sqlite_server.generator.enqueue('{"name": ', '"find"')
    answer = await caller.ask(question(tools=TOOLS, tool_choice="required", max_tokens=2))
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["choices"][0]["message"]["content"] == '{"name": "find"'


async def test_none_means_no_functions(sqlite_server: WebServer, caller: Program) -> None:
    await caller.ask(question(tools=TOOLS, tool_choice="none"))
    await caller.ask(question(tools=TOOLS))
    assert [len(one.tools) for one in sqlite_server.generator.prompts] == [0, 2]


# --- models and versions ---


async def test_versions_are_models_of_their_own(sqlite_server: WebServer, caller: Program, tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    await sqlite_server.generator.load_version("night-1", tmp_path)
    listed = await caller.get("/v1/models")
    assert [one["id"] for one in listed["data"]] == ["fake", "night-1"]
    assert (await caller.get("/v1/models/night-1"))["id"] == "night-1"
    assert (await caller.get("/v1/models/org/none", 404))["error"]["code"] == "model_not_found"
    await caller.ask(question() | {"model": "night-1"})
    assert sqlite_server.generator.asked_versions == ["night-1"]
    assert (await usage_of(sqlite_server))[0]["version"] == "night-1"
    error = await caller.refused(question() | {"model": "gpt-9"}, 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "night-1" in error["message"]


async def test_there_is_no_embedder_yet(caller: Program) -> None:
    assert "no embedding" in (await caller.refused({"model": "x", "input": "y"}, 404, "/v1/embeddings"))["message"]


# --- keys and quotas ---


@pytest.mark.parametrize("secret", [None, "", "myna_sk_wrong", "sk-1234"])
async def test_without_a_valid_key_nothing_is_done(server: WebServer, secret: str | None) -> None:
    error = await Program(server, secret).refused(question(), 401)
    assert error["type"] == "authentication_error"
    assert not server.generator.prompts


@pytest.mark.both_databases("a partial unique index")
async def test_a_revoked_key_ends_at_once(server: WebServer, program: Program) -> None:
    await program.ask(question())
    agent = server.agent
    assert await agent.database.write(api_keys.revoke_key, agent.workspace_id, "shop")
    await program.refused(question(), 401)
    other = await new_program(server)  # the name is free again
    await other.ask(question())


async def test_requests_a_minute(sqlite_server: WebServer) -> None:
    program, free = await new_program(sqlite_server, requests_per_minute=2), await new_program(sqlite_server, "free")
    async with program.post(question()) as response:
        assert response.headers["x-ratelimit-limit-requests"] == "2"
        assert response.headers["x-ratelimit-remaining-requests"] == "1"
    await program.ask(question())
    async with program.post(question()) as response:
        assert response.status == 429
        assert 1 <= int(response.headers["Retry-After"]) <= 60
        assert (await response.json())["error"]["code"] == "rate_limit_exceeded"
    await free.ask(question())


@pytest.mark.both_databases("a sum")
async def test_tokens_a_day(server: WebServer) -> None:
    program = await new_program(server, tokens_per_day=10)
    for num_rows in (1, 2):
        await program.ask(question("one two three"))
        await usage_of(server, num_rows)
    error = await program.refused(question(), 429)
    assert (error["type"], error["code"]) == ("rate_limit_error", "insufficient_quota")
    assert "10 tokens" in error["message"]
    assert len(server.generator.prompts) == 2


async def test_an_open_api_needs_no_key_and_still_counts(start_agent: StartAgent, sqlite_url: str) -> None:
    async with start_agent(sqlite_url, api_keys="off") as agent, serve(agent) as server:
        for secret in (None, "x"):
            await Program(server, secret).ask(question())
        assert [row["key"] for row in await usage_of(server, 2)] == [None, None]
        await Program(server, "myna_sk_wrong").refused(question(), 401)
        limited = await new_program(server, requests_per_minute=1)
        await limited.ask(question())
        await limited.refused(question(), 429)
        foreign = {"Origin": "https://evil.example"}
        assert (await Program(server, None).refused(question(), 403, headers=foreign))["code"] == "not_allowed"


# --- trouble ---


BAD_BODIES: dict[str, tuple[Any, str | None]] = {
    "a list": ([], None),
    "no model": ({"messages": [{"role": "user", "content": "x"}]}, "model"),
    "model is a number": (question() | {"model": 7}, "model"),
    "no messages": ({"model": "fake"}, "messages"),
    "empty messages": ({"model": "fake", "messages": []}, "messages"),
    "a message that is text": ({"model": "fake", "messages": ["x"]}, "messages[0]"),
    "an unknown role": ({"model": "fake", "messages": [{"role": "alien", "content": "x"}]}, "messages[0].role"),
    "a role that is a list": ({"model": "fake", "messages": [{"role": [], "content": "x"}]}, "messages[0].role"),
    "no content": ({"model": "fake", "messages": [{"role": "user"}]}, "messages[0].content"),
    "an unknown part": (
        {"model": "fake", "messages": [{"role": "user", "content": [{"type": "smell"}]}]},
        "messages[0].content[0]",
    ),
    "temperature is text": (question(temperature="hot"), "temperature"),
    "temperature is huge": (question(temperature=1e9), "temperature"),
    "top_p is nothing": (question(top_p=0), "top_p"),
    "max_tokens is zero": (question(max_tokens=0), "max_tokens"),
    "max_tokens is huge": (question(max_tokens=10**12), "max_tokens"),
    "max_tokens is true": (question(max_tokens=True), "max_tokens"),
    "n is huge": (question(n=1000), "n"),
    "seed is text": (question(seed="x"), "seed"),
    "stop is a number": (question(stop=5), "stop"),
    "stop is empty": (question(stop=[""]), "stop"),
    "stream is text": (question(stream="yes"), "stream"),
    "top_logprobs alone": (question(top_logprobs=2), "top_logprobs"),
    "too many logprobs": (question(logprobs=True, top_logprobs=21), "top_logprobs"),
    "an unknown format": (question(response_format={"type": "xml"}), "response_format"),
    "a format without schema": (question(response_format={"type": "json_schema"}), "response_format"),
    "tools that are none": (question(tools=[{"type": "spoon"}]), "tools[0]"),
    "a choice without tools": (question(tool_choice="required"), "tool_choice"),
    "a choice that is not there": (
        question(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "fly"}}),
        "tool_choice",
    ),
    "what is not supported": (question(logit_bias={"1": 5}), "logit_bias"),
    "metadata is text": (question(metadata="x"), "metadata"),
}


@pytest.mark.parametrize("kind", BAD_BODIES)
async def test_a_bad_body_is_refused_by_the_name_of_its_field(caller: Program, kind: str) -> None:
    body, field = BAD_BODIES[kind]
    error = await caller.refused(body)
    assert (error["type"], error["param"]) == ("invalid_request_error", field)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b'{"model": NaN}', b"[" * 100_000])
async def test_bytes_that_are_not_a_request(sqlite_server: WebServer, data: bytes) -> None:
    program = await new_program(sqlite_server)
    headers = program._headers | {"Content-Type": "application/json"}
    async with sqlite_server.session.post(sqlite_server.url + CHAT, data=data, headers=headers) as response:
        assert response.status == 400
        assert (await response.json())["error"]["type"] == "invalid_request_error"


async def test_nan_is_refused(sqlite_server: WebServer) -> None:
    program = await new_program(sqlite_server)
    error = await program.refused(question(temperature=math.nan))
    assert error["param"] == "temperature"


async def test_unknown_routes_and_methods_use_the_error_format(caller: Program) -> None:
    assert (await caller.get("/v1/nothing", 404))["error"]["type"] == "server_error"
    assert (await caller.get(CHAT, 405))["error"]["code"] == "method_not_allowed"


async def test_a_prompt_longer_than_the_context(caller: Program) -> None:
    for streams in (False, True):
        assert (await caller.refused(question("word " * 3000, stream=streams)))["param"] == "prompt"


async def test_a_busy_model_says_when_to_retry(sqlite_server: WebServer, caller: Program) -> None:
    sqlite_server.generator.enqueue(error=GeneratorBusy(retry_after=7))
    async with caller.post(question(stream=True)) as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "7")
        assert (await response.json())["error"]["type"] == "overloaded_error"
    assert (await usage_of(sqlite_server))[0]["outcome"] == "generator_busy"


async def test_a_failure_before_and_within_a_stream(sqlite_server: WebServer, caller: Program) -> None:
    sqlite_server.generator.enqueue("half", error=GeneratorFailed())
    assert (await caller.refused(question(), 500))["code"] == "generator_failed"
    sqlite_server.generator.enqueue("half", error=GeneratorFailed())
    async with caller.post(question(stream=True)) as response:
        assert response.status == 200
        last = (await response.text()).strip().split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "generator_failed"
    assert {row["outcome"] for row in await usage_of(sqlite_server, 2)} == {"generator_failed"}


async def test_a_refused_request_costs_nothing(sqlite_server: WebServer) -> None:
    program = await new_program(sqlite_server, tokens_per_day=1000)
    await program.refused(question("word " * 3000))
    (row,) = await usage_of(sqlite_server)
    assert (row["outcome"], row["prompt_tokens"]) == ("invalid_input", 0)
    await program.ask(question())


async def test_odd_headers_and_numbers(sqlite_server: WebServer, caller: Program) -> None:
    for headers in ({"Authorization": "Bearer \udcff"}, {"Authorization": "Basic x"}, {"Authorization": "Bearer"}):
        async with sqlite_server.session.post(sqlite_server.url + CHAT, json=question(), headers=headers) as response:
            assert response.status == 401
    said = question(metadata={"conversation": "c"})
    await caller.ask(said, headers={"Idempotency-Key": "\udcff"})
    assert (await caller.refused(question(temperature=10**400)))["param"] == "temperature"
    await caller.ask({"model": "fake", "prompt": "half \ud800"}, "/v1/completions")
    sqlite_server.generator.enqueue("half \ud83d")
    chunks = await caller.stream(question())
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "half \ud83d"


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("after", [0, 1])
async def test_a_caller_who_disconnects_frees_the_model(
    sqlite_server: WebServer, caller: Program, streams: bool, after: int
) -> None:
    generator = sqlite_server.generator
    generator.enqueue(*["word "] * after, "", "more", hold=asyncio.Event())
    asking = asyncio.create_task(read_forever(caller, question(stream=streams)))
    async with asyncio.timeout(10):
        while not generator.num_open:
            await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.wait([asking])
        while generator.num_open:
            await asyncio.sleep(0.01)
    assert generator.aborted == 1
    assert (await usage_of(sqlite_server))[0]["outcome"] == "aborted"


async def read_forever(program: Program, body: Json) -> None:
    async with program.post(body) as response:
        await response.read()


async def test_a_stalled_reader_is_disconnected(
    sqlite_server: WebServer, caller: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.http.sse.SLOW_READER_SECONDS", 0.3)
    sqlite_server.generator.enqueue(*["x" * 100_000] * 300)
    async with caller.post(question(stream=True, max_tokens=400), read_bufsize=1024) as response:
        assert response.status == 200
        async with asyncio.timeout(20):
            while sqlite_server.generator.num_open:
                await asyncio.sleep(0.05)
    assert sqlite_server.generator.aborted == 1


# --- memory ---


@pytest.mark.both_databases
async def test_a_conversation_with_memory(server: WebServer, program: Program) -> None:
    def said(text: str, name: str = "order-7", **more: Any) -> Json:
        return question(text, metadata={"conversation": name}, **more)

    server.generator.enqueue("Hello ", "Ann.")
    answer = await program.ask(said("I am Ann."))
    assert answer["choices"][0]["message"]["content"] == "Hello Ann."
    server.generator.enqueue("Ann.")
    chunks = await program.stream(said("Who am I?"))
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "Ann."
    remembered = [one.content for one in server.generator.prompts[1].messages if one.role != "system"]
    assert remembered == ["I am Ann.", "Hello Ann.", "Who am I?"]
    await program.ask(said("Hi", "another"))
    stranger = await new_program(server, "stranger")
    await stranger.ask(said("Who am I?"))
    assert [one.content for one in server.generator.prompts[-1].messages if one.role == "user"] == ["Who am I?"]
    for more in ({"n": 2}, {"max_tokens": 5}, {"response_format": {"type": "json_object"}}, {"tools": TOOLS}):
        assert (await program.refused(said("x", **more)))["param"] == "metadata.conversation"
    rows = await usage_of(server, 4)
    assert [(row["endpoint"], row["outcome"]) for row in rows] == [("memory", "answered")] * 4
    assert all(row["prompt_tokens"] and row["completion_tokens"] for row in rows)


async def test_a_message_sent_twice_is_answered_once(sqlite_server: WebServer, caller: Program) -> None:
    body = question("Hello there", metadata={"conversation": "c"})
    headers = {"Idempotency-Key": "m1"}
    answers = [(await caller.ask(body, headers=headers))["choices"][0]["message"]["content"] for _ in range(2)]
    assert answers == ["Hello there"] * 2
    assert len(sqlite_server.generator.prompts) == 1


async def test_memory_counts_against_the_quota(sqlite_server: WebServer) -> None:
    program = await new_program(sqlite_server, tokens_per_day=10)
    await program.ask(question("Hello there, how are you?", metadata={"conversation": "c"}))
    await usage_of(sqlite_server)
    assert (await program.refused(question(), 429))["code"] == "insufficient_quota"


async def test_conversations_of_one_key_never_meet(sqlite_server: WebServer, caller: Program) -> None:
    for conversation, given in (("t/a", "1"), ("t", "a/1"), ("t", "x" * 200 + "1"), ("t", "x" * 200 + "2")):
        body = question(f"{conversation} {given}", metadata={"conversation": conversation})
        answer = await caller.ask(body, headers={"Idempotency-Key": given})
        assert answer["choices"][0]["message"]["content"] == f"{conversation} {given}"


@pytest.mark.parametrize("streams", [False, True])
async def test_a_memory_reply_cut_short_by_a_restart_is_an_error(
    sqlite_server: WebServer, caller: Program, streams: bool
) -> None:
    sqlite_server.generator.enqueue("", "part", hold=asyncio.Event())
    body = question("Hello", metadata={"conversation": "c"}, stream=streams)
    asking = asyncio.create_task(caller.refused(body, 503))
    async with asyncio.timeout(10):
        while not sqlite_server.generator.num_open:
            await asyncio.sleep(0.01)
        await sqlite_server.agent.conversations.drain(0.0)
        assert (await asking)["code"] == "shutting_down"


# --- end ---


async def test_requests_finish_when_the_agent_stops(start_agent: StartAgent, sqlite_url: str) -> None:
    generator = FakeGenerator()
    hold = asyncio.Event()
    async with start_agent(sqlite_url, generator, api_keys="off") as agent, serving(agent) as server:
        program = Program(server, None)
        generator.enqueue("I will ", "finish.", hold=hold)
        asking = asyncio.create_task(program.ask(question()))
        async with asyncio.timeout(10):
            while not generator.num_open:
                await asyncio.sleep(0.01)
        draining = asyncio.create_task(agent.drain(5.0))
        await asyncio.sleep(0.05)
        assert not draining.done()
        assert (await program.refused(question(), 503))["code"] == "shutting_down"
        hold.set()
        assert (await asking)["choices"][0]["message"]["content"] == "I will finish."
        await draining
        assert len(await usage_of(server)) == 1


@asynccontextmanager
async def serving(agent: Any) -> AsyncIterator[WebServer]:
    async with serve(agent) as server:
        yield server


async def test_the_metrics_count_requests_and_tokens(sqlite_server: WebServer, caller: Program) -> None:
    await caller.ask(question("one two"))
    await usage_of(sqlite_server)
    assert await sqlite_server.metric("myna_api_requests_total", endpoint="chat", outcome="stop") == 1
    assert await sqlite_server.metric("myna_tokens_total", kind="completion") == 2
    await caller.refused({}, 400)
    assert await sqlite_server.metric("myna_requests_refused_total", code="invalid_input") == 1


async def test_a_thousand_requests_at_once(sqlite_server: WebServer, caller: Program) -> None:
    async def ask(number: int) -> str:
        answer = await caller.ask(question(f"number {number}"), timeout=aiohttp.ClientTimeout(60))
        text: str = answer["choices"][0]["message"]["content"]
        return text

    sqlite_server.generator._queue_limit = 10_000
    answers = await asyncio.gather(*(ask(number) for number in range(300)))
    assert answers == [f"number {number}" for number in range(300)]
    assert len(await usage_of(sqlite_server, 300)) == 300
