"""A generator in this process: one worker thread that owns the model, one reply at a time, first come first served.

Knows: the queue of replies, and the way from the worker thread to any asyncio loop. Does not know: torch (the runner
loads it, in that thread only), conversations, storage, or how tokens are chosen and turned into text.
"""

from __future__ import annotations

import array
import asyncio
import concurrent.futures
import hashlib
import logging
import queue
import sys
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path

from bot.engine.model_store import check_model
from bot.engine.runner import Runner
from bot.engine.sampler import check_sampling
from bot.engine.text_stream import TextStream
from bot.errors import GeneratorBusy, GeneratorFailed, GeneratorUnavailable, InvalidInput, ModelError, MynaError
from bot.generator import ChatMessage, Finish, FinishReason, Piece, Prompt, Sampling

log = logging.getLogger(__name__)

CLOSED = "The model has been shut down."


class LocalGenerator:
    """`Generator` over a model folder. `queue_limit` counts open streams, running or waiting; more are refused."""

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        device: str = "auto",
        context_tokens: int,
        queue_limit: int = 64,
        threads: int | None = None,
    ) -> None:
        self._path = path
        self._name = name
        self._device = device
        self._context_tokens = context_tokens
        self._queue_limit = queue_limit
        self._threads = threads
        self._runner: Runner | None = None
        self._thread: threading.Thread | None = None
        self._loaded: concurrent.futures.Future[None] | None = None
        self._closing = False
        # The loop must never wait for a lock, so both are used only in ways that the interpreter makes atomic.
        self._inbox: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._open: set[_Job] = set()
        self._seconds_per_reply = 2.0

    @property
    def model(self) -> str:
        return self._name

    @property
    def context_tokens(self) -> int:
        return self._context_tokens

    @property
    def ready(self) -> bool:
        return self._runner is not None and not self._closing

    async def start(self) -> None:
        if self._closing:
            raise GeneratorUnavailable(CLOSED)
        if self._loaded is None or (self._loaded.done() and self._loaded.exception() is not None):
            self._loaded = concurrent.futures.Future()
            self._thread = threading.Thread(
                target=self._work, args=(self._loaded,), name=f"myna-model-{self._name}", daemon=True
            )
            self._thread.start()
        await asyncio.shield(asyncio.wrap_future(self._loaded))
        if self._closing:
            raise GeneratorUnavailable(CLOSED)

    async def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._inbox.put(None)
            self._end_all(CLOSED)
        if self._thread is not None:
            # A model that is still being loaded is not waited for: that can take minutes, and nothing depends on it.
            await asyncio.to_thread(self._thread.join, None if self._runner is not None else 5.0)

    async def encode(self, messages: Sequence[ChatMessage]) -> Prompt:
        """The prompt's `sha256` is taken over its token ids, each as four bytes, least significant first."""
        runner = self._ready_runner()
        token_ids = await asyncio.to_thread(runner.encode, messages)
        return Prompt(tuple(messages), token_ids, len(token_ids), hash_tokens(token_ids))

    async def stream(
        self, prompt: Prompt, sampling: Sampling, version: str | None = None
    ) -> AsyncGenerator[Piece | Finish, None]:
        job = self._submit(prompt, sampling, version)
        try:
            while True:
                event = await job.events.get()
                if isinstance(event, MynaError):
                    raise event
                yield event
                if isinstance(event, Finish):
                    return
        finally:
            job.abort()
            self._open.discard(job)

    def _submit(self, prompt: Prompt, sampling: Sampling, version: str | None) -> _Job:
        runner = self._ready_runner()
        check_sampling(sampling)
        if version is not None:
            raise InvalidInput(f'There is no version "{version}" of this model.', field="version")
        room = self._check_prompt(prompt, runner)
        if len(self._open) >= self._queue_limit:
            raise GeneratorBusy(retry_after=min(max(self._seconds_per_reply, 1.0), 30.0))
        job = _Job(prompt.token_ids, sampling, min(sampling.max_tokens, room))
        self._open.add(job)
        if self._closing:  # looked at after joining `_open`, so that a close in another thread misses no job
            self._open.discard(job)
            raise GeneratorUnavailable(CLOSED)
        self._inbox.put(job)
        return job

    def _ready_runner(self) -> Runner:
        if self._closing:
            raise GeneratorUnavailable(CLOSED)
        if self._runner is None:
            raise GeneratorUnavailable("The model is still being loaded.")
        return self._runner

    def _check_prompt(self, prompt: Prompt, runner: Runner) -> int:
        """The number of tokens left for the reply."""
        room = self._context_tokens - len(prompt.token_ids)
        if room < 1:
            raise InvalidInput(
                f"The prompt has {len(prompt.token_ids)} tokens, and the model takes {self._context_tokens} together "
                f"with its reply.",
                field="prompt",
            )
        if not prompt.token_ids:
            raise InvalidInput("The prompt is empty.", field="prompt")
        if min(prompt.token_ids) < 0 or max(prompt.token_ids) >= runner.vocab_size:
            raise InvalidInput("The prompt was made for another model.", field="prompt")
        return room

    def _work(self, loaded: concurrent.futures.Future[None]) -> None:
        """The worker thread from beginning to end."""
        try:
            runner = self._load()
        except ModelError as error:
            loaded.set_exception(error)
            return
        except Exception as error:
            log.exception("The model in %s could not be loaded", self._path)
            loaded.set_exception(ModelError(f"The model in {self._path} could not be loaded: {error}"))
            return
        self._runner = runner
        loaded.set_result(None)
        try:
            while (job := self._inbox.get()) is not None:
                self._answer(job, runner)
                self._open.discard(job)
        finally:
            self._runner = None
            self._end_all(CLOSED)

    def _load(self) -> Runner:
        check_model(self._path)
        runner = Runner(self._path, self._device, self._threads)
        if self._context_tokens > runner.max_context_tokens:
            raise ModelError(
                f"The model {self._name} reads at most {runner.max_context_tokens} tokens, and the settings ask for a "
                f"context of {self._context_tokens}. Set MYNA_CONTEXT_TOKENS to at most {runner.max_context_tokens}."
            )
        return runner

    def _answer(self, job: _Job, runner: Runner) -> None:
        """Run one reply. Nothing that happens in it ends the worker."""
        prompt_ids = job.prompt_ids
        if job.aborted:  # looked at second: an abort sets the flag first and then empties the prompt
            return
        started = time.monotonic()
        try:
            for event in _reply(prompt_ids, job, runner):
                job.deliver(event)
        except MynaError as error:
            job.deliver(error)
        except Exception:
            log.exception("The model failed in the middle of a reply")
            job.deliver(GeneratorFailed())
        if not job.aborted:
            self._seconds_per_reply += 0.2 * (time.monotonic() - started - self._seconds_per_reply)

    def _end_all(self, reason: str) -> None:
        for job in tuple(self._open):
            job.deliver(GeneratorUnavailable(reason))
            job.abort()


class _Job:
    """One reply on its way between the loop that asked for it and the worker thread."""

    def __init__(self, prompt_ids: tuple[int, ...], sampling: Sampling, max_tokens: int) -> None:
        self.prompt_ids = prompt_ids
        self.sampling = sampling
        self.max_tokens = max_tokens
        self.events: asyncio.Queue[Piece | Finish | MynaError] = asyncio.Queue()
        self.aborted = False
        self._loop = asyncio.get_running_loop()

    def deliver(self, event: Piece | Finish | MynaError) -> None:
        """From any thread."""
        if self.aborted:
            return
        try:
            self._loop.call_soon_threadsafe(self.events.put_nowait, event)
        except RuntimeError:  # the loop was closed without closing this stream
            self.abort()

    def abort(self) -> None:
        """The worker notices between two steps. A job that still waits in the queue gives back its memory now."""
        self.aborted = True
        self.prompt_ids = ()


def _reply(prompt_ids: tuple[int, ...], job: _Job, runner: Runner) -> Iterator[Piece | Finish]:
    text = TextStream(runner.decode, job.sampling.stop, runner.silent_ids)
    num_tokens = 0
    reason: FinishReason | None = None
    for token_id in runner.tokens(prompt_ids, job.sampling):
        if job.aborted:
            return
        if token_id is None:
            continue
        num_tokens += 1
        if token_id in runner.end_ids:
            reason = "stop"
        elif piece := text.push(token_id):
            yield Piece(piece)
        if text.stopped:
            reason = "stop"
        elif reason is None and num_tokens >= job.max_tokens:
            reason = "length"
        if reason is not None:
            break
    if rest := text.flush():
        yield Piece(rest)
    yield Finish("stop" if text.stopped else reason or "length", len(prompt_ids), num_tokens)


def hash_tokens(token_ids: Sequence[int]) -> str:
    """SHA-256 over token ids, each as four bytes, least significant first."""
    packed = array.array("I", token_ids)
    if sys.byteorder == "big":
        packed.byteswap()
    return hashlib.sha256(packed.tobytes()).hexdigest()
