"""Turn log: one line for each turn of chats and programs, with its outcome and times but none of its words."""

from __future__ import annotations

import asyncio
import logging

import pytest

from adapters.cli.wiring import Agent
from bot.errors import GeneratorFailed
from storage.values import Accepted, Incoming, Sender, text_part
from tests.builders.agents import StartAgent, model_of, reply_to
from tests.builders.programs import new_program, question
from tests.builders.shop import W
from tests.builders.waiting import until
from tests.builders.web import WebServer
from tests.fakes.generator import FakeGenerator

FIELDS = ["reply", "channel", "state", "version", "waited_ms", "first_ms", "total_ms"]
SECRET = "heliotrope"


@pytest.fixture(autouse=True)
def at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "myna")


def turns_in(caplog: pytest.LogCaptureFixture) -> list[dict[str, str]]:
    lines = [record.getMessage() for record in caplog.records if record.name == "myna.turn"]
    assert not [line for line in lines if SECRET in line]
    assert all(record.levelname == "INFO" for record in caplog.records if record.name == "myna.turn")
    assert all(line.startswith("turn ") for line in lines)
    found = [dict(pair.split("=", 1) for pair in line.split(" ")[1:]) for line in lines]
    assert all(list(turn) == FIELDS for turn in found)
    return found


async def say(agent: Agent, text: str) -> Accepted:
    incoming = Incoming("web", "c", Sender("v"), text, (text_part(text),))
    return await agent.conversations.accept(W, incoming)


async def test_a_reply_that_was_given(agent: Agent, caplog: pytest.LogCaptureFixture) -> None:
    accepted = await say(agent, f"hello {SECRET}")
    assert await reply_to(agent, accepted) == ("answered", f"hello {SECRET}")
    (turn,) = turns_in(caplog)
    assert turn["reply"].startswith(f"{accepted.conversation_id}-")
    assert (turn["channel"], turn["state"], turn["version"]) == ("web", "answered", "-")
    assert 0 <= int(turn["first_ms"]) <= int(turn["total_ms"])
    assert int(turn["waited_ms"]) >= 0


async def test_a_reply_that_was_stopped(agent: Agent, caplog: pytest.LogCaptureFixture) -> None:
    model_of(agent).enqueue("", SECRET, hold=asyncio.Event())
    accepted = await say(agent, "tell me a story")
    await until(lambda: model_of(agent).num_open == 1)
    assert await agent.conversations.stop(W, accepted.conversation_id, None)
    assert await reply_to(agent, accepted) == ("stopped", "")
    (turn,) = turns_in(caplog)
    assert (turn["state"], turn["first_ms"]) == ("stopped", "-")


async def test_a_failed_reply_and_each_attempt_before_it(
    start_agent: StartAgent, sqlite_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.chat.turns.FIRST_RETRY_SECONDS", 0.01)
    monkeypatch.setattr("bot.chat.reply_maker.MAX_ATTEMPTS", 2)
    generator = FakeGenerator()
    for _ in range(2):
        generator.enqueue("half ", error=GeneratorFailed(), hold=None)
    async with start_agent(sqlite_url, generator) as agent:
        state, _ = await reply_to(agent, await say(agent, SECRET))
        assert state == "failed"
    assert [turn["state"] for turn in turns_in(caplog)] == ["error", "error", "failed"]


async def test_a_completion_without_memory(sqlite_server: WebServer, caplog: pytest.LogCaptureFixture) -> None:
    program = await new_program(sqlite_server)
    answer = await program.ask(question(SECRET))
    (turn,) = turns_in(caplog)
    assert answer["id"] == f"chatcmpl-{turn['reply']}"
    assert (turn["channel"], turn["state"], turn["version"], turn["waited_ms"]) == ("api", "answered", "-", "-")
    assert 0 <= int(turn["first_ms"]) <= int(turn["total_ms"])


@pytest.mark.parametrize("error", [GeneratorFailed(), ZeroDivisionError("a bug")])
async def test_a_completion_that_failed(
    sqlite_server: WebServer, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    sqlite_server.generator.enqueue("half ", error=error)
    await (await new_program(sqlite_server)).ask(question(), status=500)
    assert [turn["state"] for turn in turns_in(caplog)] == ["failed"]


async def test_a_completion_whose_caller_left(sqlite_server: WebServer, caplog: pytest.LogCaptureFixture) -> None:
    generator = sqlite_server.generator
    generator.enqueue("", SECRET, hold=asyncio.Event())
    program = await new_program(sqlite_server)
    asking = asyncio.create_task(program.ask(question()))
    await until(lambda: generator.num_open == 1)
    asking.cancel()
    await asyncio.wait([asking])
    await until(lambda: turns_in(caplog))
    assert [turn["state"] for turn in turns_in(caplog)] == ["stopped"]


async def test_a_reply_with_memory_is_one_turn(sqlite_server: WebServer, caplog: pytest.LogCaptureFixture) -> None:
    program = await new_program(sqlite_server)
    answer = await program.ask(question(SECRET, metadata={"conversation": "order-7"}))
    (turn,) = turns_in(caplog)
    assert (answer["id"], turn["channel"]) == (f"chatcmpl-{turn['reply']}", "api")
