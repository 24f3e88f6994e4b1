"""In-process generator: a worker thread that owns the model and batches replies.

Requests go to the worker by a queue, and events come back to the asyncio loops of their readers. A model that breaks is
loaded again, with backoff. Torch is imported in the worker thread only.
"""

from __future__ import annotations

import array
import asyncio
import concurrent.futures
import contextlib
import hashlib
import logging
import queue
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bot.errors import (
    GeneratorBusy,
    GeneratorFailed,
    GeneratorUnavailable,
    InvalidInput,
    ModelError,
    MynaError,
    VersionError,
)
from bot.generation.engine.batch import Batch
from bot.generation.engine.process_memory import collect_all
from bot.generation.engine.runner import Runner
from bot.generation.engine.tool_calls import ToolCallParser
from bot.generation.models.store import check_model
from bot.generation.port import ChatMessage, Event, Finish, Piece, Prompt, Sampling, check_sampling

if TYPE_CHECKING:
    from bot.generation.engine.grammar import Grammar
    from bot.generation.engine.lora import LoraVersion

log = logging.getLogger("myna.engine")

CLOSED = "The model has been shut down."
FIRST_RESTART_SECONDS = 1.0
MAX_RESTART_SECONDS = 60.0


class LocalGenerator:
    """`Generator` over a model folder. `queue_limit` counts open streams, running or waiting.

    Further streams are refused with `GeneratorBusy`.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        device: str = "auto",
        context_tokens: int,
        queue_limit: int = 64,
        threads: int | None = None,
        cache_bytes: int | None = None,
        compiles: bool = False,
    ) -> None:
        self._path = path
        self._name = name
        self._device = device
        self._context_tokens = context_tokens
        self._queue_limit = queue_limit
        self._threads = threads
        self._cache_bytes = cache_bytes
        self._compiles = compiles
        self._runner: Runner | None = None
        self._thread: threading.Thread | None = None
        self._loaded: concurrent.futures.Future[None] | None = None
        self._closing = threading.Event()
        # The loop must never wait for a lock, so both threads use these only by operations that Python makes atomic.
        self._inbox: queue.SimpleQueue[_ReplyStream | LoraVersion | None] = queue.SimpleQueue()
        self._open: set[_ReplyStream] = set()
        self._versions: dict[str, LoraVersion] = {}
        self._deliveries = _Deliveries()
        self._seconds_per_reply = 2.0

    @property
    def model(self) -> str:
        return self._name

    @property
    def context_tokens(self) -> int:
        return self._context_tokens

    @property
    def ready(self) -> bool:
        return self._runner is not None and not self._closing.is_set()

    async def start(self) -> None:
        if self._closing.is_set():
            raise GeneratorUnavailable(CLOSED)
        if self._loaded is None or (self._loaded.done() and self._loaded.exception() is not None):
            self._loaded = concurrent.futures.Future()
            self._thread = threading.Thread(
                target=self._work, args=(self._loaded,), name=f"myna-model-{self._name}", daemon=True
            )
            self._thread.start()
        await asyncio.shield(asyncio.wrap_future(self._loaded))
        if self._closing.is_set():
            raise GeneratorUnavailable(CLOSED)

    async def close(self) -> None:
        if not self._closing.is_set():
            self._closing.set()
            self._inbox.put(None)
            self._end_all(GeneratorUnavailable(CLOSED))
        if self._thread is not None:
            # Loading can take minutes and nothing depends on it, so that close waits only briefly for it.
            await asyncio.to_thread(self._thread.join, None if self._runner is not None else 5.0)

    @property
    def takes_tools(self) -> bool:
        return self._runner is not None and self._runner.takes_tools

    @property
    def versions(self) -> tuple[str, ...]:
        return tuple(self._versions)

    async def load_version(self, name: str, folder: Path, sha256: str | None = None) -> None:
        """Load a version. One that is loaded already, from the same file, stays as it is."""
        version = await asyncio.to_thread(self._ready_runner().read_version, name, folder, sha256)
        loaded = self._versions.setdefault(name, version)
        if loaded.sha256 != version.sha256:
            raise VersionError(f'There is another version "{name}" already. Give this one another name.')

    async def unload_version(self, name: str) -> None:
        version = self._versions.pop(name, None)
        if version is not None:
            version.retired = True
            self._inbox.put(version)

    async def encode(self, messages: Sequence[ChatMessage], tools: Sequence[str] = ()) -> Prompt:
        """Apply the chat template in a thread. The prompt's `sha256` is that of `hash_tokens`."""
        runner = self._ready_runner()
        token_ids = await asyncio.to_thread(runner.encode, messages, tools)
        return Prompt(tuple(messages), token_ids, len(token_ids), hash_tokens(token_ids), tools=tuple(tools))

    async def encode_text(self, text: str) -> Prompt:
        token_ids = await asyncio.to_thread(self._ready_runner().encode_text, text)
        return Prompt((), token_ids, len(token_ids), hash_tokens(token_ids), text=text)

    async def stream(
        self, prompt: Prompt, sampling: Sampling, version: str | None = None, *, priority: int = 0
    ) -> AsyncGenerator[Event, None]:
        runner = self._ready_runner()
        check_sampling(sampling)
        grammar: Grammar | None = None
        if sampling.json_schema is not None:
            grammar = await asyncio.to_thread(runner.compile_grammar, sampling.json_schema)
        if sampling.logprobs is not None:
            await asyncio.to_thread(runner.vocabulary.prepare)
        del runner  # a stream may wait long, and must not keep a model that broke
        reply = self._submit(prompt, sampling, version, priority, grammar)
        parser = ToolCallParser() if prompt.tools else None
        try:
            while True:
                event = await reply.events.get()
                if isinstance(event, MynaError):
                    raise event
                if parser is None:
                    yield event
                else:
                    for parsed in _parse_tool_calls(parser, event):
                        yield parsed
                if isinstance(event, Finish):
                    return
        finally:
            reply.abort()
            self._open.discard(reply)

    def _submit(
        self, prompt: Prompt, sampling: Sampling, version: str | None, priority: int, grammar: Grammar | None
    ) -> _ReplyStream:
        room = self._check_prompt(prompt, self._ready_runner())
        weights = None if version is None else self._versions.get(version)
        if version is not None and weights is None:
            raise InvalidInput(f'There is no version "{version}" of this model.', field="version")
        if len(self._open) >= self._queue_limit:
            raise GeneratorBusy(retry_after=min(max(self._seconds_per_reply, 1.0), 30.0))
        max_tokens = min(sampling.max_tokens, room)
        reply = _ReplyStream(
            prompt.token_ids, sampling, max_tokens, weights, priority, grammar, self._deliveries, self._reply_ended
        )
        self._open.add(reply)
        self._inbox.put(reply)
        try:
            self._ready_runner()  # checked after joining `_open`, so that an end in another thread misses no reply
        except GeneratorUnavailable:
            reply.abort()
            self._open.discard(reply)
            raise
        return reply

    def _reply_ended(self, reply: _ReplyStream) -> None:
        self._open.discard(reply)
        if not reply.aborted:
            self._seconds_per_reply += 0.2 * (time.monotonic() - reply.submitted - self._seconds_per_reply)

    def _ready_runner(self) -> Runner:
        if self._closing.is_set():
            raise GeneratorUnavailable(CLOSED)
        if self._runner is None:
            raise GeneratorUnavailable("The model is still being loaded.")
        return self._runner

    def _check_prompt(self, prompt: Prompt, runner: Runner) -> int:
        """Return the number of tokens left for the reply. Raises `InvalidInput` if there is none."""
        room = self._context_tokens - len(prompt.token_ids)
        if room < 1:
            raise InvalidInput(
                f"The prompt has {len(prompt.token_ids)} tokens; prompt and reply together may have at most "
                f"{self._context_tokens}.",
                field="prompt",
            )
        if not prompt.token_ids:
            raise InvalidInput("The prompt is empty.", field="prompt")
        if min(prompt.token_ids) < 0 or max(prompt.token_ids) >= runner.vocab_size:
            raise InvalidInput("The prompt was made for another model.", field="prompt")
        return room

    def _work(self, loaded: concurrent.futures.Future[None]) -> None:
        """Run the worker thread: load, serve, and load again whenever the model breaks."""
        try:
            runner = self._load()
        except ModelError as error:
            loaded.set_exception(error)
            return
        self._runner = runner
        loaded.set_result(None)
        try:
            while not self._serve(runner):
                # The broken runner is freed before another is made: two may not fit in memory.
                del runner
                replacement = self._load_again()
                if replacement is None:
                    return
                self._runner = runner = replacement
                log.warning("The model %s is back", self._name)
        finally:
            self._runner = None
            self._end_all(GeneratorUnavailable(CLOSED))

    def _serve(self, runner: Runner) -> bool:
        """Generate replies until told to stop. Return False if the model broke: all open replies have failed then."""
        try:
            batch = Batch(runner)
            while self._take_inbox(batch):
                batch.step()
                self._deliveries.send()
        except Exception:
            log.exception("The model %s broke and is loaded again", self._name)
            self._runner = None
            self._deliveries.send()
            self._end_all(GeneratorFailed())
            return False
        return True

    def _load_again(self) -> Runner | None:
        """Return a new runner, however many tries that takes; None if the generator is closed meanwhile."""
        pause = FIRST_RESTART_SECONDS
        while not self._closing.wait(pause):
            collect_all()  # the broken model may be in a reference cycle with its own hooks
            try:
                return self._load()
            except ModelError as error:
                log.error("The model %s can't be loaded again yet: %s", self._name, error.message)
                pause = min(2 * pause, MAX_RESTART_SECONDS)
        return None

    def _take_inbox(self, batch: Batch) -> bool:
        """Let new replies join; wait for one if the batch is empty. Return False when the generator closes."""
        while not batch or not self._inbox.empty():
            item = self._inbox.get()
            if item is None:
                return False
            if isinstance(item, _ReplyStream):
                batch.add(item)
            else:
                batch.forget(item)
        return True

    def _load(self) -> Runner:
        try:
            return self._make_runner()
        except ModelError:
            raise
        except Exception as error:
            log.exception("The model in %s could not be loaded", self._path)
            raise ModelError(f"The model in {self._path} could not be loaded: {error}") from error

    def _make_runner(self) -> Runner:
        check_model(self._path)
        runner = Runner(
            self._path,
            self._device,
            self._threads,
            context_tokens=self._context_tokens,
            cache_bytes=self._cache_bytes,
            compiles=self._compiles,
        )
        if self._context_tokens > runner.max_context_tokens:
            raise ModelError(
                f"The model {self._name} reads at most {runner.max_context_tokens} tokens, and the settings ask for a "
                f"context of {self._context_tokens}. Set MYNA_CONTEXT_TOKENS to at most {runner.max_context_tokens}."
            )
        return runner

    def _end_all(self, error: MynaError) -> None:
        for reply in tuple(self._open):
            reply.fail(error)


class _Deliveries:
    """Events of one step, collected so that each loop is woken once per step. Used by the worker thread only."""

    def __init__(self) -> None:
        self._by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_ReplyStream, Piece | Finish | MynaError]]] = {}

    def add(self, loop: asyncio.AbstractEventLoop, reply: _ReplyStream, event: Piece | Finish | MynaError) -> None:
        self._by_loop.setdefault(loop, []).append((reply, event))

    def send(self) -> None:
        by_loop, self._by_loop = self._by_loop, {}
        for loop, events in by_loop.items():
            try:
                loop.call_soon_threadsafe(_put_all, events)
            except RuntimeError:  # the loop was closed without closing its streams
                for reply, _ in events:
                    reply.abort()


def _put_all(events: list[tuple[_ReplyStream, Piece | Finish | MynaError]]) -> None:
    for reply, event in events:
        reply.events.put_nowait(event)


class _ReplyStream:
    """`GenerationRequest` whose events go from the worker thread to a reader in an asyncio loop."""

    def __init__(
        self,
        prompt_ids: tuple[int, ...],
        sampling: Sampling,
        max_tokens: int,
        version: LoraVersion | None,
        priority: int,
        grammar: Grammar | None,
        deliveries: _Deliveries,
        on_end: Callable[[_ReplyStream], None],
    ) -> None:
        self._deliveries = deliveries
        self._on_end = on_end
        self.version = version
        self.priority = priority
        self.grammar = grammar
        self.submitted = time.monotonic()
        self.prompt_ids = prompt_ids
        self.sampling = sampling
        self.max_tokens = max_tokens
        self.events: asyncio.Queue[Piece | Finish | MynaError] = asyncio.Queue()
        self.aborted = False
        self._loop = asyncio.get_running_loop()

    def deliver(self, event: Piece | Finish | MynaError) -> None:
        """Collect an event for the end of the step. Called by the worker thread."""
        if not self.aborted:
            self._deliveries.add(self._loop, self, event)

    def fail(self, error: MynaError) -> None:
        """End the stream with an error now. May be called from any thread."""
        if not self.aborted:
            with contextlib.suppress(RuntimeError):  # the loop was closed without closing this stream
                self._loop.call_soon_threadsafe(self.events.put_nowait, error)
        self.abort()

    def end(self) -> None:
        self._on_end(self)

    def abort(self) -> None:
        """Ask the worker to end the reply between two steps. The prompt's memory is freed now."""
        self.aborted = True
        self.prompt_ids = ()


def _parse_tool_calls(parser: ToolCallParser, event: Piece | Finish) -> list[Event]:
    if isinstance(event, Piece):
        return list(parser.push(event.text, event.logprobs))
    rest: list[Event] = list(parser.flush())
    called = parser.num_calls > 0 and event.reason == "stop"
    return [*rest, replace(event, reason="tool_calls") if called else event]


def hash_tokens(token_ids: Sequence[int]) -> str:
    """Return the SHA-256 of token ids, each as four bytes, little-endian."""
    packed = array.array("I", token_ids)
    if sys.byteorder == "big":
        packed.byteswap()
    return hashlib.sha256(packed.tobytes()).hexdigest()
