"""What a model thinks of an answer that somebody else gave: the port between judging and whoever computes losses.

Knows: what is asked and what comes back. Does not know: models, templates, torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bot.generation.port import ChatMessage


@dataclass(frozen=True, slots=True)
class AnsweredPrompt:
    """Messages as the chat template takes them, the system's first and the user's last, and the answer to them."""

    messages: tuple[ChatMessage, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class AnswerLoss:
    """`nll` is the sum of negative log probabilities, in nats, of an answer's tokens and of the one that ends the turn.

    `tokens` says how many these are. Those that lie beyond the model's window are neither summed nor counted.
    """

    nll: float
    tokens: int


class LossScorer(Protocol):
    """Computes losses of answers. It blocks; callers give it a thread."""

    def answer_losses(self, rows: Sequence[AnsweredPrompt], version_folder: Path | None) -> list[AnswerLoss]:
        """One for each row, in order; `version_folder` holds LoRA weights in PEFT's files, None is the base.

        A version whose weights make no sense gives losses that are NaN or infinite, and no error.
        """
        ...
