"""OpenAI wire format: request bodies, streamed chunks, meaning of statuses."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from bot.errors import GeneratorBusy, GeneratorFailed, InvalidInput
from bot.generation.port import ChatMessage, Event, Finish, Piece, Prompt, Sampling, TokenLogprob, ToolCall


def request_of(model: str, prompt: Prompt, sampling: Sampling) -> tuple[str, dict[str, Any]]:
    """Return `(path, body)`. Defaults are left out, as hosted servers refuse fields that they don't know."""
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    default = Sampling()
    names = ("stop", "seed", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
    body |= {name: getattr(sampling, name) for name in names if getattr(sampling, name) != getattr(default, name)}
    if sampling.json_schema is not None:
        schema = {"name": "reply", "schema": json.loads(sampling.json_schema), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if prompt.text is not None:
        logprobs = {} if sampling.logprobs is None else {"logprobs": sampling.logprobs}
        return "/completions", body | {"prompt": prompt.text} | logprobs
    if sampling.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": sampling.logprobs}
    if prompt.tools:
        body["tools"] = [json.loads(tool) for tool in prompt.tools]
    return "/chat/completions", body | {"messages": [_message(message) for message in prompt.messages]}


def _message(message: ChatMessage) -> dict[str, Any]:
    form: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        form["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        form["tool_call_id"] = message.tool_call_id
    return form


async def check(response: aiohttp.ClientResponse) -> None:
    """Raise `GeneratorBusy`, `InvalidInput` or `GeneratorFailed` by the response's status, unless it is a success."""
    if response.ok:
        return
    text = (await response.text(errors="replace"))[:500]
    if response.status in (429, 503):
        raise GeneratorBusy(f"The server is busy: {text}", retry_after=_retry_after(response))
    if response.status in (400, 413, 422):
        # vLLM and llama.cpp have no common code for a prompt that is too long, but both name the context.
        field = "prompt" if "context" in text.lower() else None
        raise InvalidInput(f"The server refused the request: {text}", field=field)
    raise GeneratorFailed(f"The server answered {response.status}: {text}")


def _retry_after(response: aiohttp.ClientResponse) -> float:
    try:
        seconds = float(response.headers.get("Retry-After", "2"))
    except ValueError:  # the header may also be a date
        return 2.0
    return min(max(seconds, 0.0), 60.0) if math.isfinite(seconds) else 2.0


async def read_events(response: aiohttp.ClientResponse) -> AsyncGenerator[Event, None]:
    """Yield pieces as they come, then the tool calls, then one `Finish`. Raises `GeneratorFailed`."""
    completion = _Completion()
    async for chunk in _chunks(response):
        try:
            piece = completion.take(chunk)
        except (AttributeError, TypeError, ValueError, KeyError) as error:
            raise GeneratorFailed("The server sent something that is not a chunk of a completion.") from error
        if piece is not None:
            yield piece
    if completion.reason is None:
        raise GeneratorFailed("The server's stream ended in the middle.")
    for call in completion.calls():
        yield call
    yield completion.finish()


class _Completion:
    """The completion as streamed so far. The last chunk carries the token counts and no choice."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self._tokens = (0, 0)
        self._calls: dict[int, dict[str, str]] = {}

    def take(self, chunk: dict[str, Any]) -> Piece | None:
        text, logprobs = "", []
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            text += delta.get("content") or choice.get("text") or ""
            for call in delta.get("tool_calls") or ():
                self._add_to_call(call)
            logprobs += _logprobs(choice.get("logprobs") or {})
            self.reason = choice.get("finish_reason") or self.reason
        if usage := chunk.get("usage"):
            self._tokens = (int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))
        return Piece(text, tuple(logprobs)) if text else None

    def _add_to_call(self, delta: dict[str, Any]) -> None:
        call = self._calls.setdefault(int(delta.get("index") or 0), {"id": "", "name": "", "arguments": ""})
        function = delta.get("function") or {}
        call["id"] = delta.get("id") or call["id"]
        call["name"] = function.get("name") or call["name"]
        call["arguments"] += function.get("arguments") or ""

    def calls(self) -> list[ToolCall]:
        return [ToolCall(**call) for _, call in sorted(self._calls.items())]

    def finish(self) -> Finish:
        reason = "length" if self.reason == "length" else "tool_calls" if self._calls else "stop"
        return Finish(reason, *self._tokens)  # type: ignore[arg-type]


def _logprobs(found: dict[str, Any]) -> list[TokenLogprob]:
    """Read both forms: of chat completions (`content`), and of completions (parallel lists)."""
    if found.get("content"):
        return [
            _logprob(token, tuple(_logprob(other) for other in token.get("top_logprobs") or ()))
            for token in found["content"]
        ]
    tokens, values = found.get("tokens") or [], found.get("token_logprobs") or []
    tops = found.get("top_logprobs") or [{}] * len(tokens)
    return [
        TokenLogprob(
            token,
            token.encode(),
            float(value),
            tuple(TokenLogprob(other, other.encode(), float(logprob)) for other, logprob in (top or {}).items()),
        )
        for token, value, top in zip(tokens, values, tops, strict=True)
    ]


def _logprob(found: dict[str, Any], top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
    content = found.get("bytes")
    exact = bytes(content) if content is not None else found["token"].encode()
    return TokenLogprob(found["token"], exact, float(found["logprob"]), top)


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
            raise GeneratorFailed("The server sent something that is not a chunk of a completion.")
        if chunk.get("error"):
            raise GeneratorFailed(f"The server reported: {chunk['error']}")
        yield chunk
        await asyncio.sleep(0)  # a burst of small chunks must not block the loop for all others


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for line in response.content:
            yield line
    except (ValueError, HttpProcessingError) as error:
        raise GeneratorFailed("The server sent a line that is too long.") from error
