"""Server-sent events over real connections; slow readers are in the scenarios of each API."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable

import aiohttp
import pytest
from aiohttp import web

from adapters.http.sse import DONE, send_events, sse_event

Chunks = Callable[[], AsyncGenerator[bytes, None]]


class Site:
    """Serves one stream after the other, and notes which of them were closed."""

    def __init__(self) -> None:
        self.chunks: Chunks
        self.closed = asyncio.Event()

    async def stream(self, request: web.Request) -> web.StreamResponse:
        async def closing() -> AsyncGenerator[bytes, None]:
            try:
                async for data in self.chunks():
                    yield data
            finally:
                self.closed.set()

        return await send_events(request, closing(), {"X-Ours": "1"})


@pytest.fixture
async def site() -> AsyncIterator[tuple[Site, str]]:
    site = Site()
    app = web.Application()
    app.add_routes([web.get("/", site.stream)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield site, f"http://127.0.0.1:{runner.addresses[0][1]}/"
    await runner.cleanup()


async def test_a_stream_is_sent_whole_with_the_headers_of_both(site: tuple[Site, str]) -> None:
    async def chunks() -> AsyncGenerator[bytes, None]:
        yield sse_event({"text": "好\u2028"})
        yield b""
        yield sse_event({"text": "好\u2028"}, ascii_only=True)
        yield DONE

    served, url = site
    served.chunks = chunks
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert (response.headers["X-Ours"], response.headers["X-Accel-Buffering"]) == ("1", "no")
        first, second, done, rest = (await response.text()).split("\n\n")
    assert (first, second) == ('data: {"text":"好\u2028"}', 'data: {"text":"\\u597d\\u2028"}')
    assert (done, rest) == ("data: [DONE]", "")


async def test_a_failed_stream_is_aborted_and_looks_incomplete(
    site: tuple[Site, str], caplog: pytest.LogCaptureFixture
) -> None:
    async def chunks() -> AsyncGenerator[bytes, None]:
        yield sse_event({"text": "begin"})
        raise ZeroDivisionError("a bug")

    served, url = site
    served.chunks = chunks
    with caplog.at_level(logging.ERROR, "myna.web"):
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                async with session.get(url) as response:
                    await response.read()
    assert [record.getMessage() for record in caplog.records] == ["a stream failed"]
    assert served.closed.is_set()


async def test_a_reader_who_leaves_ends_the_stream_unlogged(
    site: tuple[Site, str], caplog: pytest.LogCaptureFixture
) -> None:
    async def chunks() -> AsyncGenerator[bytes, None]:
        while True:
            yield sse_event({"text": "x" * 1000})
            await asyncio.sleep(0.001)

    served, url = site
    served.chunks = chunks
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        await response.content.readany()
    async with asyncio.timeout(20):
        await served.closed.wait()
    assert not caplog.records
