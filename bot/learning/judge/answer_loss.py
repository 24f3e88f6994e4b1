"""Losses of given answers under a model: the `LossScorer` port, and its plain reference in transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from bot.generation.engine.lora import LoraVersion, read_lora
from bot.generation.models.store import quiet_transformers
from bot.generation.port import ChatMessage


@dataclass(frozen=True, slots=True)
class AnsweredPrompt:
    """A prompt for the chat template (the system's message first, the user's last) and the answer to it."""

    messages: tuple[ChatMessage, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class AnswerLoss:
    """The negative log-likelihood of an answer in nats, summed over its `tokens` tokens.

    The token that ends the turn is included; tokens beyond the model's window are neither summed nor counted.
    """

    nll: float
    tokens: int


class LossScorer(Protocol):
    """Port for computing losses of answers. Calls block; run them in a thread."""

    def answer_losses(self, rows: Sequence[AnsweredPrompt], version_folder: Path | None) -> list[AnswerLoss]:
        """Return one loss a row, in order. `version_folder` holds LoRA weights in PEFT's files; None is the base.

        Broken weights give losses that are NaN or infinite, and no error.
        """
        ...


class ReferenceLossScorer:
    """Reference `LossScorer`: float32, one row at a time, by transformers itself. Fast scorers are checked against it.

    Prompt and answer together are cut at `context_tokens` tokens.
    """

    def __init__(self, model_folder: Path, context_tokens: int = 2048) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        quiet_transformers()
        # `Any`: transformers has no types that mypy could follow.
        self._net: Any = AutoModelForCausalLM.from_pretrained(
            model_folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True
        ).eval()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(
            model_folder, trust_remote_code=False, local_files_only=True
        )
        self._context_tokens = context_tokens
        head = self._net.get_output_embeddings()
        self._linear = {
            name: module
            for name, module in self._net.named_modules()
            if isinstance(module, torch.nn.Linear) and module is not head
        }

    def answer_losses(self, rows: Sequence[AnsweredPrompt], version_folder: Path | None) -> list[AnswerLoss]:
        """Return one loss a row. Raises `VersionError` for a folder that can't be read."""
        with torch.inference_mode(), self._with_version(version_folder):
            return [self._loss(row) for row in rows]

    def logits(self, rows: Sequence[AnsweredPrompt], version_folder: Path | None) -> list[torch.Tensor]:
        """Return the logits that predict each token of the answer, `[answer tokens, vocabulary]` a row."""
        with torch.inference_mode(), self._with_version(version_folder):
            return [self._logits(*self.tokens(row)) for row in rows]

    def tokens(self, row: AnsweredPrompt) -> tuple[list[int], list[int]]:
        """Return `(prompt, answer)` as token ids; the answer's last token ends the turn, if it fits the window."""
        prompt = self._render(row.messages, add_generation_prompt=True)
        whole = self._render((*row.messages, ChatMessage("assistant", row.answer)), add_generation_prompt=False)
        if whole[: len(prompt)] != prompt:
            raise ValueError("this model's chat template writes a prompt differently once it is answered")
        answer = whole[len(prompt) :]
        end_id = self._tokenizer.eos_token_id
        if end_id in answer:
            # Text that a template writes behind the end of a turn belongs to the next turn.
            answer = answer[: len(answer) - answer[::-1].index(end_id)]
        return prompt, answer[: max(self._context_tokens - len(prompt), 0)]

    def _render(self, messages: Sequence[ChatMessage], *, add_generation_prompt: bool) -> list[int]:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        token_ids: list[int] = self._tokenizer.apply_chat_template(
            turns, add_generation_prompt=add_generation_prompt, sanitize_control_tokens=True, return_dict=False
        )
        return token_ids

    def _loss(self, row: AnsweredPrompt) -> AnswerLoss:
        prompt, answer = self.tokens(row)
        if not answer:
            return AnswerLoss(0.0, 0)
        logits = self._logits(prompt, answer)
        nll = torch.nn.functional.cross_entropy(logits.double(), torch.tensor(answer), reduction="sum")
        return AnswerLoss(nll.item(), len(answer))

    def _logits(self, prompt: list[int], answer: list[int]) -> torch.Tensor:
        scores: torch.Tensor = self._net(torch.tensor([prompt + answer]), logits_to_keep=len(answer) + 1).logits
        return scores[0, :-1].float()

    @contextmanager
    def _with_version(self, folder: Path | None) -> Iterator[None]:
        handles = [] if folder is None else self._hooks(folder)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hooks(self, folder: Path) -> list[torch.utils.hooks.RemovableHandle]:
        shapes = {name: (module.out_features, module.in_features) for name, module in self._linear.items()}
        version: LoraVersion = read_lora(folder.name, folder, shapes, torch.float32, torch.device("cpu"))

        def hook_for(down: torch.Tensor, up: torch.Tensor) -> Any:
            return lambda _module, inputs, output: output + (inputs[0] @ down.T) @ up.T

        return [
            self._linear[name].register_forward_hook(hook_for(down, up)) for name, (down, up) in version.pairs.items()
        ]
