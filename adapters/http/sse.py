"""Server-sent events (SSE), written with backpressure.

A reader who leaves ends only the stream. A reader who takes nothing for `SLOW_READER_SECONDS` is disconnected, so that
no data piles up in memory. A stream that fails is aborted too: an orderly end would look like a complete answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from aiohttp import web

from adapters.http.origins import CORS

log = logging.getLogger("myna.web")

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"  # a comment: it keeps the connection open, and clients ignore it
SLOW_READER_SECONDS = 30.0


def sse_event(data: Mapping[str, Any], *, ascii_only: bool = False) -> bytes:
    """Encode an event. `ascii_only` escapes all other characters, for clients that split lines at U+2028."""
    return b"data: " + json.dumps(data, ensure_ascii=ascii_only, separators=(",", ":")).encode() + b"\n\n"


async def send_events(
    request: web.Request, chunks: AsyncGenerator[bytes, None], headers: dict[str, str]
) -> web.StreamResponse:
    """Stream encoded events as the response, and close `chunks` in any case."""
    response = web.StreamResponse(headers=HEADERS | headers | request.get(CORS, {}))
    async with contextlib.aclosing(chunks):
        try:
            await response.prepare(request)
            async for data in chunks:
                if data:
                    async with asyncio.timeout(SLOW_READER_SECONDS):
                        await response.write(data)
            async with asyncio.timeout(SLOW_READER_SECONDS):
                await response.write_eof()
        except ConnectionError:
            pass
        except TimeoutError:
            _hang_up(request)
        except Exception:  # too late for an error response: the status has been sent
            log.exception("a stream failed")
            _hang_up(request)
    return response


def _hang_up(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
