"""File uploads, read in pieces: they exceed the limit of JSON bodies."""

from __future__ import annotations

from aiohttp import web

from bot.errors import InvalidInput, TooLarge

FILE_TYPE = "application/octet-stream"


async def file_in(request: web.Request, most: int) -> bytes:
    """Read the file in the body. Raises `InvalidInput`, or `TooLarge` over `most` bytes."""
    if request.content_type != FILE_TYPE:
        raise InvalidInput(f"Send the file itself, with the header `Content-Type: {FILE_TYPE}`.", field="content-type")
    content = bytearray()
    if (request.content_length or 0) > most:
        raise _too_large(most)
    try:
        async for piece in request.content.iter_any():
            content += piece
            if len(content) > most:
                raise _too_large(most)
    except (web.RequestPayloadError, ConnectionError):
        raise InvalidInput("The file broke off, or its encoding is not the one in the headers.") from None
    return bytes(content)


def _too_large(most: int) -> TooLarge:
    return TooLarge(f"This file is larger than {most // 2**20} MB.", limit=most)
