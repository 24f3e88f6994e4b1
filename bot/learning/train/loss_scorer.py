"""Losses of answers by the network that trains: many rows at a time, in what the hardware is fast with.

Knows: how a version's weights are put beside the base. Does not know: what the losses are for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from bot.generation.engine.lora import read_lora
from bot.learning.judge.answer_loss import AnsweredPrompt, AnswerLoss
from bot.learning.train.network import LoraNetwork
from bot.learning.train.objectives import answer_logps, logps_after
from bot.learning.train.token_sequences import Row, render


class NetworkLossScorer:
    """`LossScorer` over a model folder. `context_tokens` is the most that is read of prompt and answer together.

    `dtype` as for the network.
    """

    def __init__(
        self, model_folder: Path, context_tokens: int = 2048, device: str = "auto", *, dtype: torch.dtype | None = None
    ) -> None:
        self._network = LoraNetwork(model_folder, device, rank=1, alpha=1, seed=0, dtype=dtype)
        self._context_tokens = context_tokens

    def answer_losses(self, rows: Sequence[AnsweredPrompt], version_folder: Path | None) -> list[AnswerLoss]:
        """As the protocol says. Raises `VersionError` for a folder that can't be read."""
        if version_folder is None:
            self._network.put_on({})
        else:
            shapes, device = self._network.linear_shapes, self._network.device
            self._network.put_on(read_lora(version_folder.name, version_folder, shapes, torch.float32, device).pairs)
        rendered = [self._render(one) for one in rows]
        logps = self._logps(rendered, [one.messages for one in rows])
        return [AnswerLoss(-float(logp), len(row.learnt)) for row, logp in zip(rendered, logps, strict=True)]

    def _logps(self, rows: Sequence[Row], asked: Sequence[object]) -> torch.Tensor:
        """By row. Where all were asked the same, as with planted secrets, the question is read once."""
        prompt = rows[0].token_ids[: rows[0].learnt[0]] if rows and rows[0].learnt else ()
        if len(prompt) > 1 and len(rows) > 1 and all(one == asked[0] for one in asked):
            return logps_after(self._network, prompt, rows)
        return answer_logps(self._network, rows)

    def _render(self, row: AnsweredPrompt) -> Row:
        whole = render(row.messages, row.answer, self._network.tokenizer, self._network.end_of_turn)
        kept = whole.token_ids[: self._context_tokens]
        return Row(kept, tuple(place for place in whole.learnt if place < len(kept)))
