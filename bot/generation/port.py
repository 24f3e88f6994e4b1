"""The port between conversations and models: what a prompt is, how to sample, what comes back.

Knows: the shape of a request to any model and of its streamed answer. Does not know: torch, HTTP or SQL. The engine in
this process, a remote server and the fake of the tests all implement `Generator`, and one contract test holds for each.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the model wants called; `arguments` is JSON as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn as a chat template sees it. An assistant's turn may hold calls; a tool's says which one it answers."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Messages, or a `text` to go on with, as one particular model will read them.

    `token_ids` is empty when a remote server tokenizes; `num_tokens` is then its own count or a careful estimate.
    `sha256` names exactly what the model saw, so that a logged reply can be reproduced. `tools` are functions that may
    be called, each a JSON object in OpenAI's form.
    """

    messages: tuple[ChatMessage, ...]
    token_ids: tuple[int, ...]
    num_tokens: int
    sha256: str
    text: str | None = None
    tools: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. `temperature=0` is greedy; `top_k=0`, `top_p=1`, `min_p=0` filter nothing.

    `logprobs` asks for the probability of each token and for so many others that were likely. `json_schema` is a JSON
    Schema that the reply must satisfy, as text.
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
    """A token and the natural logarithm of its probability, before sampling settings; `top` are the likeliest ones.

    `token` may show a mark where a token is only part of a character; `bytes` are exact.
    """

    token: str
    bytes: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """A streamed fragment of a reply: whole characters, never empty, never part of a stop string.

    `logprobs` are those of the tokens that came since the last piece, where `Sampling.logprobs` asks for them.
    """

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Finish:
    """The last event of a stream. `length` means `max_tokens` or the context window ended the reply."""

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int


Event = Piece | ToolCall | Finish


class Generator(Protocol):
    """Turns a prompt into a stream of pieces."""

    @property
    def model(self) -> str:
        """Name of the base model, as it is written beside each reply."""
        ...

    @property
    def context_tokens(self) -> int:
        """The most tokens that prompt and reply may have together."""
        ...

    @property
    def ready(self) -> bool:
        """Whether a stream would start now."""
        ...

    async def start(self) -> None:
        """Load or connect. Raises `ModelError` with what to do about it."""
        ...

    async def close(self) -> None:
        """End every stream and free the model. Calling it twice does nothing."""
        ...

    @property
    def takes_tools(self) -> bool:
        """Whether the model was made to call functions, so that `encode` takes `tools`."""
        ...

    @property
    def versions(self) -> tuple[str, ...]:
        """Names of the trained versions that `stream` takes now, beside the base."""
        ...

    async def load_version(self, name: str, folder: Path, sha256: str | None = None) -> None:
        """Make a trained version (LoRA weights in PEFT's files) available. A name stands for one file for ever.

        Raises `VersionError` with the reason and changes nothing if the files are damaged, were made for another base,
        or are not those that `sha256` names.
        """
        ...

    async def unload_version(self, name: str) -> None:
        """Take no new streams for a version; those that run end with it. An unknown name does nothing."""
        ...

    async def encode(self, messages: Sequence[ChatMessage], tools: Sequence[str] = ()) -> Prompt:
        """Apply the model's own chat template, ready for the assistant's turn.

        Text inside a message is never read as a control token of the template. Raises `InvalidInput` for messages or
        tools that the template can't take.
        """
        ...

    async def encode_text(self, text: str) -> Prompt:
        """A prompt that is plain text to go on with."""
        ...

    def stream(
        self, prompt: Prompt, sampling: Sampling, version: str | None = None, *, priority: int = 0
    ) -> AsyncGenerator[Event, None]:
        """Yield pieces and tool calls, then exactly one `Finish`. Closing the generator aborts the work.

        Of two that wait, the one with the smaller `priority` goes first. Raises `GeneratorBusy` when the queue is full,
        `GeneratorUnavailable` before `start` and after `close`, `InvalidInput` for a prompt, sampling or version that
        the model can't take, and `GeneratorFailed` when the model breaks.
        """
        ...
