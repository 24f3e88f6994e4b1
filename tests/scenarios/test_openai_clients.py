"""Official OpenAI clients and a conformance checker, unmodified, against the API with the real starter model."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel, Field

from bot.completions.api_keys_access import create_key
from bot.generation.engine.local import LocalGenerator
from bot.generation.models.sources import STARTER
from tests.builders.agents import StartAgent
from tests.builders.web import serve
from tests.tools.npm import node_environment

pytestmark = pytest.mark.model
FRANCE: Any = [{"role": "user", "content": "What is the capital of France?"}]
SCRIPT = Path(__file__).parents[1] / "node" / "openai.mjs"


class Borrowed:
    """The shared generator, for an agent that closes its own at the end."""

    def __init__(self, generator: LocalGenerator) -> None:
        self._generator = generator

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass


@pytest.fixture
async def api(
    start_agent: StartAgent, sqlite_url: str, local_generator: LocalGenerator
) -> AsyncIterator[tuple[str, str]]:
    """`(base URL, key)`."""
    generator: Any = Borrowed(local_generator)
    async with start_agent(sqlite_url, generator, temperature=0.0) as agent, serve(agent) as server:
        secret = await create_key(agent.scope, "test", None, None)
        yield f"{server.url}/v1", secret


class City(BaseModel):
    name: str = Field(max_length=20)
    large: bool


def use_python_client(base_url: str, key: str) -> None:
    with openai.OpenAI(base_url=base_url, api_key=key, max_retries=0) as client:
        assert [model.id for model in client.models.list()] == [STARTER]
        answer = client.chat.completions.create(
            model=STARTER, messages=FRANCE, max_tokens=12, temperature=0, seed=1, logprobs=True, top_logprobs=3
        )
        text, logprobs = answer.choices[0].message.content, answer.choices[0].logprobs
        assert "Paris" in (text or "")
        assert answer.usage is not None
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
        assert logprobs is not None
        assert logprobs.content is not None
        assert "".join(one.token for one in logprobs.content) == text
        assert b"".join(bytes(one.bytes or []) for one in logprobs.content).decode() == text
        assert all(one.logprob <= one.top_logprobs[0].logprob <= 0 for one in logprobs.content)
        assert all(len(one.top_logprobs) == 3 for one in logprobs.content)
        with client.chat.completions.stream(
            model=STARTER, messages=FRANCE, max_tokens=12, temperature=0, seed=1, stream_options={"include_usage": True}
        ) as stream:
            streamed = stream.get_final_completion()
        assert (streamed.choices[0].message.content, streamed.usage) == (text, answer.usage)
        parsed = client.chat.completions.parse(
            model=STARTER, messages=FRANCE, response_format=City, max_tokens=60, temperature=0
        )
        assert isinstance(parsed.choices[0].message.parsed, City)
        two = client.chat.completions.create(model=STARTER, messages=FRANCE, n=2, max_tokens=8, temperature=1.5, seed=3)
        again = client.chat.completions.create(
            model=STARTER, messages=FRANCE, n=2, max_tokens=8, temperature=1.5, seed=3
        )
        texts = [[choice.message.content for choice in one.choices] for one in (two, again)]
        assert texts[0] == texts[1]
        assert texts[0][0] != texts[0][1]
        plain = client.completions.create(
            model=STARTER, prompt="The capital of France is", max_tokens=6, temperature=0, seed=1, logprobs=2
        )
        assert "Paris" in plain.choices[0].text
        assert plain.choices[0].logprobs is not None
        assert "".join(plain.choices[0].logprobs.tokens or []) == plain.choices[0].text
    with (
        openai.OpenAI(base_url=base_url, api_key="myna_sk_wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.chat.completions.create(model=STARTER, messages=FRANCE)


async def test_the_python_client(api: tuple[str, str]) -> None:
    await asyncio.to_thread(use_python_client, *api)


async def test_the_async_python_client(api: tuple[str, str]) -> None:
    base_url, key = api
    async with openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0) as client:
        chunks = await client.chat.completions.create(
            model=STARTER, messages=FRANCE, max_tokens=12, temperature=0, seed=1, stream=True
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])
        assert "Paris" in text
        with pytest.raises(openai.NotFoundError) as refused:
            await client.chat.completions.create(model="gpt-9", messages=FRANCE)
        assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
        tool: Any = {
            "type": "function",
            "function": {
                "name": "get_weather",
                "parameters": {
                    "type": "object",
                    "properties": {"location": {"type": "string", "maxLength": 30}},
                    "required": ["location"],
                },
            },
        }
        called = await client.chat.completions.create(
            model=STARTER, messages=FRANCE, tools=[tool], tool_choice="required", max_tokens=60
        )
        assert called.choices[0].finish_reason == "tool_calls"
        (call,) = called.choices[0].message.tool_calls or []
        assert call.type == "function"
        assert isinstance(json.loads(call.function.arguments)["location"], str)
        with pytest.raises(openai.BadRequestError, match="tool_choice"):
            await client.chat.completions.create(model=STARTER, messages=FRANCE, tools=[tool])
        broken: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "a mess"}}}
        with pytest.raises(openai.BadRequestError, match="schema"):
            await client.chat.completions.create(model=STARTER, messages=FRANCE, response_format=broken)


@pytest.mark.node
async def test_the_client_of_node(api: tuple[str, str]) -> None:
    node, environment = node_environment()
    process = await asyncio.create_subprocess_exec(
        node, str(SCRIPT), *api, STARTER, env=environment, stdout=-1, stderr=-1, cwd=SCRIPT.parents[1]
    )
    async with asyncio.timeout(120):
        out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    got = json.loads(out)
    assert "Paris" in got["text"]
    assert got["streamed"] == got["text"]
    assert got["usage"]["completion_tokens"] > 0
    assert set(got["city"]) == {"city", "large"}
    assert got["models"] == [STARTER]
    assert got["refusal"] == {"kind": "NotFoundError", "status": 404, "code": "model_not_found", "param": "model"}


async def test_the_conformance_checker_finds_no_fault(api: tuple[str, str]) -> None:
    base_url, key = api
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "llm_comply.cli",
        "--format",
        "openai-chat",
        "--base-url",
        base_url,
        "--api-key",
        key,
        "--model",
        STARTER,
        "--json",
        stdout=-1,
        stderr=-1,
    )
    async with asyncio.timeout(240):
        out, errors = await process.communicate()
    report = out.decode()
    assert process.returncode == 0, report + errors.decode()
    print(report)
