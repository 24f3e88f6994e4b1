"""A shop with articles: an agent with a scripted model, the real search, and people who ask it.

Knows: two articles for everybody and one for staff. Does not know: what is tested with them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from adapters.cli.wiring import Agent
from bot.chat.live import Ended, Started, Text
from bot.knowledge.search import search as search_module
from storage.values import Accepted, Incoming, Sender, text_part
from tests.fakes.generator import FakeGenerator
from tests.fixtures_knowledge import Desk

if TYPE_CHECKING:
    from tests.conftest import StartAgent

RETURNS = (
    "# Returns\n\nYou can send anything back within 30 days of delivery.\n\n"
    "## Refunds\n\nThe refund arrives after five business days.\n"
)
SHIPPING = "# Shipping\n\nParcels to Germany travel for two days. To Norway postage costs 9 euros.\n"
SALARIES = "# Salaries\n\nSalaries are paid on the first of a month, and bonuses in December.\n"
CONTACT = "help@shop.example"
W = "default"

StartShop = Callable[..., AbstractAsyncContextManager[Agent]]


@pytest.fixture
async def start_shop(
    desk: Desk, start_agent: StartAgent, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> StartShop:
    """Start an agent whose shop has two articles for everybody and one for its staff."""
    monkeypatch.setattr(search_module, "resolve_embedder", lambda *_: None)
    monkeypatch.setattr(search_module, "Embedder", lambda *_, **__: desk.embedder)
    desk.write("public/returns.md", RETURNS)
    desk.write("public/shipping.md", SHIPPING)
    desk.write("staff/salaries.md", SALARIES)
    await desk.add(desk.docs / "public")
    await desk.add(desk.docs / "staff", "staff")

    @asynccontextmanager
    async def start(**options: Any) -> AsyncIterator[Agent]:
        async with start_agent(database_url, **({"contact": CONTACT} | options)) as agent:
            yield agent

    return start


@pytest.fixture
async def shop(start_shop: StartShop) -> AsyncIterator[Agent]:
    async with start_shop() as agent:
        yield agent


def model_of(agent: Agent) -> FakeGenerator:
    assert isinstance(agent.generator, FakeGenerator)
    return agent.generator


class Person:
    """Somebody on a channel, in one conversation."""

    def __init__(self, agent: Agent, channel: str = "web") -> None:
        self.agent, self.channel, self.count = agent, channel, 0

    async def ask(self, text: str) -> tuple[str, list[str]]:
        """`(reply, titles of what it cites)`."""
        self.count += 1
        key = f"{self.channel}:{self.count}"
        incoming = Incoming(self.channel, "c", Sender("v"), key, (text_part(text),), f"m{self.count}")
        return await followed(self.agent, await self.agent.conversations.accept(W, incoming))

    async def history(self) -> list[Any]:
        known = await self.agent.conversations.find(W, self.channel, "c")
        return await self.agent.conversations.history(W, known.id)


async def followed(agent: Agent, accepted: Accepted) -> tuple[str, list[str]]:
    text = ""
    async with asyncio.timeout(60):
        async for batch in agent.conversations.follow(W, accepted):
            for event in batch:
                if isinstance(event, Started):
                    text = ""
                elif isinstance(event, Text):
                    text += event.text
                elif isinstance(event, Ended):
                    return text, [one["title"] for one in event.sources]
    raise AssertionError("the stream ended without an end")
