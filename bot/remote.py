"""The generator port over an OpenAI-compatible server: vLLM, llama.cpp, or a hosted one.

Knows: chat completions as a stream, what may be retried. Does not know: conversations. The server applies its own
template.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import math
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from bot.errors import GeneratorBusy, GeneratorFailed, GeneratorUnavailable, InvalidInput, ModelError
from bot.generator import ChatMessage, Finish, Piece, Prompt, Sampling

# UTF-8 bytes a token, on the careful side; used because the server's tokenizer is not ours to ask.
BYTES_PER_TOKEN = 3
TOKENS_PER_MESSAGE = 8
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=120)
START_TIMEOUT = aiohttp.ClientTimeout(total=20, sock_connect=5)


class RemoteGenerator:
    """One server. Busy answers and failed connections are left to the caller's retry."""

    def __init__(self, url: str, *, model: str, key: str = "", context_tokens: int = 2048) -> None:
        if not url:
            raise ModelError("MYNA_GENERATOR=remote needs MYNA_REMOTE_URL, like http://127.0.0.1:8000/v1.")
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._session: aiohttp.ClientSession | None = None
        self.model = model
        self.context_tokens = context_tokens

    @property
    def ready(self) -> bool:
        return self._session is not None

    async def start(self) -> None:
        """Ask the server for its models; raises `ModelError` if it can't be reached or lacks ours."""
        if self._session is not None:
            return
        session = aiohttp.ClientSession(headers=self._headers, timeout=TIMEOUT, connector=aiohttp.TCPConnector(limit=0))
        try:
            await self._find_model(session)
        except BaseException:
            await session.close()
            raise
        self._session = session

    async def _find_model(self, session: aiohttp.ClientSession) -> None:
        try:
            async with session.get(f"{self._url}/models", timeout=START_TIMEOUT) as response:
                if response.status in (401, 403):
                    raise ModelError(f"The server at {self._url} wants another API key; set MYNA_REMOTE_KEY.")
                response.raise_for_status()
                offered = {one["id"]: one for one in (await response.json(content_type=None))["data"]}
        except (aiohttp.ClientConnectionError, TimeoutError) as error:
            reason = str(error) or "no answer in time"
            raise ModelError(
                f"The server at {self._url} can't be reached ({reason}). Start it, or set MYNA_REMOTE_URL."
            ) from error
        except aiohttp.ClientResponseError as error:
            raise ModelError(
                f"The server at {self._url} answered {error.status} when asked for its models. "
                "MYNA_REMOTE_URL usually ends in /v1."
            ) from error
        except (aiohttp.ClientError, ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"The server at {self._url} does not answer as an OpenAI-compatible one. "
                "MYNA_REMOTE_URL usually ends in /v1."
            ) from error
        if self.model not in offered:
            raise ModelError(
                f'The server at {self._url} does not offer "{self.model}". Set MYNA_MODEL to one that it has: '
                f"{', '.join(offered) or 'it has none yet'}."
            )
        window = offered[self.model].get("max_model_len")  # vLLM tells it
        if isinstance(window, int) and window > 0:
            self.context_tokens = min(self.context_tokens, window)

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def encode(self, messages: Sequence[ChatMessage]) -> Prompt:
        """The messages themselves; tokens are estimated from their bytes, the hash is over their JSON form."""
        form = json.dumps([[one.role, one.content] for one in messages], ensure_ascii=False).encode()
        num_bytes = sum(len(one.content.encode()) for one in messages)
        num_tokens = -(-num_bytes // BYTES_PER_TOKEN) + TOKENS_PER_MESSAGE * (len(messages) + 1)
        return Prompt(tuple(messages), (), num_tokens, hashlib.sha256(form).hexdigest())

    async def stream(
        self, prompt: Prompt, sampling: Sampling, version: str | None = None
    ) -> AsyncGenerator[Piece | Finish, None]:
        """See `Generator.stream`. Closing it drops the connection, on which such servers abort."""
        if self._session is None:
            raise GeneratorUnavailable
        body = _request_body(version or self.model, prompt, sampling)
        try:
            async with (
                self._session.post(f"{self._url}/chat/completions", json=body) as response,
                contextlib.aclosing(_events(response)) as events,
            ):
                await _check(response)
                async for event in events:
                    yield event
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise GeneratorUnavailable(f"The server at {self._url} can't be reached: {error!r}") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            # It may have been this very prompt that broke the server, so this must not be tried for ever.
            raise GeneratorFailed(f"The connection to {self._url} broke: {error!r}") from error


def _request_body(model: str, prompt: Prompt, sampling: Sampling) -> dict[str, Any]:
    body = {
        "model": model,
        "messages": [{"role": one.role, "content": one.content} for one in prompt.messages],
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    # Hosted servers refuse what they don't know, so only what was asked for is sent.
    usual, names = Sampling(), ("stop", "seed", "top_k", "min_p", "repetition_penalty")
    extra = {name: getattr(sampling, name) for name in names if getattr(sampling, name) != getattr(usual, name)}
    return body | extra


async def _check(response: aiohttp.ClientResponse) -> None:
    if response.ok:
        return
    text = (await response.text(errors="replace"))[:500]
    if response.status in (429, 503):
        raise GeneratorBusy(f"The server is busy: {text}", retry_after=_retry_after(response))
    if response.status in (400, 413, 422):
        raise InvalidInput(f"The server refused the request: {text}")
    raise GeneratorFailed(f"The server answered {response.status}: {text}")


def _retry_after(response: aiohttp.ClientResponse) -> float:
    try:
        seconds = float(response.headers.get("Retry-After", "2"))
    except ValueError:  # it may be a date, too
        return 2.0
    return min(max(seconds, 0.0), 60.0) if math.isfinite(seconds) else 2.0


async def _events(response: aiohttp.ClientResponse) -> AsyncGenerator[Piece | Finish, None]:
    reason: str | None = None
    tokens = (0, 0)
    async for chunk in _chunks(response):
        try:
            text, ended, counted = _parse_chunk(chunk)
        except (AttributeError, TypeError, ValueError) as error:
            raise GeneratorFailed("The server sent something that is not a chunk of a chat completion.") from error
        reason, tokens = ended or reason, counted or tokens
        if text:
            yield Piece(text)
    if reason is None:
        raise GeneratorFailed("The server's stream ended in the middle.")
    yield Finish("length" if reason == "length" else "stop", *tokens)


def _parse_chunk(chunk: dict[str, Any]) -> tuple[str, str | None, tuple[int, int] | None]:
    """`(text, finish reason, tokens of prompt and reply)`. The last chunk carries the tokens and no choice."""
    text, reason, tokens = "", None, None
    for choice in chunk.get("choices") or ():
        text += (choice.get("delta") or {}).get("content") or ""
        reason = choice.get("finish_reason") or reason
    if usage := chunk.get("usage"):
        tokens = (int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))
    return text, reason, tokens


async def _chunks(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    async for line in _lines(response):
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            return
        if not line.startswith(b"data:"):
            continue
        try:
            chunk = json.loads(data)
        except ValueError as error:
            raise GeneratorFailed("The server sent something that is not JSON.") from error
        if not isinstance(chunk, dict):
            raise GeneratorFailed("The server sent something that is not a chunk of a chat completion.")
        if chunk.get("error"):
            raise GeneratorFailed(f"The server reported: {chunk['error']}")
        yield chunk
        await asyncio.sleep(0)  # a burst of small chunks must not keep the loop from everybody else


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for line in response.content:
            yield line
    except (ValueError, HttpProcessingError) as error:
        raise GeneratorFailed("The server sent a line that is too long.") from error
