"""Server-sent events (SSE): their headers, their form, and the one way of writing a stream to a reader.

A reader who leaves ends only the stream. One who takes nothing for `SLOW_READER_SECONDS` is cut off, so that nothing is
kept in memory for them, and so is everybody whose stream fails: an orderly end would look like a whole answer.
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
PING = b": ping\n\n"  # a comment: it keeps the connection open, and clients pass over it
SLOW_READER_SECONDS = 30.0


def sse_event(data: Mapping[str, Any], *, ascii_only: bool = False) -> bytes:
    """Encode one event. With `ascii_only` other characters are escaped, for clients that split lines at U+2028."""
    return b"data: " + json.dumps(data, ensure_ascii=ascii_only, separators=(",", ":")).encode() + b"\n\n"


async def send_events(
    request: web.Request, chunks: AsyncGenerator[bytes, None], headers: dict[str, str]
) -> web.StreamResponse:
    """Answer a request with encoded events as they come, and close `chunks` whatever happens."""
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
        except Exception:  # the status has been sent, so that no answer can say this any more
            log.exception("a stream failed")
            _hang_up(request)
    return response


def _hang_up(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
