"""Scripted `Generator`, for tests that must not load a model.

It keeps the whole contract of `Generator` (busy, closed, aborted, stop strings, `max_tokens`, refused prompts), and
counts words in place of tokens.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import zlib
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from bot.errors import GeneratorBusy, GeneratorFailed, GeneratorUnavailable, InvalidInput, MynaError, VersionError
from bot.generation.engine.local import hash_tokens
from bot.generation.engine.text_stream import StopFilter
from bot.generation.port import ChatMessage, Event, Finish, FinishReason, Piece, Prompt, Sampling, check_sampling


@dataclass(frozen=True, slots=True)
class Answer:
    """Script of one stream: `error` is raised after the pieces; `hold` stops the stream after its first piece."""

    pieces: tuple[str, ...]
    delay: float = 0.0
    error: BaseException | None = None
    hold: asyncio.Event | None = None


class FakeGenerator:
    """Streams scripted answers; without a script it repeats the last user message, word by word.

    `prompts`, `samplings` and `asked_versions` keep what the streams were asked; `aborted` counts streams closed before
    their end. A token is a run of non-space characters with the spaces before it, and each message adds one.
    """

    def __init__(
        self, model: str = "fake", context_tokens: int = 2048, delay: float = 0.0, *, queue_limit: int = 64
    ) -> None:
        self.prompts: list[Prompt] = []
        self.samplings: list[Sampling] = []
        self.asked_versions: list[str | None] = []
        self._loaded: dict[str, bytes] = {}
        self.aborted = 0
        self.num_open = 0
        self._model = model
        self._context_tokens = context_tokens
        self._delay = delay
        self._queue_limit = queue_limit
        self._answers: deque[Answer] = deque()
        self._ready = False
        self._closing = asyncio.Event()

    @property
    def model(self) -> str:
        return self._model

    @property
    def context_tokens(self) -> int:
        return self._context_tokens

    @property
    def ready(self) -> bool:
        return self._ready

    def enqueue(
        self, *pieces: str, delay: float = 0.0, error: BaseException | None = None, hold: asyncio.Event | None = None
    ) -> None:
        """Script the next stream. To hold it before any text, let the first piece be empty: it is not sent."""
        self._answers.append(Answer(pieces, delay, error, hold))

    async def start(self) -> None:
        if self._closing.is_set():
            raise GeneratorUnavailable
        self._ready = True

    async def close(self) -> None:
        self._ready = False
        self._closing.set()

    @property
    def takes_tools(self) -> bool:
        return True

    @property
    def versions(self) -> tuple[str, ...]:
        return tuple(self._loaded)

    async def load_version(self, name: str, folder: Path, sha256: str | None = None) -> None:
        """Load a version: any folder with a weights file that begins as safetensors do."""
        path = folder / "adapter_model.safetensors"
        content = await asyncio.to_thread(lambda: path.read_bytes() if path.is_file() else b"")
        if content[8:9] != b"{" or sha256 not in (None, hashlib.sha256(content).hexdigest()):
            raise VersionError(f"{path} is damaged.")
        if self._loaded.setdefault(name, content) != content:
            raise VersionError(f'There is another version "{name}" already.')

    async def unload_version(self, name: str) -> None:
        self._loaded.pop(name, None)

    async def encode_text(self, text: str) -> Prompt:
        if not self._ready:
            raise GeneratorUnavailable
        token_ids = tuple(zlib.crc32(word.encode()) for word in split_words(text))
        return Prompt((), token_ids, len(token_ids), hash_tokens(token_ids), text=text)

    async def encode(self, messages: Sequence[ChatMessage], tools: Sequence[str] = ()) -> Prompt:
        if not self._ready:
            raise GeneratorUnavailable
        words = [word for message in messages for word in [f"<{message.role}>", *split_words(message.content)]]
        token_ids = tuple(zlib.crc32(word.encode()) for word in words)
        return Prompt(tuple(messages), token_ids, len(token_ids), hash_tokens(token_ids), tools=tuple(tools))

    async def stream(
        self, prompt: Prompt, sampling: Sampling, version: str | None = None, *, priority: int = 0
    ) -> AsyncGenerator[Event, None]:
        room = self._admit(prompt, sampling, version)
        self.prompts.append(prompt)
        self.samplings.append(sampling)
        self.asked_versions.append(version)
        answer = self._answers.popleft() if self._answers else Answer(_echo(prompt))
        self.num_open += 1
        ended = False
        try:
            async with aclosing(self._play(answer, prompt, sampling, min(room, sampling.max_tokens))) as events:
                async for event in events:
                    ended = isinstance(event, Finish)
                    yield event
        except Exception:
            ended = True
            raise
        finally:
            self.num_open -= 1
            self.aborted += not ended

    def _admit(self, prompt: Prompt, sampling: Sampling, version: str | None) -> int:
        if not self._ready:
            raise GeneratorUnavailable
        check_sampling(sampling)
        room = self._context_tokens - prompt.num_tokens
        if room < 1:
            raise InvalidInput("The prompt is longer than the context.", field="prompt")
        if version is not None and version not in self._loaded:
            raise InvalidInput(f'There is no version "{version}" of this model.', field="version")
        if self.num_open >= self._queue_limit:
            raise GeneratorBusy
        return room

    async def _play(
        self, answer: Answer, prompt: Prompt, sampling: Sampling, max_tokens: int
    ) -> AsyncGenerator[Piece | Finish, None]:
        text = StopFilter(sampling.stop)
        num_tokens = 0
        reason: FinishReason = "stop"
        for piece in answer.pieces or ("",):
            await self._pause(answer.delay or self._delay)
            if piece:
                num_tokens += 1
                if ready := text.push(piece):
                    yield Piece(ready)
            if answer.hold is not None:
                await self._unless_closed(answer.hold.wait())
            if text.stopped:
                break
            if num_tokens >= max_tokens:
                reason = "length"
                break
        if rest := text.flush():
            yield Piece(rest)
        if answer.error is not None:
            raise answer.error if isinstance(answer.error, MynaError) else GeneratorFailed() from answer.error
        yield Finish(reason, prompt.num_tokens, num_tokens)

    async def _pause(self, seconds: float) -> None:
        """Give the loop a turn even without a delay, as a real model does."""
        await asyncio.sleep(0)
        if seconds:
            await self._unless_closed(asyncio.sleep(seconds))
        elif self._closing.is_set():
            raise GeneratorUnavailable

    async def _unless_closed(self, wait: object) -> None:
        """Wait, but end the stream as soon as the generator is closed."""
        tasks = [asyncio.ensure_future(wait), asyncio.ensure_future(self._closing.wait())]  # type: ignore[call-overload]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        if self._closing.is_set():
            raise GeneratorUnavailable


def split_words(text: str) -> list[str]:
    """Split a text into words, each with the space before it; joined they are the text."""
    return re.findall(r"\s*\S+|\s+$", text)


def _echo(prompt: Prompt) -> tuple[str, ...]:
    if prompt.text is not None:
        return tuple(split_words(prompt.text))
    said = [message.content for message in prompt.messages if message.role == "user"]
    return tuple(split_words(said[-1])) if said else ()
