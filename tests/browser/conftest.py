"""A chat page with scripted replies, for tests of the page and not of the model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest_asyncio

from tests.builders.agents import StartAgent
from tests.builders.web import WebServer, serve
from tests.conftest import free_port
from tests.fakes.generator import FakeGenerator


@dataclass(frozen=True)
class PageServer:
    """A server with a scripted model, open to a site on `foreign_port`."""

    server: WebServer
    foreign_port: int

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def generator(self) -> FakeGenerator:
        return self.server.generator


@pytest_asyncio.fixture(loop_scope="session")
async def page_server(start_agent: StartAgent, sqlite_url: str) -> AsyncIterator[PageServer]:
    """Serve the chat page on a database of its own; without a script the model repeats the question."""
    port = free_port()
    origins = (f"http://127.0.0.1:{port}",)
    async with start_agent(sqlite_url, allowed_origins=origins) as agent, serve(agent) as server:
        yield PageServer(server, port)
