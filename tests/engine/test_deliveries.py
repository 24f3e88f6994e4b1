"""Delivery of events to event loops: once per step, in order, none lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from adapters.cli.wiring import make_generator
from bot.errors import GeneratorFailed
from bot.generation.engine.generation import Chunk
from bot.generation.engine.local import LocalGenerator, _Deliveries
from bot.generation.engine.runner import Runner
from bot.generation.port import ChatMessage, Event, Finish, Piece, Sampling
from bot.settings import Settings
from tests.builders.tiny_models import save_tiny

ENDLESS = Sampling(max_tokens=400)


class Loop:
    """Stand-in for an event loop that counts its wake-ups."""

    def __init__(self, *, closed: bool = False) -> None:
        self.closed = closed
        self.calls: list[tuple[Callable[..., None], Any]] = []

    def call_soon_threadsafe(self, function: Callable[..., None], *values: Any) -> None:
        if self.closed:
            raise RuntimeError("Event loop is closed")
        self.calls.append((function, values))


class Reply:
    def __init__(self) -> None:
        self.events: asyncio.Queue[Any] = asyncio.Queue()
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


def test_each_loop_is_woken_once_per_step() -> None:
    loops, replies, deliveries = [Loop(), Loop()], [Reply(), Reply(), Reply()], _Deliveries()
    for text in ("a", "b"):
        for loop, reply in zip((loops[0], loops[0], loops[1]), replies, strict=True):
            deliveries.add(loop, reply, Piece(text))  # type: ignore[arg-type]
    assert not loops[0].calls
    deliveries.send()
    deliveries.send()
    assert [len(loop.calls) for loop in loops] == [1, 1]
    for loop in loops:
        for function, values in loop.calls:
            function(*values)
    assert [[reply.events.get_nowait().text for _ in range(2)] for reply in replies] == [["a", "b"]] * 3


def test_a_closed_loop_does_not_block_the_others() -> None:
    closed, open_loop, replies, deliveries = Loop(closed=True), Loop(), [Reply(), Reply()], _Deliveries()
    for loop, reply in zip((closed, open_loop), replies, strict=True):
        deliveries.add(loop, reply, Piece("a"))  # type: ignore[arg-type]
    deliveries.send()
    assert [reply.aborted for reply in replies] == [True, False]
    assert len(open_loop.calls) == 1


@pytest.mark.model
async def test_a_reply_that_ended_in_a_failing_step_is_delivered(
    tmp_path: Path, starter_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unseeded replies are computed together; the seeded reply comes after them and breaks the model."""
    generator = LocalGenerator(save_tiny("llama", tmp_path, starter_model_path), name="tiny", context_tokens=512)
    await generator.start()
    step = Runner.step

    def failing(self: Runner, chunks: Sequence[Chunk], running: Any) -> Any:
        if chunks[0].generation.alone:
            raise ValueError("broken on purpose")
        return step(self, chunks, running)

    monkeypatch.setattr(Runner, "step", failing)
    prompt = await generator.encode([ChatMessage("user", "Hello")])

    async def read(sampling: Sampling) -> list[Event]:
        return [event async for event in generator.stream(prompt, sampling)]

    running = asyncio.create_task(read(ENDLESS))
    await asyncio.sleep(0.05)
    ended, broken = asyncio.create_task(read(Sampling(max_tokens=1))), asyncio.create_task(read(Sampling(seed=1)))
    results = await asyncio.wait_for(asyncio.gather(running, ended, broken, return_exceptions=True), 30)
    await generator.close()
    assert isinstance(results[0], GeneratorFailed)
    assert isinstance(results[2], GeneratorFailed)
    assert isinstance(results[1], list)
    assert isinstance(results[1][-1], Finish)


def test_the_compile_setting_reaches_the_engine(tmp_path: Path) -> None:
    for value, expected in (("on", True), ("off", False)):
        generator = make_generator(Settings(data=tmp_path, model=str(tmp_path), compile=value), print)  # type: ignore[arg-type]
        assert isinstance(generator, LocalGenerator)
        assert generator._compiles == expected
