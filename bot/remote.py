"""The generator port over an OpenAI-compatible server: vLLM, llama.cpp, or a hosted one.

Knows: chat completions as a stream, what may be retried. Does not know: conversations. The server applies its own template.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

import aiohttp

from bot.errors import GeneratorBusy, GeneratorFailed, GeneratorUnavailable, InvalidInput, ModelError
from bot.generator import ChatMessage, Finish, Piece, Prompt, Sampling

# UTF-8 bytes a token, on the careful side; used because the server's tokenizer is not ours to ask.
BYTES_PER_TOKEN = 3
TOKENS_PER_MESSAGE = 8
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=120)


class RemoteGenerator:
    """One server. Busy answers and lost connections before the first piece are left to the caller's retry."""

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
        session = aiohttp.ClientSession(headers=self._headers, timeout=TIMEOUT)
        try:
            async with session.get(f"{self._url}/models") as response:
                names = [one["id"] for one in (await response.json())["data"]] if response.ok else None
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
            await session.close()
            raise ModelError(
                f"The server at {self._url} does not answer as an OpenAI-compatible one: {error!r}"
            ) from error
        if names is None or self.model not in names:
            await session.close()
            offered = ", ".join(names or []) or f"nothing (status {response.status})"
            raise ModelError(
                f"The server at {self._url} does not offer {self.model!r}; set MYNA_MODEL. It has: {offered}."
            )
        self._session = session

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
        started = False
        try:
            async with self._session.post(f"{self._url}/chat/completions", json=body) as response:
                await _check(response)
                async for event in _events(response):
                    started = True
                    yield event
        except (aiohttp.ClientError, TimeoutError) as error:
            kind = GeneratorFailed if started else GeneratorUnavailable
            raise kind(f"The connection to {self._url} broke: {error!r}") from error


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
    extra = {
        "stop": list(sampling.stop), "seed": sampling.seed, "top_k": sampling.top_k, "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty if sampling.repetition_penalty != 1.0 else None,
    }  # fmt: skip
    return body | {name: value for name, value in extra.items() if value}


async def _check(response: aiohttp.ClientResponse) -> None:
    if response.ok:
        return
    text = (await response.text())[:500]
    if response.status in (429, 503):
        raise GeneratorBusy(f"The server is busy: {text}", retry_after=_retry_after(response))
    if response.status in (400, 413, 422):
        raise InvalidInput(f"The server refused the request: {text}")
    raise GeneratorFailed(f"The server answered {response.status}: {text}")


def _retry_after(response: aiohttp.ClientResponse) -> float:
    try:
        return min(float(response.headers.get("Retry-After", "2")), 60.0)
    except ValueError:
        return 2.0


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[Piece | Finish]:
    reason, usage = None, {"prompt_tokens": 0, "completion_tokens": 0}
    async for chunk in _chunks(response):
        usage = chunk.get("usage") or usage
        for choice in chunk.get("choices") or ():
            if text := (choice.get("delta") or {}).get("content"):
                yield Piece(text)
            reason = choice.get("finish_reason") or reason
    if reason is None:
        raise GeneratorFailed("The server's stream ended in the middle.")
    yield Finish("length" if reason == "length" else "stop", usage["prompt_tokens"], usage["completion_tokens"])


async def _chunks(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    async for line in response.content:
        data = line.removeprefix(b"data:").strip()
        if not line.startswith(b"data:") or data == b"[DONE]":
            continue
        try:
            chunk = json.loads(data)
        except ValueError as error:
            raise GeneratorFailed("The server sent something that is not JSON.") from error
        if "error" in chunk:
            raise GeneratorFailed(f"The server reported: {chunk['error']}")
        yield chunk
        await asyncio.sleep(0)
