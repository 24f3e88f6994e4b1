"""A running agent with a scripted model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from adapters.cli.wiring import Agent
from bot.chat.live import Ended, Started, Text
from storage.schema import DEFAULT_WORKSPACE
from storage.values import Accepted
from tests.fakes.generator import FakeGenerator

StartAgent = Callable[..., AbstractAsyncContextManager[Agent]]


def model_of(agent: Agent) -> FakeGenerator:
    assert isinstance(agent.generator, FakeGenerator)
    return agent.generator


async def ended_reply(agent: Agent, accepted: Accepted) -> tuple[str, Ended]:
    """Follow a reply, and return its text and how it ended."""
    text = ""
    async with asyncio.timeout(60):
        async for batch in agent.conversations.history.follow(DEFAULT_WORKSPACE, accepted):
            for event in batch:
                if isinstance(event, Started):
                    text = ""
                elif isinstance(event, Text):
                    text += event.text
                elif isinstance(event, Ended):
                    return text, event
    raise AssertionError("the stream ended without an end")


async def reply_to(agent: Agent, accepted: Accepted) -> tuple[str, str]:
    """Return `(state, text)` of the reply, once it has ended."""
    text, end = await ended_reply(agent, accepted)
    return end.state, text
