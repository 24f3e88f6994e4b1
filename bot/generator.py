"""The port between conversations and models: what a prompt is, how to sample, what comes back.

Knows: the shape of a request to any model and of its streamed answer. Does not know: torch, HTTP or SQL. The engine in
this process, a remote server and the fake of the tests all implement `Generator`, and one contract test holds for each.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn as a chat template sees it."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """Messages as one particular model will read them.

    `token_ids` is empty when a remote server tokenizes; `num_tokens` is then its own count or a careful estimate.
    `sha256` names exactly what the model saw, so that a logged reply can be reproduced.
    """

    messages: tuple[ChatMessage, ...]
    token_ids: tuple[int, ...]
    num_tokens: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. `temperature=0` is greedy; `top_k=0`, `top_p=1`, `min_p=0` filter nothing."""

    max_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """A streamed fragment of a reply: whole characters, never empty, never part of a stop string."""

    text: str


@dataclass(frozen=True, slots=True)
class Finish:
    """The last event of a stream. `length` means `max_tokens` or the context window ended the reply."""

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int


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

    async def encode(self, messages: Sequence[ChatMessage]) -> Prompt:
        """Apply the model's own chat template, ready for the assistant's turn.

        Text inside a message is never read as a control token of the template.
        """
        ...

    def stream(
        self, prompt: Prompt, sampling: Sampling, version: str | None = None
    ) -> AsyncGenerator[Piece | Finish, None]:
        """Yield pieces, then exactly one `Finish`. Closing the generator aborts the work.

        Raises `GeneratorBusy` when the queue is full, `GeneratorUnavailable` before `start` and after `close`,
        `InvalidInput` for a prompt or sampling the model can't take, and `GeneratorFailed` when the model breaks.
        """
        ...
