"""Remote generator: OpenAI-compatible servers, balanced by load, with backoff.

The servers (vLLM, llama.cpp or hosted) serve the same model and apply its chat template themselves. Versions are loaded
by vLLM's API for LoRA adapters.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from bot.errors import (
    GeneratorBusy,
    GeneratorFailed,
    GeneratorUnavailable,
    InvalidInput,
    ModelError,
    MynaError,
    VersionError,
)
from bot.generation.openai_wire import check, read_events, request_of
from bot.generation.port import ChatMessage, Event, Prompt, Sampling, check_sampling

log = logging.getLogger("myna.remote")

# UTF-8 bytes per token, a cautious estimate: the server's tokenizer is not available here.
BYTES_PER_TOKEN = 3
TOKENS_PER_MESSAGE = 8
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=120)
START_TIMEOUT = aiohttp.ClientTimeout(total=20, sock_connect=5)
VERSION_TIMEOUT = aiohttp.ClientTimeout(total=120, sock_connect=5)
# Backoff for a server that can't be reached, doubled each time.
FIRST_PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 30.0
WEIGHTS_FILE = "adapter_model.safetensors"


@dataclass(eq=False, slots=True)
class _Endpoint:
    """One server, with its load and backoff. After `down_until` the next stream tries it again."""

    url: str
    num_open: int = 0
    down_until: float = 0.0
    pause: float = FIRST_PAUSE_SECONDS
    versions: set[str] = field(default_factory=set)

    @property
    def is_up(self) -> bool:
        return time.monotonic() >= self.down_until

    def note_failure(self) -> None:
        self.down_until = time.monotonic() + self.pause
        self.pause = min(2 * self.pause, MAX_PAUSE_SECONDS)
        self.versions.clear()  # the server may come back as a new process, without versions

    def note_success(self) -> None:
        self.down_until, self.pause = 0.0, FIRST_PAUSE_SECONDS


class RemoteGenerator:
    """`Generator` over one or more servers of the same model. The least busy server that is up gets the next stream."""

    def __init__(self, *urls: str, model: str, key: str = "", context_tokens: int = 2048) -> None:
        self._endpoints = [_Endpoint(url.rstrip("/")) for url in urls if url]
        if not self._endpoints:
            raise ModelError("MYNA_GENERATOR=remote needs MYNA_REMOTE_URL, like http://127.0.0.1:8000/v1.")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._session: aiohttp.ClientSession | None = None
        self._folders: dict[str, Path] = {}
        self._digests: dict[str, str] = {}
        self._changing_versions = asyncio.Lock()
        self.model = model
        self.context_tokens = context_tokens

    @property
    def ready(self) -> bool:
        return self._session is not None and any(endpoint.is_up for endpoint in self._endpoints)

    @property
    def takes_tools(self) -> bool:
        return True

    @property
    def versions(self) -> tuple[str, ...]:
        return tuple(self._folders)

    async def start(self) -> None:
        """Ask all servers for their models. Raises `ModelError` if no server offers `model`."""
        if self._session is not None:
            return
        session = aiohttp.ClientSession(headers=self._headers, timeout=TIMEOUT, connector=aiohttp.TCPConnector(limit=0))
        try:
            results = await asyncio.gather(
                *(self._find_model(session, endpoint) for endpoint in self._endpoints), return_exceptions=True
            )
            errors = [error for error in results if error is not None]
            if len(errors) == len(results):
                raise errors[0]
        except BaseException:
            await session.close()
            raise
        for error in errors:
            log.warning("%s It is tried again later.", error)
        self._session = session

    async def _find_model(self, session: aiohttp.ClientSession, endpoint: _Endpoint) -> None:
        try:
            offered = await _ask_for_models(session, endpoint.url)
            if self.model not in offered:
                raise ModelError(
                    f'The server at {endpoint.url} does not offer "{self.model}". Set MYNA_MODEL to one of its models: '
                    f"{', '.join(offered) or 'it has none yet'}."
                )
        except ModelError:
            endpoint.note_failure()
            raise
        endpoint.note_success()
        window = offered[self.model].get("max_model_len")  # sent by vLLM
        if isinstance(window, int) and window > 0:
            self.context_tokens = min(self.context_tokens, window)

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def encode(self, messages: Sequence[ChatMessage], tools: Sequence[str] = ()) -> Prompt:
        """Return a prompt of the messages: tokens estimated from bytes, the hash taken over their JSON form."""
        turns = [
            [message.role, message.content, *([repr(message.tool_calls)] if message.tool_calls else [])]
            for message in messages
        ]
        form = json.dumps([*turns, *tools], ensure_ascii=False).encode()
        num_bytes = sum(len(text.encode()) for text in [*(message.content for message in messages), *tools])
        num_tokens = -(-num_bytes // BYTES_PER_TOKEN) + TOKENS_PER_MESSAGE * (len(messages) + 1)
        return Prompt(tuple(messages), (), num_tokens, hashlib.sha256(form).hexdigest(), tools=tuple(tools))

    async def encode_text(self, text: str) -> Prompt:
        content = text.encode()
        return Prompt((), (), -(-len(content) // BYTES_PER_TOKEN) + 1, hashlib.sha256(content).hexdigest(), text=text)

    async def stream(
        self,
        prompt: Prompt,
        sampling: Sampling,
        version: str | None = None,
        *,
        priority: int = 0,  # noqa: ARG002
    ) -> AsyncGenerator[Event, None]:
        """Stream as `Generator.stream` says. Closing drops the connection, and the server aborts.

        A server that is busy or can't be reached is passed over for another. Nothing is retried after the first event.
        `priority` is ignored.
        """
        session = self._open_session()
        check_sampling(sampling)
        if version is not None and version not in self._folders:
            raise InvalidInput(f'There is no version "{version}" of this model.', field="version")
        refusal: MynaError = GeneratorUnavailable("No server of the model can be reached.")
        for endpoint in self._by_load():
            endpoint.num_open += 1
            try:
                async with contextlib.aclosing(
                    self._stream_from(session, endpoint, prompt, sampling, version)
                ) as events:
                    async for event in events:
                        yield event
                return
            except (GeneratorUnavailable, GeneratorBusy) as error:  # raised before the first event only
                refusal = error
            finally:
                endpoint.num_open -= 1
        raise refusal

    def _by_load(self) -> list[_Endpoint]:
        """Return the servers that are up, the least busy first; if all are down, all by the end of their backoff."""
        up = [endpoint for endpoint in self._endpoints if endpoint.is_up]
        if up:
            return sorted(up, key=lambda endpoint: endpoint.num_open)
        return sorted(self._endpoints, key=lambda endpoint: endpoint.down_until)

    async def _stream_from(
        self,
        session: aiohttp.ClientSession,
        endpoint: _Endpoint,
        prompt: Prompt,
        sampling: Sampling,
        version: str | None,
    ) -> AsyncGenerator[Event, None]:
        path, body = request_of(version or self.model, prompt, sampling)
        try:
            if version is not None:
                await self._ensure_version(endpoint, version)
            async with (
                session.post(endpoint.url + path, json=body) as response,
                contextlib.aclosing(read_events(response)) as events,
            ):
                if response.status == 404 and version is not None:
                    endpoint.versions.discard(version)  # the server has restarted since it loaded the version
                await check(response)
                endpoint.note_success()
                async for event in events:
                    yield event
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            endpoint.note_failure()
            raise GeneratorUnavailable(f"The server at {endpoint.url} can't be reached: {error!r}") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            # This prompt may have broken the server. `GeneratorFailed` counts as a try, which ends the retries.
            raise GeneratorFailed(f"The connection to {endpoint.url} broke: {error!r}") from error

    async def load_version(self, name: str, folder: Path, sha256: str | None = None) -> None:
        """Have the servers load a version. They read the folder themselves, under the same path.

        vLLM must run with `--enable-lora` and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True. Servers that are down load the
        version when they are back.
        """
        self._open_session()
        async with self._changing_versions:
            await self._load_version(name, folder, sha256)

    async def _load_version(self, name: str, folder: Path, sha256: str | None) -> None:
        digest = await asyncio.to_thread(_digest_of, folder, sha256)
        if self._digests.get(name, digest) != digest:
            raise VersionError(f'There is another version "{name}" already. Give this one another name.')
        if name in self._folders:
            return
        reachable = [endpoint for endpoint in self._endpoints if endpoint.is_up]
        self._folders[name] = folder
        try:
            loading = [self._ensure_version(endpoint, name) for endpoint in reachable]
            failed = [error for error in await asyncio.gather(*loading, return_exceptions=True) if error is not None]
            if failed:
                raise failed[0]
        except BaseException as error:
            await self._unload_version(name)
            if isinstance(error, MynaError) or not isinstance(error, Exception):
                raise
            raise VersionError(f'The version "{name}" could not be loaded: {error!r}') from error
        self._digests[name] = digest

    async def unload_version(self, name: str) -> None:
        async with self._changing_versions:
            await self._unload_version(name)

    async def _unload_version(self, name: str) -> None:
        self._folders.pop(name, None)
        self._digests.pop(name, None)
        for endpoint in self._endpoints:
            if name in endpoint.versions:
                endpoint.versions.discard(name)
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    await self._post(endpoint, "/unload_lora_adapter", {"lora_name": name})

    async def _ensure_version(self, endpoint: _Endpoint, name: str) -> None:
        if name in endpoint.versions:
            return
        folder = self._folders.get(name)
        if folder is None:
            raise InvalidInput(f'The version "{name}" was unloaded.', field="version")
        body = {"lora_name": name, "lora_path": str(folder)}
        status, answer = await self._post(endpoint, "/load_lora_adapter", body)
        # A name stands for one file for ever, so that a version loaded already under this name is the right one.
        if status != 200 and "already" not in answer:
            raise VersionError(f'The server at {endpoint.url} could not load the version "{name}": {answer[:300]}')
        endpoint.versions.add(name)

    async def _post(self, endpoint: _Endpoint, path: str, body: dict[str, str]) -> tuple[int, str]:
        async with self._open_session().post(endpoint.url + path, json=body, timeout=VERSION_TIMEOUT) as response:
            return response.status, await response.text(errors="replace")

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise GeneratorUnavailable
        return self._session


async def _ask_for_models(session: aiohttp.ClientSession, url: str) -> dict[str, dict[str, Any]]:
    try:
        async with session.get(f"{url}/models", timeout=START_TIMEOUT) as response:
            if response.status in (401, 403):
                raise ModelError(f"The server at {url} refused the API key. Set MYNA_REMOTE_KEY to a valid key.")
            response.raise_for_status()
            return {model["id"]: model for model in (await response.json(content_type=None))["data"]}
    except (aiohttp.ClientConnectionError, TimeoutError) as error:
        reason = str(error) or "no answer in time"
        raise ModelError(
            f"The server at {url} can't be reached ({reason}). Start it, or set MYNA_REMOTE_URL."
        ) from error
    except aiohttp.ClientResponseError as error:
        raise ModelError(
            f"The server at {url} answered {error.status} when asked for its models. "
            "MYNA_REMOTE_URL usually ends in /v1."
        ) from error
    except (aiohttp.ClientError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"The server at {url} does not answer like an OpenAI-compatible server. "
            "MYNA_REMOTE_URL usually ends in /v1."
        ) from error


def _digest_of(folder: Path, wanted: str | None) -> str:
    path = folder / WEIGHTS_FILE
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise VersionError(f"{path} can't be read: {error.strerror}.") from error
    if wanted is not None and digest != wanted:
        raise VersionError(f"{path} is not the file that was trained: its SHA-256 is {digest}.")
    return digest
