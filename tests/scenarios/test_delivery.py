"""Outbox delivery under a running agent: order, retries, and the search before a second post.

The channel is scripted by each test.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa

from adapters.cli.wiring import Agent
from bot.chat.delivery import Never, NotNow, Unknown
from storage.schema import DEFAULT_WORKSPACE as W
from storage.schema import outbox
from storage.values import Incoming, Outgoing, Sender, text_part
from tests.builders.agents import StartAgent

pytestmark = pytest.mark.both_databases("the outbox and its leases")


class Channel:
    """A channel that posts, unless the next of `troubles` is something else. A trouble may come after the posting."""

    def __init__(self) -> None:
        self.posted: list[str] = []
        self.looked_for = 0
        self.troubles: deque[tuple[Exception, bool]] = deque()

    async def post(self, outgoing: Outgoing) -> str:
        trouble, arrives = self.troubles.popleft() if self.troubles else (None, True)
        if arrives:
            self.posted.append(outgoing.body["text"])
        if trouble is not None:
            raise trouble
        return f"p{len(self.posted)}"

    async def find(self, outgoing: Outgoing) -> str | None:
        self.looked_for += 1
        text = outgoing.body["text"]
        return f"p{self.posted.index(text) + 1}" if text in self.posted else None


@pytest.fixture
def channel(monkeypatch: pytest.MonkeyPatch) -> Channel:
    monkeypatch.setattr("bot.chat.delivery.LOOK_AGAIN_SECONDS", 0.01)
    monkeypatch.setattr("bot.chat.delivery.POLL_SECONDS", 0.02)
    return Channel()


@pytest.fixture
async def posting_agent(start_agent: StartAgent, database_url: str, channel: Channel) -> AsyncIterator[Agent]:
    async with start_agent(database_url, posters={"called": channel}) as running:
        yield running


async def say(agent: Agent, text: str) -> None:
    incoming = Incoming("called", "c", Sender("ana"), f"called/{text}", (text_part(text),))
    accepted = await agent.conversations.accept(W, incoming)
    async for _ in agent.conversations.history.follow(W, accepted):
        pass


async def outcomes(agent: Agent, count: int) -> list[tuple[str, int]]:
    """State and attempts of each post, once none is open."""

    def read(tx: Any) -> list[tuple[str, int]]:
        rows = tx.connection.execute(sa.select(outbox.c.state, outbox.c.attempts).order_by(outbox.c.last_seq))
        return [(row.state, row.attempts) for row in rows]

    async with asyncio.timeout(10):
        while True:
            found = await agent.database.read(read, W)
            if len(found) == count and not any(state in ("pending", "sending") for state, _ in found):
                return found
            await asyncio.sleep(0.01)


async def test_replies_are_posted_in_order_and_once(posting_agent: Agent, channel: Channel) -> None:
    for number in range(5):
        await say(posting_agent, f"text {number}")
    assert await outcomes(posting_agent, 5) == [("sent", 1)] * 5
    assert channel.posted == [f"text {number}" for number in range(5)]
    assert channel.looked_for == 0


async def test_a_busy_channel_is_retried(posting_agent: Agent, channel: Channel) -> None:
    channel.troubles.extend([(NotNow(0.01), False)] * 3)
    await say(posting_agent, "first")
    await say(posting_agent, "second")
    assert await outcomes(posting_agent, 2) == [("sent", 1), ("sent", 1)], "being busy counts as no attempt"
    assert channel.posted == ["first", "second"]


async def test_a_channel_that_is_busy_too_long_is_given_up(
    posting_agent: Agent, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.chat.delivery.GIVE_UP_MS", 100)
    channel.troubles.extend([(NotNow(0.05), False)] * 100)
    await say(posting_agent, "first")
    assert [state for state, _ in await outcomes(posting_agent, 1)] == ["failed"]
    assert channel.posted == []


async def test_a_post_rejected_for_good_blocks_nothing(posting_agent: Agent, channel: Channel) -> None:
    channel.troubles.append((Never("the thread is gone"), False))
    await say(posting_agent, "first")
    await say(posting_agent, "second")
    assert await outcomes(posting_agent, 2) == [("failed", 1), ("sent", 1)]
    assert channel.posted == ["second"]


@pytest.mark.parametrize("arrives", [True, False])
async def test_an_unanswered_post_is_looked_for_before_a_second_post(
    posting_agent: Agent, channel: Channel, arrives: bool
) -> None:
    channel.troubles.append((Unknown("no answer"), arrives))
    await say(posting_agent, "hello")
    assert await outcomes(posting_agent, 1) == [("sent", 2)]
    assert channel.posted == ["hello"]
    assert channel.looked_for == 1


async def test_a_silent_channel_is_given_up_as_ambiguous(
    posting_agent: Agent, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.chat.delivery.GIVE_UP_MS", 100)
    channel.troubles.extend([(Unknown("no answer"), False)] * 100)
    await say(posting_agent, "hello")
    assert [state for state, _ in await outcomes(posting_agent, 1)] == ["ambiguous"]
    assert channel.posted == []
