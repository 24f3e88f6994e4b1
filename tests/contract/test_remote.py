"""Remote generator against a scripted server: wire, load balance, faults.

The scripted server speaks as vLLM and llama.cpp do.
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
async def remote_generator(server: OpenAIServer) -> AsyncIterator[RemoteGenerator]:
    generator = RemoteGenerator(server.url, model="served", key="sesame")
    await generator.start()
    yield generator
    await generator.close()


async def ask(generator: RemoteGenerator, sampling: Sampling | None = None) -> list[Event]:
    prompt = await generator.encode(QUESTION)
    return [event async for event in generator.stream(prompt, sampling or Sampling())]


# --- requests and streams ---


async def test_pieces_come_in_order_and_then_one_finish(
    server: OpenAIServer, remote_generator: RemoteGenerator
) -> None:
    server.enqueue(reply("It ", "is ", "这里", " 🐦", tokens=(12, 5)))
    assert await ask(remote_generator) == [
        Piece("It "),
        Piece("is "),
        Piece("这里"),
        Piece(" 🐦"),
        Finish("stop", 12, 5),
    ]


async def test_a_reply_at_max_tokens_finishes_with_length(
    server: OpenAIServer, remote_generator: RemoteGenerator
) -> None:
    server.enqueue(reply("It is", reason="length"))
    assert (await ask(remote_generator))[-1] == Finish("length", 7, 3)


@pytest.mark.parametrize("reason", ["stop", "eos", "tool_calls", "content_filter"])
def test_every_other_finish_reason_is_stop(reason: str) -> None:
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


async def test_missing_usage_counts_as_zero_tokens(server: OpenAIServer, remote_generator: RemoteGenerator) -> None:
    server.enqueue(Script((chunk("Hi"), chunk(reason="stop", usage=None), DONE)))
    assert await ask(remote_generator) == [Piece("Hi"), Finish("stop", 0, 0)]


async def test_a_missing_number_of_the_usage_counts_as_zero(
    server: OpenAIServer, remote_generator: RemoteGenerator
) -> None:
    server.enqueue(Script((chunk("Hi"), chunk(reason="stop", usage={"prompt_tokens": 4}), DONE)))
    assert (await ask(remote_generator))[-1] == Finish("stop", 4, 0)


async def test_the_done_marker_may_be_missing(server: OpenAIServer, remote_generator: RemoteGenerator) -> None:
    server.enqueue(Script((chunk("Hi"), chunk(reason="stop"), usage(1, 2))))
    assert await ask(remote_generator) == [Piece("Hi"), Finish("stop", 1, 2)]


async def test_comments_and_other_stream_fields_are_skipped(
    server: OpenAIServer, remote_generator: RemoteGenerator
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
    assert await ask(remote_generator) == [Piece("Hi"), Finish("stop", 0, 0)]


async def test_packet_boundaries_do_not_change_a_stream(
    server: OpenAIServer, remote_generator: RemoteGenerator
) -> None:
    whole = ROLE + chunk("你好 ") + chunk("🐦") + chunk(reason="stop") + usage(7, 3) + DONE
    whole = whole.replace(b"\n", b"\r\n")
    server.enqueue(Script(tuple(whole[start : start + 3] for start in range(0, len(whole), 3))))
    assert await ask(remote_generator) == [Piece("你好 "), Piece("🐦"), Finish("stop", 7, 3)]


async def test_default_sampling_values_are_not_sent(server: OpenAIServer, remote_generator: RemoteGenerator) -> None:
    """Hosted servers refuse fields they don't know."""
    server.enqueue(reply("x"))
    await ask(remote_generator, Sampling(max_tokens=9, temperature=0.5, top_p=0.8))
    assert server.requests == [
        {
            "model": "served",
            "messages": [{"role": message.role, "content": message.content} for message in QUESTION],
            "max_tokens": 9,
            "temperature": 0.5,
            "top_p": 0.8,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer sesame"}


async def test_every_changed_sampling_value_is_sent(server: OpenAIServer, remote_generator: RemoteGenerator) -> None:
    server.enqueue(reply("x"))
    await ask(remote_generator, Sampling(top_k=5, min_p=0.1, repetition_penalty=1.2, stop=("END",), seed=3))
    extra = {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.2, "stop": ["END"], "seed": 3}
    assert extra.items() <= server.requests[0].items()


async def test_a_seed_of_zero_is_sent(server: OpenAIServer, remote_generator: RemoteGenerator) -> None:
    server.enqueue(reply("x"))
    await ask(remote_generator, Sampling(seed=0))
    assert server.requests[0]["seed"] == 0


async def test_a_version_is_requested_by_its_name(
    server: OpenAIServer, remote_generator: RemoteGenerator, tmp_path: Path
) -> None:
    server.enqueue(reply("x"))
    await remote_generator.load_version("night-3", version_folder(tmp_path))
    prompt = await remote_generator.encode(QUESTION)
    assert [one async for one in remote_generator.stream(prompt, Sampling(), "night-3")][-1] == Finish("stop", 7, 3)
    assert server.requests[0]["model"] == "night-3"


async def test_prompt_tokens_are_estimated_and_content_is_hashed(remote_generator: RemoteGenerator) -> None:
    prompt = await remote_generator.encode(QUESTION)
    again, other = await remote_generator.encode(QUESTION), await remote_generator.encode(QUESTION[1:])
    assert prompt.sha256 == again.sha256 != other.sha256
    assert (prompt.messages, prompt.token_ids) == (QUESTION, ())
    least = sum(len(message.content.encode()) for message in QUESTION) / 4
    assert prompt.num_tokens > least


async def test_streams_run_concurrently(server: OpenAIServer, remote_generator: RemoteGenerator) -> None:
    for _ in range(20):
        server.enqueue(reply("one ", "two"))
    replies = await asyncio.gather(*(ask(remote_generator) for _ in range(20)))
    assert replies == [[Piece("one "), Piece("two"), Finish("stop", 7, 3)]] * 20


def version_folder(folder: Path, content: bytes = b"weights") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(content)
    return folder


async def test_a_version_is_loaded_once_and_unloaded(
    server: OpenAIServer, remote_generator: RemoteGenerator, tmp_path: Path
) -> None:
    await remote_generator.load_version("v1", version_folder(tmp_path))
    await remote_generator.load_version("v1", tmp_path)
    assert remote_generator.versions == ("v1",)
    assert server.loras == {"v1": str(tmp_path)}
    await remote_generator.unload_version("v1")
    await remote_generator.unload_version("v1")
    assert (remote_generator.versions, server.loras) == ((), {})


async def test_a_version_name_stands_for_one_file(remote_generator: RemoteGenerator, tmp_path: Path) -> None:
    await remote_generator.load_version("v1", version_folder(tmp_path / "a"))
    with pytest.raises(VersionError, match="another name"):
        await remote_generator.load_version("v1", version_folder(tmp_path / "b", b"others"))
    with pytest.raises(VersionError, match="SHA-256"):
        await remote_generator.load_version("v2", tmp_path / "a", sha256="0" * 64)
    with pytest.raises(VersionError, match="can't be read"):
        await remote_generator.load_version("v2", tmp_path / "nowhere")
    assert remote_generator.versions == ("v1",)


async def test_a_version_refused_by_the_server_changes_nothing(
    server: OpenAIServer, remote_generator: RemoteGenerator, tmp_path: Path
) -> None:
    server.refuse_loras = True
    with pytest.raises(VersionError, match="No adapter found"):
        await remote_generator.load_version("v1", version_folder(tmp_path))
    assert remote_generator.versions == ()
    prompt = await remote_generator.encode(QUESTION)
    with pytest.raises(InvalidInput, match="no version"):
        await anext(remote_generator.stream(prompt, Sampling(), "v1"))


async def test_a_restarted_server_gets_its_versions_again(
    server: OpenAIServer, remote_generator: RemoteGenerator, tmp_path: Path
) -> None:
    await remote_generator.load_version("v1", version_folder(tmp_path))
    prompt = await remote_generator.encode(QUESTION)
    server.loras.clear()
    server.enqueue(refusal(404, "The model v1 does not exist"))
    with pytest.raises(GeneratorFailed):
        await anext(remote_generator.stream(prompt, Sampling(), "v1"))
    server.enqueue(reply("x"))
    assert await anext(remote_generator.stream(prompt, Sampling(), "v1")) == Piece("x")
    assert server.loras == {"v1": str(tmp_path)}


async def test_tool_call_deltas_are_joined(server: OpenAIServer, remote_generator: RemoteGenerator) -> None:
    tool = json.dumps({"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}})
    deltas = [
        {"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": {"name": "find", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"order"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ": 7}"}}]},
    ]
    chunks = [event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}) for delta in deltas]
    server.enqueue(Script((*chunks, chunk(reason="tool_calls"), usage(9, 8), DONE)))
    call = ToolCall("c1", "find", '{"order": 7}')
    prompt = await remote_generator.encode(QUESTION, [tool])
    received = [event async for event in remote_generator.stream(prompt, Sampling())]
    assert received == [call, Finish("tool_calls", 9, 8)]
    assert server.requests[0]["tools"] == [json.loads(tool)]
    server.enqueue(reply("done"))
    answered = (*QUESTION, ChatMessage("assistant", "", (call,)), ChatMessage("tool", "sent", tool_call_id="c1"))
    async for _ in remote_generator.stream(await remote_generator.encode(answered, [tool]), Sampling()):
        pass
    assert server.requests[1]["messages"][2]["tool_calls"][0]["function"]["arguments"] == '{"order": 7}'
    assert server.requests[1]["messages"][3]["tool_call_id"] == "c1"


async def test_logprobs_come_with_their_pieces(server: OpenAIServer, remote_generator: RemoteGenerator) -> None:
    row = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105]}
    content = [{**row, "top_logprobs": [row, {"token": "Yo", "logprob": -1.5, "bytes": None}]}]
    choice = {"index": 0, "delta": {"content": "Hi"}, "logprobs": {"content": content}, "finish_reason": None}
    server.enqueue(Script((event({"choices": [choice]}), chunk(reason="stop"), DONE)))
    first = (await ask(remote_generator, Sampling(logprobs=2)))[0]
    top = (TokenLogprob("Hi", b"Hi", -0.5), TokenLogprob("Yo", b"Yo", -1.5))
    assert first == Piece("Hi", (TokenLogprob("Hi", b"Hi", -0.5, top),))
    assert server.requests[0]["logprobs"] is True
    assert server.requests[0]["top_logprobs"] == 2


async def test_plain_text_goes_to_completions(server: OpenAIServer, remote_generator: RemoteGenerator) -> None:
    server.enqueue(
        Script((event({"choices": [{"index": 0, "text": " Paris", "finish_reason": "stop"}]}), usage(5, 1), DONE))
    )
    prompt = await remote_generator.encode_text("The capital of France is")
    schema = '{"type": "object"}'
    received = [event async for event in remote_generator.stream(prompt, Sampling(json_schema=schema))]
    assert received == [Piece(" Paris"), Finish("stop", 5, 1)]
    assert server.requests[0]["prompt"] == "The capital of France is"
    assert "messages" not in server.requests[0]
    assert server.requests[0]["response_format"]["json_schema"]["schema"] == json.loads(schema)


# --- several servers ---


@pytest.fixture
async def servers() -> AsyncIterator[list[OpenAIServer]]:
    servers = [OpenAIServer() for _ in range(3)]
    for server in servers:
        await server.start()
    yield servers
    for server in servers:
        await server.close()


async def test_streams_go_to_the_least_busy_server(servers: list[OpenAIServer]) -> None:
    generator = RemoteGenerator(*(server.url for server in servers), model="served")
    await generator.start()
    prompt = await generator.encode(QUESTION)
    open_streams = []
    for _ in range(6):
        for server in servers:
            server.enqueue(Script((chunk("It "),), hold=True))
        stream = generator.stream(prompt, Sampling())
        await anext(stream)
        open_streams.append(stream)
    assert [len(server.requests) for server in servers] == [2, 2, 2]
    await open_streams[2].aclose()
    open_streams.append(generator.stream(prompt, Sampling()))
    await anext(open_streams[-1])
    assert [len(server.requests) for server in servers] == [2, 2, 3]
    for stream in open_streams:
        await stream.aclose()
    await generator.close()


async def test_a_down_or_busy_server_is_passed_over(servers: list[OpenAIServer]) -> None:
    first, second, third = servers
    await first.close()
    generator = RemoteGenerator(*(server.url for server in servers), model="served")
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


async def test_nothing_is_retried_after_the_first_piece(servers: list[OpenAIServer]) -> None:
    generator = RemoteGenerator(*(server.url for server in servers), model="served")
    await generator.start()
    for server in servers:
        server.enqueue(Script((chunk("It "),), cut=True))
    with pytest.raises(GeneratorFailed):
        await ask(generator)
    assert sum(len(server.requests) for server in servers) == 1
    await generator.close()


async def test_a_server_that_was_down_loads_a_version_on_demand(servers: list[OpenAIServer], tmp_path: Path) -> None:
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


# --- faults ---


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
async def test_retry_after_of_a_busy_server_is_passed_on(
    server: OpenAIServer, remote_generator: RemoteGenerator, status: int, header: str, seconds: float
) -> None:
    server.enqueue(refusal(status, "too many", Retry_After=header))
    with pytest.raises(GeneratorBusy, match="too many") as caught:
        await ask(remote_generator)
    assert caught.value.retry_after == seconds


async def test_without_retry_after_the_wait_is_two_seconds(
    server: OpenAIServer, remote_generator: RemoteGenerator
) -> None:
    server.enqueue(refusal(429))
    with pytest.raises(GeneratorBusy) as caught:
        await ask(remote_generator)
    assert caught.value.retry_after == 2.0
    server.enqueue(reply("now"))
    assert (await ask(remote_generator))[0] == Piece("now")


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_refused_prompt_is_invalid_input(
    server: OpenAIServer, remote_generator: RemoteGenerator, status: int
) -> None:
    server.enqueue(refusal(status, "maximum context length is 2048 tokens"))
    with pytest.raises(InvalidInput, match="maximum context length"):
        await ask(remote_generator)


@pytest.mark.parametrize("status", [401, 404, 500, 502])
async def test_other_error_statuses_are_failures(
    server: OpenAIServer, remote_generator: RemoteGenerator, status: int
) -> None:
    server.enqueue(refusal(status, "oh dear"))
    with pytest.raises(GeneratorFailed, match=f"{status}.*oh dear"):
        await ask(remote_generator)


async def test_an_error_page_in_a_wrong_encoding_is_an_error(
    server: OpenAIServer, remote_generator: RemoteGenerator
) -> None:
    server.enqueue(Script(status=500, body=b"\xff\xfe oh", headers={"Content-Type": "text/html; charset=utf-8"}))
    with pytest.raises(GeneratorFailed, match="oh"):
        await ask(remote_generator)


BROKEN = {
    "not JSON": b"data: {oops\n\n",
    "not an object": b"data: 5\n\n",
    "null": b"data: null\n\n",
    "an error": event({"error": {"message": "out of memory"}}),
    "an endless line": b"data: " + b"x" * 2_000_000 + b"\n\n",
}


@pytest.mark.parametrize("kind", BROKEN)
async def test_a_broken_stream_is_a_failure(server: OpenAIServer, remote_generator: RemoteGenerator, kind: str) -> None:
    server.enqueue(Script((chunk("It "), BROKEN[kind], chunk("is"), DONE)))
    with pytest.raises(GeneratorFailed):
        await ask(remote_generator)


@pytest.mark.parametrize("lines", [(), (ROLE,), (chunk("It is"),), (chunk("It is"), DONE)])
async def test_a_stream_that_ends_early_is_a_failure(
    server: OpenAIServer, remote_generator: RemoteGenerator, lines: tuple[bytes, ...]
) -> None:
    server.enqueue(Script(lines))
    with pytest.raises(GeneratorFailed, match="middle"):
        await ask(remote_generator)


@pytest.mark.parametrize("lines", [(), (ROLE,), (b": hello\n\n",)])
async def test_a_connection_lost_before_the_first_piece_is_a_failure(
    server: OpenAIServer, remote_generator: RemoteGenerator, lines: tuple[bytes, ...]
) -> None:
    """The prompt may have broken the server, so that the try must count."""
    server.enqueue(Script(lines, cut=True))
    with pytest.raises(GeneratorFailed, match="broke"):
        await ask(remote_generator)
    server.enqueue(reply("again"))
    assert (await ask(remote_generator))[0] == Piece("again")


async def test_a_connection_lost_after_the_first_piece_is_a_failure(
    server: OpenAIServer, remote_generator: RemoteGenerator
) -> None:
    server.enqueue(Script((chunk("It "),), cut=True))
    pieces = []
    with pytest.raises(GeneratorFailed, match="broke"):
        async for one in remote_generator.stream(await remote_generator.encode(QUESTION), Sampling()):
            pieces.append(one)
    assert pieces == [Piece("It ")]


async def test_a_stopped_server_is_unavailable(server: OpenAIServer, remote_generator: RemoteGenerator) -> None:
    await server.close()
    with contextlib.suppress(GeneratorFailed):
        await ask(remote_generator)  # on the connection that was kept open, where nobody can tell what broke it
    with pytest.raises(GeneratorUnavailable):
        await ask(remote_generator)


async def test_closing_a_stream_drops_the_connection(server: OpenAIServer, remote_generator: RemoteGenerator) -> None:
    """Servers of this kind go on generating for whoever stays connected."""
    server.enqueue(Script((chunk("It "),), hold=True))
    async with aclosing(remote_generator.stream(await remote_generator.encode(QUESTION), Sampling())) as stream:
        assert await anext(stream) == Piece("It ")
        assert not server.dropped.is_set()
    async with asyncio.timeout(10):
        await server.dropped.wait()


async def test_cancelling_before_the_first_piece_drops_the_connection(
    server: OpenAIServer, remote_generator: RemoteGenerator
) -> None:
    server.enqueue(Script((ROLE,), hold=True))
    asking = asyncio.create_task(ask(remote_generator))
    async with asyncio.timeout(10):
        while not server.requests:
            await asyncio.sleep(0.01)
        asking.cancel()
        await server.dropped.wait()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_a_closed_stream_does_not_leak_into_the_next(
    server: OpenAIServer, remote_generator: RemoteGenerator
) -> None:
    for number in range(3):
        server.enqueue(Script((chunk(f"old {number}"),), hold=True))
        async with aclosing(remote_generator.stream(await remote_generator.encode(QUESTION), Sampling())) as stream:
            await anext(stream)
    server.enqueue(reply("new"))
    assert await ask(remote_generator) == [Piece("new"), Finish("stop", 7, 3)]


# --- start and close ---


async def test_the_generator_is_ready_from_start_to_close(server: OpenAIServer) -> None:
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


async def test_a_missing_model_is_named_with_the_offered_ones(server: OpenAIServer) -> None:
    server.models = [{"id": "llama"}, {"id": "qwen"}]
    message = await refused_at_start(server.url)
    assert all(word in message for word in ('"served"', "llama, qwen", "MYNA_MODEL"))


async def test_a_server_without_models_is_reported(server: OpenAIServer) -> None:
    server.models = []
    assert "it has none yet" in await refused_at_start(server.url)


async def test_an_unreachable_server_is_reported_with_the_remedy() -> None:
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
async def test_a_wrong_answer_at_start_is_reported_with_the_remedy(
    server: OpenAIServer, script: Script, words: str
) -> None:
    server.models = script
    message = await refused_at_start(server.url, key="sesame")
    assert words in message
    assert "sesame" not in message


async def test_the_model_list_is_read_in_any_content_type(server: OpenAIServer) -> None:
    body = json.dumps({"data": [{"id": "served"}]}).encode()
    server.models = Script(body=body, headers={"Content-Type": "text/plain"})
    generator = RemoteGenerator(server.url, model="served")
    await generator.start()
    await generator.close()


async def test_a_key_that_no_header_can_carry_is_not_shown(server: OpenAIServer) -> None:
    assert "sesame" not in await refused_at_start(server.url, key="sesame\r\nX-Evil: 1")


async def test_a_smaller_context_window_of_the_server_applies(server: OpenAIServer) -> None:
    server.models = [{"id": "served", "max_model_len": 1024}]
    generator = RemoteGenerator(server.url, model="served", context_tokens=4096)
    await generator.start()
    assert generator.context_tokens == 1024
    await generator.close()


async def test_a_failed_start_can_be_retried(server: OpenAIServer) -> None:
    server.models = []
    generator = RemoteGenerator(server.url, model="served")
    with pytest.raises(ModelError):
        await generator.start()
    server.models = [{"id": "served"}]
    await generator.start()
    assert generator.ready
    await generator.close()


def test_a_missing_url_is_a_settings_error() -> None:
    with pytest.raises(ModelError, match="MYNA_REMOTE_URL"):
        RemoteGenerator("", model="served")


async def test_malformed_streams_raise_only_myna_errors(
    server: OpenAIServer, remote_generator: RemoteGenerator
) -> None:
    """Whatever bytes come at whatever place, nothing but a `MynaError` may get out."""
    good = [ROLE, chunk("It "), chunk(reason="stop"), usage(1, 1), DONE]
    choices = [None, [{}], [{"delta": None}], [7], 7, "x", [{"delta": {"content": 7}}], [{"delta": "x"}]]
    counts = [7, {"prompt_tokens": "many"}, {"prompt_tokens": [1]}, "x"]
    odd = [event({"choices": value}) for value in choices]
    odd += [event({"choices": [], "usage": value}) for value in counts]
    odd += [event([]), b"\xff\xfe\n\n", b"data:\n\n", b"data: \xff\n\n"]
    for index, bad in itertools.product(range(len(good)), odd):
        server.enqueue(Script((*good[:index], bad, *good[index:])))
        try:
            events = await ask(remote_generator)
        except MynaError:
            continue
        assert all(isinstance(piece.text, str) and piece.text for piece in events[:-1] if isinstance(piece, Piece))
        assert isinstance(events[-1], Finish)
        assert isinstance(events[-1].prompt_tokens, int)
