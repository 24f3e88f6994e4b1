"""Stateless completions for programs.

The caller sends the whole conversation, and only the usage is stored. `bot.chat.turns` makes the replies with memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bot.chat.live import Ended, LiveEvents
from bot.completions.api_keys_access import ApiAccess, Caller
from bot.completions.forced_tools import as_tool_call, schema_of_call, with_calls_as_text, with_tools_described
from bot.errors import GeneratorUnavailable, InvalidInput, MynaError, ShuttingDown, UnknownModel
from bot.generation.port import ChatMessage, Event, Finish, Generator, Prompt, Sampling
from bot.learning.release.loaded_versions import ReleasedVersions
from bot.metrics import Metrics, log_turn
from storage.api_keys import Usage
from storage.values import new_id

LEAST_RECORDING_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """Request for `choices` answers to `messages`, or continuations of `text`.

    `tools` are OpenAI function definitions as JSON. If `forced_tools` is not empty, one of the named functions must be
    called.
    """

    endpoint: str
    model: str
    sampling: Sampling
    messages: tuple[ChatMessage, ...] = ()
    text: str | None = None
    tools: tuple[str, ...] = ()
    forced_tools: tuple[str, ...] = ()
    choices: int = 1
    priority: int = 0


@dataclass(slots=True)
class Run:
    """A running request: its `(choice, event)` pairs in order of arrival, and its usage so far."""

    prompt: Prompt
    model: str
    version: str | None
    events: AsyncGenerator[tuple[int, Event], None] = field(init=False)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    outcome: str = "aborted"
    started: float = field(default_factory=time.monotonic)
    first_token_ms: int | None = None
    id: str = field(default_factory=new_id)
    failed: bool = False

    @property
    def state(self) -> str:
        """State of the end, as for stored replies; a caller who disconnects stops the answer."""
        return "failed" if self.failed else "stopped" if self.outcome == "aborted" else "answered"

    def milliseconds(self) -> int:
        return round((time.monotonic() - self.started) * 1000)


class Completions:
    """Runs requests and records their usage."""

    def __init__(self, generator: Generator, released: ReleasedVersions, access: ApiAccess, metrics: Metrics) -> None:
        self._generator = generator
        self._released = released
        self._access = access
        self._metrics = metrics
        self._recording: set[asyncio.Task[None]] = set()
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False

    def models(self) -> list[str]:
        """List the base model and the loaded versions."""
        return [self._generator.model, *self._generator.versions]

    def version_of(self, model: str) -> str | None:
        """Return the version for a model name; None is the base. Raises `UnknownModel`."""
        if model == self._generator.model:
            return None
        if model in self._generator.versions:
            return model
        raise UnknownModel(f'There is no model "{model}". There is: {", ".join(self.models())}.')

    @contextlib.asynccontextmanager
    async def run(self, caller: Caller, request: CompletionRequest) -> AsyncIterator[Run]:
        """Start a request. Its usage is recorded when the block ends, in any case."""
        if self._closing:
            raise ShuttingDown
        if not self._generator.ready:
            raise GeneratorUnavailable
        await self._released.load_asked(request.model)
        version = self.version_of(request.model)
        prompt, sampling = await self._prepare(request)
        run = Run(prompt, self._generator.model, version)
        streams = [
            _counted(run, self._generator.stream(prompt, choice, version, priority=request.priority))
            for choice in _by_choice(sampling, request.choices)
        ]
        run.events = _merge([as_tool_call(stream) for stream in streams] if request.forced_tools else streams)
        self._running += 1
        self._idle.clear()
        try:
            async with contextlib.aclosing(run.events):
                yield run
        finally:
            self._record(caller, request, run)
            self._running -= 1
            if not self._running:
                self._idle.set()

    async def _prepare(self, request: CompletionRequest) -> tuple[Prompt, Sampling]:
        if request.text is not None:
            return await self._generator.encode_text(request.text), request.sampling
        messages, tools, sampling = request.messages, request.tools, request.sampling
        if not self._generator.takes_tools:
            messages = tuple(with_calls_as_text(message) for message in messages)
        if request.forced_tools:
            forced = [tool for tool in map(json.loads, tools) if tool["function"]["name"] in request.forced_tools]
            sampling = replace(sampling, json_schema=schema_of_call(forced))
            messages, tools = with_tools_described(messages, forced), ()
        elif tools and not self._generator.takes_tools:
            raise InvalidInput(
                "This model was not made to choose functions by itself. Say which may be called with `tool_choice`: "
                '"required", or one by its name; every model can do that.',
                field="tools",
            )
        return await self._generator.encode(messages, tools), sampling

    def _record(self, caller: Caller, request: CompletionRequest, run: Run) -> None:
        """Record metrics, usage and the turn log.

        The write is a task of its own: the caller may be cancelled already, and must not wait for the disk.
        """
        self._metrics.tokens.labels("prompt").inc(run.prompt_tokens)
        self._metrics.tokens.labels("completion").inc(run.completion_tokens)
        self._metrics.api_requests.labels(request.endpoint, run.outcome).inc()
        usage = Usage(
            caller.key.id if caller.key else None,
            request.endpoint,
            run.model,
            run.version,
            run.prompt_tokens,
            run.completion_tokens,
            run.first_token_ms,
            run.milliseconds(),
            run.outcome,
        )
        self._keep(self._access.record(usage))
        log_turn(
            reply_id=run.id,
            channel="api",
            state=run.state,
            version=run.version,
            first_ms=run.first_token_ms,
            total_ms=run.milliseconds(),
        )

    def record_memory(self, caller: Caller, live: AsyncGenerator[LiveEvents, None]) -> None:
        """Record the usage of a reply with memory, which goes on even if its caller disconnects."""
        self._keep(self._record_memory(caller, live, time.monotonic()))

    async def _record_memory(self, caller: Caller, live: AsyncGenerator[LiveEvents, None], started: float) -> None:
        async with contextlib.aclosing(live):
            async for batch in live:
                if isinstance(ended := batch[-1], Ended):
                    self._metrics.api_requests.labels("memory", ended.state).inc()
                    usage = Usage(
                        caller.key.id if caller.key else None,
                        "memory",
                        self._generator.model,
                        None,
                        ended.prompt_tokens,
                        ended.completion_tokens,
                        None,
                        round((time.monotonic() - started) * 1000),
                        ended.state,
                    )
                    await self._access.record(usage)

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._recording.add(task)
        task.add_done_callback(self._recording.discard)

    async def drain(self, grace_seconds: float) -> None:
        """Refuse new requests, give running ones `grace_seconds`, and finish recording the usage."""
        self._closing = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), grace_seconds)
        if self._recording:  # bounded, as the database may stay away
            await asyncio.wait(self._recording, timeout=max(grace_seconds, LEAST_RECORDING_SECONDS))


def _by_choice(sampling: Sampling, choices: int) -> list[Sampling]:
    """Derive a seed for each choice, so that choices differ but a repeated request gives the same."""
    if sampling.seed is None:
        return [sampling] * choices
    return [replace(sampling, seed=(sampling.seed + choice) % 2**63) for choice in range(choices)]


async def _counted(run: Run, events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    """Pass on a choice's events, and add its tokens to the run: one a piece, corrected by the total in `Finish`."""
    pieces = 0
    try:
        async with contextlib.aclosing(events):
            async for event in events:
                if run.first_token_ms is None:
                    run.first_token_ms = run.milliseconds()
                    run.prompt_tokens = run.prompt.num_tokens
                if isinstance(event, Finish):
                    run.prompt_tokens = event.prompt_tokens or run.prompt_tokens
                    run.completion_tokens += event.completion_tokens - pieces
                    run.outcome = event.reason
                else:
                    pieces += 1
                    run.completion_tokens += 1
                yield event
    except MynaError as error:
        run.outcome, run.failed = error.code, True
        raise
    except Exception:
        run.failed = True
        raise


async def _merge(streams: Sequence[AsyncGenerator[Event, None]]) -> AsyncGenerator[tuple[int, Event], None]:
    """Yield the events of all choices as they arrive. The first error ends all of them."""
    if len(streams) == 1:
        async with contextlib.aclosing(streams[0]) as only:
            async for single in only:
                yield 0, single
        return
    queue: asyncio.Queue[tuple[int, Event | BaseException | None]] = asyncio.Queue()

    async def pump(choice: int, stream: AsyncGenerator[Event, None]) -> None:
        try:
            async with contextlib.aclosing(stream):
                async for event in stream:
                    queue.put_nowait((choice, event))
            queue.put_nowait((choice, None))
        except Exception as error:
            queue.put_nowait((choice, error))

    tasks = [asyncio.create_task(pump(choice, stream)) for choice, stream in enumerate(streams)]
    try:
        running = len(tasks)
        while running:
            choice, event = await queue.get()
            if event is None:
                running -= 1
            elif isinstance(event, BaseException):
                raise event
            else:
                yield choice, event
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
