"""Generator port: prompts, sampling settings and streamed replies.

The engine in this process, the remote server and the tests' fake all implement `Generator`; one contract test holds for
each of them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from bot.errors import InvalidInput

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls"]

# The limits are the same for every generator, so that a bad request is refused before it is queued or sent.
MAX_TEMPERATURE = 10.0
MAX_STOP_STRINGS = 16
MAX_STOP_LENGTH = 256
LARGEST_INTEGER = 2**31 - 1
LARGEST_SEED = 2**63 - 1
MAX_LOGPROBS = 20


@dataclass(frozen=True, slots=True)
class ToolCall:
    """Call of a function, as the model requests it; `arguments` is JSON exactly as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """Message in the form of chat templates.

    An assistant's message may hold `tool_calls`; a tool's message names the call that it answers in `tool_call_id`.
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Encoded prompt for one particular model: `messages`, or a `text` to continue.

    `token_ids` is empty when a remote server tokenizes; `num_tokens` is then that server's count or a cautious
    estimate. `sha256` identifies the model's exact input, so that a logged reply can be reproduced. `tools` are the
    functions that the model may call, each a JSON object in OpenAI's form.
    """

    messages: tuple[ChatMessage, ...]
    token_ids: tuple[int, ...]
    num_tokens: int
    sha256: str
    text: str | None = None
    tools: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling settings. `temperature=0` is greedy; `top_k=0`, `top_p=1`, `min_p=0` filter nothing.

    `logprobs=n` asks for the log probability of each token and of the `n` likeliest alternatives. `json_schema` is the
    text of a JSON Schema that the reply must satisfy.
    """

    max_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logprobs: int | None = None
    json_schema: str | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Token with the natural logarithm of its probability before sampling settings; `top` are the likeliest tokens.

    `token` may show a replacement character where a token is only part of a character; `bytes` are exact.
    """

    token: str
    bytes: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """Streamed fragment of a reply: whole characters, never empty, never part of a stop string.

    `logprobs` are those of the tokens since the last piece, if `Sampling.logprobs` asks for them.
    """

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Finish:
    """Last event of a stream. The reason `length` means that `max_tokens` or the context window ended the reply."""

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int


Event = Piece | ToolCall | Finish


class Generator(Protocol):
    """Language model that streams replies to prompts."""

    @property
    def model(self) -> str:
        """Name of the base model, as stored with each reply."""
        ...

    @property
    def context_tokens(self) -> int:
        """Largest number of tokens in prompt and reply together."""
        ...

    @property
    def ready(self) -> bool:
        """True if a stream would start now."""
        ...

    async def start(self) -> None:
        """Load the model or connect to it. Raises `ModelError` with a remedy."""
        ...

    async def close(self) -> None:
        """End every stream and free the model. A second call does nothing."""
        ...

    @property
    def takes_tools(self) -> bool:
        """True if the model was trained to call functions, so that `encode` accepts `tools`."""
        ...

    @property
    def versions(self) -> tuple[str, ...]:
        """Names of the trained versions that `stream` accepts now, beside the base."""
        ...

    async def load_version(self, name: str, folder: Path, sha256: str | None = None) -> None:
        """Load a trained version (LoRA weights in PEFT's files). A name always stands for the same file.

        Raises `VersionError` with the reason and changes nothing if the files are damaged, were made for another base,
        or do not match `sha256`.
        """
        ...

    async def unload_version(self, name: str) -> None:
        """Refuse new streams of a version; running ones finish with it. An unknown name does nothing."""
        ...

    async def encode(self, messages: Sequence[ChatMessage], tools: Sequence[str] = ()) -> Prompt:
        """Apply the model's chat template, up to the start of the assistant's turn.

        Text inside a message is never read as a control token of the template. Raises `InvalidInput` for messages or
        tools that the template rejects.
        """
        ...

    async def encode_text(self, text: str) -> Prompt:
        """Encode plain text for the model to continue."""
        ...

    def stream(
        self, prompt: Prompt, sampling: Sampling, version: str | None = None, *, priority: int = 0
    ) -> AsyncGenerator[Event, None]:
        """Yield pieces and tool calls, then exactly one `Finish`. Closing the generator aborts the work.

        Among waiting streams, the one with the smaller `priority` goes first. Raises `GeneratorBusy` when the queue is
        full, `GeneratorUnavailable` before `start` and after `close`, `InvalidInput` for a prompt, sampling or version
        that the model can't take, and `GeneratorFailed` when the model breaks.
        """
        ...


def check_sampling(sampling: Sampling) -> None:
    """Raise `InvalidInput` with the field's name for a value that no model can take."""
    _check_integer("max_tokens", sampling.max_tokens, 1, LARGEST_INTEGER)
    _check_number("temperature", sampling.temperature, 0.0, MAX_TEMPERATURE)
    _check_number("top_p", sampling.top_p, 0.0, 1.0)
    _check_integer("top_k", sampling.top_k, 0, LARGEST_INTEGER)
    _check_number("min_p", sampling.min_p, 0.0, 1.0)
    _check_number("repetition_penalty", sampling.repetition_penalty, 0.1, 10.0)
    _check_number("presence_penalty", sampling.presence_penalty, -2.0, 2.0)
    _check_number("frequency_penalty", sampling.frequency_penalty, -2.0, 2.0)
    if sampling.logprobs is not None:
        _check_integer("logprobs", sampling.logprobs, 0, MAX_LOGPROBS)
    if sampling.top_p == 0:
        raise InvalidInput("top_p must be more than 0. Use 1 to switch it off.", field="top_p")
    if sampling.seed is not None:
        _check_integer("seed", sampling.seed, 0, LARGEST_SEED)
    _check_stop(sampling.stop)


def _check_integer(field: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidInput(f"{field} must be a whole number from {low} to {high}.", field=field)


def _check_number(field: str, value: object, low: float, high: float) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:  # type: ignore[operator]
        raise InvalidInput(f"{field} must be a number from {low:g} to {high:g}.", field=field)


def _check_stop(stop: object) -> None:
    if not isinstance(stop, tuple) or len(stop) > MAX_STOP_STRINGS:
        raise InvalidInput(f"stop takes at most {MAX_STOP_STRINGS} strings.", field="stop")
    if any(not isinstance(text, str) or not 1 <= len(text) <= MAX_STOP_LENGTH for text in stop):
        raise InvalidInput(f"Each stop string must have 1 to {MAX_STOP_LENGTH} characters.", field="stop")
