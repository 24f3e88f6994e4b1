"""A fake Slack with an agent that answers in it.

Knows: how the two find each other. Does not know: what is tested. Nothing waits longer than it must: the outbox looks
for work often, and pauses between two updates of a message are short.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes.slack.records import SECRET, TOKEN
from tests.fakes.slack.server import FakeSlack, running_slack
from tests.fixtures_web import WebServer, serve

if TYPE_CHECKING:
    from tests.conftest import StartAgent

StartInSlack = Callable[..., AbstractAsyncContextManager[WebServer]]


@pytest.fixture
async def slack(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeSlack]:
    monkeypatch.setattr("bot.chat.delivery.LOOK_AGAIN_SECONDS", 0.05)
    monkeypatch.setattr("bot.chat.delivery.MOST_LOOK_AGAIN_SECONDS", 0.2)
    monkeypatch.setattr("bot.chat.delivery.POLL_SECONDS", 0.02)
    monkeypatch.setattr("adapters.slack.live_reply.FLUSH_SECONDS", 0.02)
    monkeypatch.setattr("adapters.slack.live_reply.UPDATE_SECONDS", 0.02)
    async with running_slack() as running:
        running.page_size = 2
        yield running


@pytest.fixture
def start_in_slack(start_agent: StartAgent, slack: FakeSlack) -> StartInSlack:
    """Start an agent that is connected to the fake: `async with start_in_slack(url) as server`."""

    @asynccontextmanager
    async def start(url: str, **options: Any) -> AsyncIterator[WebServer]:
        settings = {
            "slack_bot_token": TOKEN,
            "slack_signing_secret": SECRET,
            "slack_api_url": slack.url,
            "lease_seconds": 3.0,
        }
        async with start_agent(url, **(settings | options)) as agent, serve(agent) as running:
            slack.bot_url = running.url
            yield running

    return start


@pytest.fixture
async def slack_server(start_in_slack: StartInSlack, sqlite_url: str) -> AsyncIterator[WebServer]:
    async with start_in_slack(sqlite_url) as running:
        yield running


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until something has come true."""
    for _ in range(int(seconds / 0.02)):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not come to that")
