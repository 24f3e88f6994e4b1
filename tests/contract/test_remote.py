"""The generator over an OpenAI-compatible server: what it sends, what comes back, what each kind of trouble becomes.

Knows: the wire. Does not know: any real server; the scripted one speaks as vLLM and llama.cpp do.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from bot.errors import (
    GeneratorBusy,
    GeneratorFailed,
    GeneratorUnavailable,
    InvalidInput,
    ModelError,
    MynaError,
    VersionError,
)
from bot.generation.port import ChatMessage, Event, Finish, Piece, Sampling, TokenLogprob, ToolCall
from bot.generation.remote import RemoteGenerator
from tests.conftest import free_port
from tests.fakes.openai_server import DONE, ROLE, OpenAIServer, Script, chunk, event, refusal, reply, usage

QUESTION = (ChatMessage("system", "Be kind."), ChatMessage("user", "Where is my parcel? 你好"))


@pytest.fixture
async def server() -> AsyncIterator[OpenAIServer]:
    server = OpenAIServer()
    await server.start()
    yield server
    await server.close()


@pytest.fixture
async def generator(server: OpenAIServer) -> AsyncIterator[RemoteGenerator]:
    generator = RemoteGenerator(server.url, model="served", key="sesame")
    await generator.start()
    yield generator
    await generator.close()


async def ask(generator: RemoteGenerator, sampling: Sampling | None = None) -> list[Event]:
    prompt = await generator.encode(QUESTION)
    return [event async for event in generator.stream(prompt, sampling or Sampling())]


# --- what goes out and what comes back ---


async def test_pieces_come_in_order_and_then_one_finish(server: OpenAIServer, generator: RemoteGenerator) -> None:
    server.enqueue(reply("It ", "is ", "这里", " 🐦", tokens=(12, 5)))
    assert await ask(generator) == [Piece("It "), Piece("is "), Piece("这里"), Piece(" 🐦"), Finish("stop", 12, 5)]


async def test_a_reply_at_its_limit_ends_as_length(server: OpenAIServer, generator: RemoteGenerator) -> None:
    server.enqueue(reply("It is", reason="length"))
    assert (await ask(generator))[-1] == Finish("length", 7, 3)


@pytest.mark.parametrize("reason", ["stop", "eos", "tool_calls", "content_filter"])
def test_every_other_reason_is_an_end_like_any(reason: str) -> None:
    async def scenario() -> None:
        server = OpenAIServer()
        await server.start()
        generator = RemoteGenerator(server.url, model="served")
        await generator.start()
        server.enqueue(reply("x", reason=reason))
        assert (await ask(generator))[-1] == Finish("stop", 7, 3)
        await generator.close()
        await server.close()

    asyncio.run(scenario())


async def test_a_server_that_counts_nothing_is_taken_as_it_is(server: OpenAIServer, generator: RemoteGenerator) -> None:
    server.enqueue(Script((chunk("Hi"), chunk(reason="stop", usage=None), DONE)))
    assert await ask(generator) == [Piece("Hi"), Finish("stop", 0, 0)]


async def test_a_count_that_lacks_a_number_is_taken_as_it_is(server: OpenAIServer, generator: RemoteGenerator) -> None:
    server.enqueue(Script((chunk("Hi"), chunk(reason="stop", usage={"prompt_tokens": 4}), DONE)))
    assert (await ask(generator))[-1] == Finish("stop", 4, 0)


async def test_the_marker_at_the_end_may_be_missing(server: OpenAIServer, generator: RemoteGenerator) -> None:
    server.enqueue(Script((chunk("Hi"), chunk(reason="stop"), usage(1, 2))))
    assert await ask(generator) == [Piece("Hi"), Finish("stop", 1, 2)]


async def test_comments_and_other_fields_of_the_stream_are_skipped(
    server: OpenAIServer, generator: RemoteGenerator
) -> None:
    lines = (
        b": keep-alive\n\n",
        b"event: message\n",
        chunk("Hi"),
        b"id: 7\n\n",
        chunk(reason="stop", error=None),
        DONE,
    )
    server.enqueue(Script(lines))
    assert await ask(generator) == [Piece("Hi"), Finish("stop", 0, 0)]


async def test_a_stream_cut_anywhere_into_packets_is_the_same_stream(
    server: OpenAIServer, generator: RemoteGenerator
) -> None:
    whole = ROLE + chunk("你好 ") + chunk("🐦") + chunk(reason="stop") + usage(7, 3) + DONE
    whole = whole.replace(b"\n", b"\r\n")
    server.enqueue(Script(tuple(whole[start : start + 3] for start in range(0, len(whole), 3))))
    assert await ask(generator) == [Piece("你好 "), Piece("🐦"), Finish("stop", 7, 3)]


async def test_the_request_says_what_was_asked_and_no_more(server: OpenAIServer, generator: RemoteGenerator) -> None:
    """Hosted servers refuse fields they don't know."""
    server.enqueue(reply("x"))
    await ask(generator, Sampling(max_tokens=9, temperature=0.5, top_p=0.8))
    assert server.requests == [
        {
            "model": "served",
            "messages": [{"role": one.role, "content": one.content} for one in QUESTION],
            "max_tokens": 9,
            "temperature": 0.5,
            "top_p": 0.8,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]
    assert {one["Authorization"] for one in server.headers} == {"Bearer sesame"}


async def test_everything_that_can_be_asked_is_sent(server: OpenAIServer, generator: RemoteGenerator) -> None:
    server.enqueue(reply("x"))
    await ask(generator, Sampling(top_k=5, min_p=0.1, repetition_penalty=1.2, stop=("END",), seed=3))
    extra = {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.2, "stop": ["END"], "seed": 3}
    assert extra.items() <= server.requests[0].items()


async def test_a_seed_of_zero_is_a_seed(server: OpenAIServer, generator: RemoteGenerator) -> None:
    server.enqueue(reply("x"))
    await ask(generator, Sampling(seed=0))
    assert server.requests[0]["seed"] == 0


async def test_a_version_is_asked_for_by_its_name(
    server: OpenAIServer, generator: RemoteGenerator, tmp_path: Path
) -> None:
    server.enqueue(reply("x"))
    await generator.load_version("night-3", version_folder(tmp_path))
    prompt = await generator.encode(QUESTION)
    assert [one async for one in generator.stream(prompt, Sampling(), "night-3")][-1] == Finish("stop", 7, 3)
    assert server.requests[0]["model"] == "night-3"


async def test_a_prompt_is_counted_carefully_and_named_by_its_content(generator: RemoteGenerator) -> None:
    prompt = await generator.encode(QUESTION)
    again, other = await generator.encode(QUESTION), await generator.encode(QUESTION[1:])
    assert prompt.sha256 == again.sha256 != other.sha256
    assert (prompt.messages, prompt.token_ids) == (QUESTION, ())
    least = sum(len(one.content.encode()) for one in QUESTION) / 4
    assert prompt.num_tokens > least


async def test_streams_run_beside_each_other(server: OpenAIServer, generator: RemoteGenerator) -> None:
    for _ in range(20):
        server.enqueue(reply("one ", "two"))
    replies = await asyncio.gather(*(ask(generator) for _ in range(20)))
    assert replies == [[Piece("one "), Piece("two"), Finish("stop", 7, 3)]] * 20


def version_folder(folder: Path, content: bytes = b"weights") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(content)
    return folder


async def test_a_version_is_loaded_once_and_unloaded(
    server: OpenAIServer, generator: RemoteGenerator, tmp_path: Path
) -> None:
    await generator.load_version("v1", version_folder(tmp_path))
    await generator.load_version("v1", tmp_path)
    assert generator.versions == ("v1",)
    assert server.loras == {"v1": str(tmp_path)}
    await generator.unload_version("v1")
    await generator.unload_version("v1")
    assert (generator.versions, server.loras) == ((), {})


async def test_a_name_stands_for_one_version(generator: RemoteGenerator, tmp_path: Path) -> None:
    await generator.load_version("v1", version_folder(tmp_path / "a"))
    with pytest.raises(VersionError, match="another name"):
        await generator.load_version("v1", version_folder(tmp_path / "b", b"others"))
    with pytest.raises(VersionError, match="SHA-256"):
        await generator.load_version("v2", tmp_path / "a", sha256="0" * 64)
    with pytest.raises(VersionError, match="can't be read"):
        await generator.load_version("v2", tmp_path / "nowhere")
    assert generator.versions == ("v1",)


async def test_a_version_that_the_server_refuses_changes_nothing(
    server: OpenAIServer, generator: RemoteGenerator, tmp_path: Path
) -> None:
    server.refuse_loras = True
    with pytest.raises(VersionError, match="No adapter found"):
        await generator.load_version("v1", version_folder(tmp_path))
    assert generator.versions == ()
    prompt = await generator.encode(QUESTION)
    with pytest.raises(InvalidInput, match="no version"):
        await anext(generator.stream(prompt, Sampling(), "v1"))


async def test_a_server_that_started_anew_gets_its_versions_again(
    server: OpenAIServer, generator: RemoteGenerator, tmp_path: Path
) -> None:
    await generator.load_version("v1", version_folder(tmp_path))
    prompt = await generator.encode(QUESTION)
    server.loras.clear()
    server.enqueue(refusal(404, "The model v1 does not exist"))
    with pytest.raises(GeneratorFailed):
        await anext(generator.stream(prompt, Sampling(), "v1"))
    server.enqueue(reply("x"))
    assert await anext(generator.stream(prompt, Sampling(), "v1")) == Piece("x")
    assert server.loras == {"v1": str(tmp_path)}


async def test_calls_of_functions_are_put_together(server: OpenAIServer, generator: RemoteGenerator) -> None:
    tool = json.dumps({"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}})
    deltas = [
        {"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": {"name": "find", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"order"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ": 7}"}}]},
    ]
    chunks = [event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}) for delta in deltas]
    server.enqueue(Script((*chunks, chunk(reason="tool_calls"), usage(9, 8), DONE)))
    call = ToolCall("c1", "find", '{"order": 7}')
    prompt = await generator.encode(QUESTION, [tool])
    got = [one async for one in generator.stream(prompt, Sampling())]
    assert got == [call, Finish("tool_calls", 9, 8)]
    assert server.requests[0]["tools"] == [json.loads(tool)]
    server.enqueue(reply("done"))
    answered = (*QUESTION, ChatMessage("assistant", "", (call,)), ChatMessage("tool", "sent", tool_call_id="c1"))
    async for _ in generator.stream(await generator.encode(answered, [tool]), Sampling()):
        pass
    assert server.requests[1]["messages"][2]["tool_calls"][0]["function"]["arguments"] == '{"order": 7}'
    assert server.requests[1]["messages"][3]["tool_call_id"] == "c1"


async def test_probabilities_come_with_their_pieces(server: OpenAIServer, generator: RemoteGenerator) -> None:
    row = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105]}
    content = [{**row, "top_logprobs": [row, {"token": "Yo", "logprob": -1.5, "bytes": None}]}]
    choice = {"index": 0, "delta": {"content": "Hi"}, "logprobs": {"content": content}, "finish_reason": None}
    server.enqueue(Script((event({"choices": [choice]}), chunk(reason="stop"), DONE)))
    first = (await ask(generator, Sampling(logprobs=2)))[0]
    top = (TokenLogprob("Hi", b"Hi", -0.5), TokenLogprob("Yo", b"Yo", -1.5))
    assert first == Piece("Hi", (TokenLogprob("Hi", b"Hi", -0.5, top),))
    assert server.requests[0]["logprobs"] is True
    assert server.requests[0]["top_logprobs"] == 2


async def test_a_plain_text_goes_to_completions(server: OpenAIServer, generator: RemoteGenerator) -> None:
    server.enqueue(
        Script((event({"choices": [{"index": 0, "text": " Paris", "finish_reason": "stop"}]}), usage(5, 1), DONE))
    )
    prompt = await generator.encode_text("The capital of France is")
    schema = '{"type": "object"}'
    got = [one async for one in generator.stream(prompt, Sampling(json_schema=schema))]
    assert got == [Piece(" Paris"), Finish("stop", 5, 1)]
    assert server.requests[0]["prompt"] == "The capital of France is"
    assert "messages" not in server.requests[0]
    assert server.requests[0]["response_format"]["json_schema"]["schema"] == json.loads(schema)


# --- several servers ---


@pytest.fixture
async def servers() -> AsyncIterator[list[OpenAIServer]]:
    servers = [OpenAIServer() for _ in range(3)]
    for one in servers:
        await one.start()
    yield servers
    for one in servers:
        await one.close()


async def test_streams_go_to_the_server_with_least_to_do(servers: list[OpenAIServer]) -> None:
    generator = RemoteGenerator(*(one.url for one in servers), model="served")
    await generator.start()
    prompt = await generator.encode(QUESTION)
    open_streams = []
    for _ in range(6):
        for one in servers:
            one.enqueue(Script((chunk("It "),), hold=True))
        stream = generator.stream(prompt, Sampling())
        await anext(stream)
        open_streams.append(stream)
    assert [len(one.requests) for one in servers] == [2, 2, 2]
    await open_streams[2].aclose()
    open_streams.append(generator.stream(prompt, Sampling()))
    await anext(open_streams[-1])
    assert [len(one.requests) for one in servers] == [2, 2, 3]
    for stream in open_streams:
        await stream.aclose()
    await generator.close()


async def test_a_server_that_is_down_or_busy_is_passed_over(servers: list[OpenAIServer]) -> None:
    first, second, third = servers
    await first.close()
    generator = RemoteGenerator(*(one.url for one in servers), model="served")
    await generator.start()
    second.enqueue(refusal(503, "full"))
    third.enqueue(reply("here"))
    assert (await ask(generator))[0] == Piece("here")
    assert len(second.requests) == len(third.requests) == 1
    second.enqueue(refusal(429, "full"))
    third.enqueue(refusal(429, "full too"))
    with pytest.raises(GeneratorBusy):
        await ask(generator)
    await second.close()
    await third.close()
    for _ in range(3):  # connections that were kept open break first
        with contextlib.suppress(GeneratorFailed, GeneratorUnavailable):
            await ask(generator)
    with pytest.raises(GeneratorUnavailable):
        await ask(generator)
    assert not generator.ready
    await generator.close()


async def test_nothing_is_tried_again_after_the_first_piece(servers: list[OpenAIServer]) -> None:
    generator = RemoteGenerator(*(one.url for one in servers), model="served")
    await generator.start()
    for one in servers:
        one.enqueue(Script((chunk("It "),), cut=True))
    with pytest.raises(GeneratorFailed):
        await ask(generator)
    assert sum(len(one.requests) for one in servers) == 1
    await generator.close()


async def test_a_server_that_was_down_loads_a_version_when_it_is_needed(
    servers: list[OpenAIServer], tmp_path: Path
) -> None:
    first, second, _ = servers
    generator = RemoteGenerator(first.url, second.url, model="served")
    await generator.start()
    generator._endpoints[1].note_failure()
    await generator.load_version("v1", version_folder(tmp_path))
    assert (list(first.loras), list(second.loras)) == (["v1"], [])
    generator._endpoints[1].note_success()
    generator._endpoints[0].num_open = 5
    second.enqueue(reply("x"))
    async for _ in generator.stream(await generator.encode(QUESTION), Sampling(), "v1"):
        pass
    assert list(second.loras) == ["v1"]
    await generator.close()


# --- trouble ---


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("9999", 60.0),
        ("-3", 0.0),
        ("nan", 2.0),
        ("inf", 2.0),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 2.0),
    ],
)
async def test_a_busy_server_says_when_to_come_again(
    server: OpenAIServer, generator: RemoteGenerator, status: int, header: str, seconds: float
) -> None:
    server.enqueue(refusal(status, "too many", Retry_After=header))
    with pytest.raises(GeneratorBusy, match="too many") as caught:
        await ask(generator)
    assert caught.value.retry_after == seconds


async def test_a_busy_server_that_says_nothing_is_asked_again_soon(
    server: OpenAIServer, generator: RemoteGenerator
) -> None:
    server.enqueue(refusal(429))
    with pytest.raises(GeneratorBusy) as caught:
        await ask(generator)
    assert caught.value.retry_after == 2.0
    server.enqueue(reply("now"))
    assert (await ask(generator))[0] == Piece("now")


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_refused_prompt_is_the_callers_mistake(
    server: OpenAIServer, generator: RemoteGenerator, status: int
) -> None:
    server.enqueue(refusal(status, "maximum context length is 2048 tokens"))
    with pytest.raises(InvalidInput, match="maximum context length"):
        await ask(generator)


@pytest.mark.parametrize("status", [401, 404, 500, 502])
async def test_any_other_answer_is_a_failure(server: OpenAIServer, generator: RemoteGenerator, status: int) -> None:
    server.enqueue(refusal(status, "oh dear"))
    with pytest.raises(GeneratorFailed, match=f"{status}.*oh dear"):
        await ask(generator)


async def test_an_error_page_in_a_strange_encoding_is_still_an_error(
    server: OpenAIServer, generator: RemoteGenerator
) -> None:
    server.enqueue(Script(status=500, body=b"\xff\xfe oh", headers={"Content-Type": "text/html; charset=utf-8"}))
    with pytest.raises(GeneratorFailed, match="oh"):
        await ask(generator)


BROKEN = {
    "not JSON": b"data: {oops\n\n",
    "not an object": b"data: 5\n\n",
    "null": b"data: null\n\n",
    "an error": event({"error": {"message": "out of memory"}}),
    "an endless line": b"data: " + b"x" * 2_000_000 + b"\n\n",
}


@pytest.mark.parametrize("kind", BROKEN)
async def test_a_broken_stream_is_a_failure(server: OpenAIServer, generator: RemoteGenerator, kind: str) -> None:
    server.enqueue(Script((chunk("It "), BROKEN[kind], chunk("is"), DONE)))
    with pytest.raises(GeneratorFailed):
        await ask(generator)


@pytest.mark.parametrize("lines", [(), (ROLE,), (chunk("It is"),), (chunk("It is"), DONE)])
async def test_a_stream_that_ends_in_the_middle_is_a_failure(
    server: OpenAIServer, generator: RemoteGenerator, lines: tuple[bytes, ...]
) -> None:
    server.enqueue(Script(lines))
    with pytest.raises(GeneratorFailed, match="middle"):
        await ask(generator)


@pytest.mark.parametrize("lines", [(), (ROLE,), (b": hello\n\n",)])
async def test_a_connection_lost_before_the_first_piece_is_a_failure(
    server: OpenAIServer, generator: RemoteGenerator, lines: tuple[bytes, ...]
) -> None:
    """It may be this prompt that broke the server, so that a retry must count."""
    server.enqueue(Script(lines, cut=True))
    with pytest.raises(GeneratorFailed, match="broke"):
        await ask(generator)
    server.enqueue(reply("again"))
    assert (await ask(generator))[0] == Piece("again")


async def test_a_connection_lost_after_the_first_piece_is_a_failure(
    server: OpenAIServer, generator: RemoteGenerator
) -> None:
    server.enqueue(Script((chunk("It "),), cut=True))
    pieces = []
    with pytest.raises(GeneratorFailed, match="broke"):
        async for one in generator.stream(await generator.encode(QUESTION), Sampling()):
            pieces.append(one)
    assert pieces == [Piece("It ")]


async def test_a_server_that_has_gone_may_be_tried_again(server: OpenAIServer, generator: RemoteGenerator) -> None:
    await server.close()
    with contextlib.suppress(GeneratorFailed):
        await ask(generator)  # on the connection that was kept open, where nobody can tell what broke it
    with pytest.raises(GeneratorUnavailable):
        await ask(generator)


async def test_leaving_a_stream_drops_the_connection(server: OpenAIServer, generator: RemoteGenerator) -> None:
    """Servers of this kind go on generating for whoever stays connected."""
    server.enqueue(Script((chunk("It "),), hold=True))
    async with aclosing(generator.stream(await generator.encode(QUESTION), Sampling())) as stream:
        assert await anext(stream) == Piece("It ")
        assert not server.dropped.is_set()
    async with asyncio.timeout(10):
        await server.dropped.wait()


async def test_cancelling_before_the_first_piece_drops_the_connection(
    server: OpenAIServer, generator: RemoteGenerator
) -> None:
    server.enqueue(Script((ROLE,), hold=True))
    asking = asyncio.create_task(ask(generator))
    async with asyncio.timeout(10):
        while not server.requests:
            await asyncio.sleep(0.01)
        asking.cancel()
        await server.dropped.wait()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_a_left_stream_leaves_nothing_behind_for_the_next(
    server: OpenAIServer, generator: RemoteGenerator
) -> None:
    for number in range(3):
        server.enqueue(Script((chunk(f"old {number}"),), hold=True))
        async with aclosing(generator.stream(await generator.encode(QUESTION), Sampling())) as stream:
            await anext(stream)
    server.enqueue(reply("new"))
    assert await ask(generator) == [Piece("new"), Finish("stop", 7, 3)]


# --- start and close ---


async def test_it_is_ready_between_start_and_close(server: OpenAIServer) -> None:
    generator = RemoteGenerator(server.url + "/", model="served")
    assert not generator.ready
    prompt = await generator.encode(QUESTION)
    with pytest.raises(GeneratorUnavailable):
        await anext(generator.stream(prompt, Sampling()))
    await generator.start()
    await generator.start()
    assert generator.ready
    await generator.close()
    await generator.close()
    assert not generator.ready
    with pytest.raises(GeneratorUnavailable):
        await anext(generator.stream(prompt, Sampling()))


async def refused_at_start(url: str, **values: Any) -> str:
    generator = RemoteGenerator(url, **{"model": "served", **values})
    with pytest.raises(ModelError) as caught:
        await generator.start()
    assert not generator.ready
    await generator.close()
    return caught.value.message


async def test_a_model_that_the_server_lacks_is_named_with_those_it_has(server: OpenAIServer) -> None:
    server.models = [{"id": "llama"}, {"id": "qwen"}]
    message = await refused_at_start(server.url)
    assert all(word in message for word in ('"served"', "llama, qwen", "MYNA_MODEL"))


async def test_a_server_without_models_is_told_as_such(server: OpenAIServer) -> None:
    server.models = []
    assert "it has none yet" in await refused_at_start(server.url)


async def test_a_server_that_is_not_there_is_named_with_what_to_do() -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    message = await refused_at_start(url)
    assert all(word in message for word in (url, "can't be reached", "MYNA_REMOTE_URL"))


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (refusal(401), "MYNA_REMOTE_KEY"),
        (refusal(403), "MYNA_REMOTE_KEY"),
        (refusal(404), "usually ends in /v1"),
        (refusal(500), "answered 500"),
        (Script(body=b"<html>Welcome to nginx</html>"), "usually ends in /v1"),
        (Script(body=b"[]"), "does not answer like an OpenAI-compatible server"),
        (Script(body=b'{"data": [{"name": "served"}]}'), "does not answer like an OpenAI-compatible server"),
        (Script(body=b'{"data": 5}'), "does not answer like an OpenAI-compatible server"),
        (Script(body=b'{"data": ["served"]}'), "does not answer like an OpenAI-compatible server"),
    ],
)
async def test_a_server_that_answers_otherwise_is_refused_with_what_to_do(
    server: OpenAIServer, script: Script, words: str
) -> None:
    server.models = script
    message = await refused_at_start(server.url, key="sesame")
    assert words in message
    assert "sesame" not in message


async def test_a_list_of_models_in_any_content_type_is_read(server: OpenAIServer) -> None:
    body = json.dumps({"data": [{"id": "served"}]}).encode()
    server.models = Script(body=body, headers={"Content-Type": "text/plain"})
    generator = RemoteGenerator(server.url, model="served")
    await generator.start()
    await generator.close()


async def test_a_key_that_no_header_can_carry_is_not_repeated(server: OpenAIServer) -> None:
    assert "sesame" not in await refused_at_start(server.url, key="sesame\r\nX-Evil: 1")


async def test_a_window_smaller_than_the_settings_is_kept(server: OpenAIServer) -> None:
    server.models = [{"id": "served", "max_model_len": 1024}]
    generator = RemoteGenerator(server.url, model="served", context_tokens=4096)
    await generator.start()
    assert generator.context_tokens == 1024
    await generator.close()


async def test_a_failed_start_can_be_tried_again(server: OpenAIServer) -> None:
    server.models = []
    generator = RemoteGenerator(server.url, model="served")
    with pytest.raises(ModelError):
        await generator.start()
    server.models = [{"id": "served"}]
    await generator.start()
    assert generator.ready
    await generator.close()


def test_a_missing_address_is_a_mistake_in_the_settings() -> None:
    with pytest.raises(ModelError, match="MYNA_REMOTE_URL"):
        RemoteGenerator("", model="served")


async def test_every_error_of_a_stream_is_one_that_callers_know(
    server: OpenAIServer, generator: RemoteGenerator
) -> None:
    """Whatever bytes come at whatever place, nothing but a `MynaError` may get out."""
    good = [ROLE, chunk("It "), chunk(reason="stop"), usage(1, 1), DONE]
    choices = [None, [{}], [{"delta": None}], [7], 7, "x", [{"delta": {"content": 7}}], [{"delta": "x"}]]
    counts = [7, {"prompt_tokens": "many"}, {"prompt_tokens": [1]}, "x"]
    odd = [event({"choices": one}) for one in choices] + [event({"choices": [], "usage": one}) for one in counts]
    odd += [event([]), b"\xff\xfe\n\n", b"data:\n\n", b"data: \xff\n\n"]
    for place, bad in itertools.product(range(len(good)), odd):
        server.enqueue(Script((*good[:place], bad, *good[place:])))
        try:
            events = await ask(generator)
        except MynaError:
            continue
        assert all(isinstance(one.text, str) and one.text for one in events[:-1] if isinstance(one, Piece))
        assert isinstance(events[-1], Finish)
        assert isinstance(events[-1].prompt_tokens, int)
