"""Constrained decoding, logprobs and priorities, with the starter model."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from bot.errors import InvalidInput
from bot.generation.engine.local import LocalGenerator
from bot.generation.port import ChatMessage, Finish, Piece, Prompt, Sampling

pytestmark = pytest.mark.model
ORDER = {
    "type": "object",
    "properties": {
        "order": {"type": "integer", "minimum": 0, "maximum": 9999},
        "name": {"type": "string", "maxLength": 12},
        "state": {"enum": ["open", "größer als 你好", "closed"]},
        "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]{1,5}$"}, "maxItems": 3},
    },
    "required": ["order", "name", "state", "tags"],
    "additionalProperties": False,
}


@pytest.fixture
async def prompt(local_generator: LocalGenerator) -> Prompt:
    return await local_generator.encode([ChatMessage("user", "Describe an order as JSON.")])


async def run(generator: LocalGenerator, prompt: Prompt, sampling: Sampling) -> tuple[str, Finish, list[Piece]]:
    events = [event async for event in generator.stream(prompt, sampling)]
    pieces = [event for event in events if isinstance(event, Piece)]
    assert isinstance(events[-1], Finish)
    return "".join(piece.text for piece in pieces), events[-1], pieces


@pytest.mark.parametrize("temperature", [0.0, 1.0, 2.5])
async def test_a_reply_follows_its_schema(local_generator: LocalGenerator, prompt: Prompt, temperature: float) -> None:
    sampling = Sampling(max_tokens=150, temperature=temperature, seed=1, json_schema=json.dumps(ORDER))
    text, finish, _ = await run(local_generator, prompt, sampling)
    assert finish.reason == "stop"
    jsonschema.validate(json.loads(text), ORDER)


async def test_replies_with_and_without_a_schema_run_together(local_generator: LocalGenerator, prompt: Prompt) -> None:
    colour = {"enum": ["red", "green"]}
    sampling = Sampling(max_tokens=60, temperature=1.0)
    constrained = replace(sampling, json_schema=json.dumps(colour))
    found = await asyncio.gather(
        *(run(local_generator, prompt, values) for values in [constrained, sampling, constrained, sampling])
    )
    assert {json.loads(found[index][0]) for index in (0, 2)} <= {"red", "green"}
    assert all(len(found[index][0]) > 10 for index in (1, 3))


@pytest.mark.parametrize(
    "schema", ["{", "[]", '"text"', '{"type": "no such type"}', '{"$ref": "https://x.example/y"}', "[" * 5000]
)
async def test_an_invalid_schema_is_refused(local_generator: LocalGenerator, prompt: Prompt, schema: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        await run(local_generator, prompt, Sampling(json_schema=schema))
    assert refused.value.field == "json_schema"
    assert not local_generator._open


async def test_logprobs_belong_to_the_tokens_of_the_text(local_generator: LocalGenerator, prompt: Prompt) -> None:
    text, finish, pieces = await run(
        local_generator, prompt, Sampling(max_tokens=12, temperature=2.0, seed=4, logprobs=5)
    )
    tokens = [token for piece in pieces for token in piece.logprobs]
    assert len(tokens) == finish.completion_tokens
    assert b"".join(token.bytes for token in tokens).decode() == text
    for token in tokens:
        logprobs = [likely.logprob for likely in token.top]
        assert token.logprob <= logprobs[0] <= 0
        assert logprobs == sorted(logprobs, reverse=True)
        assert sum(math.exp(logprob) for logprob in logprobs) <= 1.0001


async def test_an_urgent_reply_starts_before_waiting_ones(local_generator: LocalGenerator, prompt: Prompt) -> None:
    """All rows are taken by patient replies; of the waiting replies, the urgent one starts next."""
    long = Sampling(max_tokens=12)
    order: list[Any] = []

    async def ask(name: str, priority: int) -> None:
        async for _ in local_generator.stream(prompt, long, priority=priority):
            if name not in order:
                order.append(name)

    patient = [asyncio.create_task(ask(f"patient {number}", 10)) for number in range(40)]
    await asyncio.sleep(0.2)
    urgent = asyncio.create_task(ask("urgent", 0))
    await asyncio.gather(urgent, *patient)
    assert order.index("urgent") <= 32, "waiting replies come after it"


async def test_a_longer_conversation_begins_with_the_same_tokens(local_generator: LocalGenerator) -> None:
    """Otherwise no prefix of earlier turns could be taken from the cache."""
    messages = [ChatMessage("system", "Be brief."), ChatMessage("user", "What is the capital of France?")]
    for question in ("And of Spain?", "Which of both has more people? 你好"):
        before = await local_generator.encode(messages)
        text, _, _ = await run(local_generator, before, Sampling(max_tokens=20, temperature=0.8, seed=2))
        messages += [ChatMessage("assistant", text), ChatMessage("user", question)]
        after = await local_generator.encode(messages)
        assert after.token_ids[: before.num_tokens] == before.token_ids
