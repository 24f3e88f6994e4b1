"""Forward pass through transformers, for architectures without a fast one.

It is correct for any causal model, but computes the running replies one after the other.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

from bot.generation.engine.generation import Chunk, Generation
from bot.generation.engine.lora import LoraVersion


class GeneralDecoder:
    """`Decoder` over transformers' own caches. Not all architectures' caches can be cut or shared, so none is."""

    can_cut = False
    spare_tokens = 0
    bytes_per_token = 2**14  # an estimate, as caches differ

    def __init__(self, net: Any) -> None:
        self._net = net
        self._device = net.get_input_embeddings().weight.device
        self._caches: dict[int, Any] = {}
        self._version: LoraVersion | None = None
        for name, module in net.named_modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_hook(functools.partial(self._add_version, name))

    def forward(self, chunks: Sequence[Chunk], running: Sequence[Generation]) -> torch.Tensor:  # noqa: ARG002
        """Return the scores after the last token of each chunk, `[len(chunks), vocabulary]`."""
        return torch.stack([self._step(chunk) for chunk in chunks])

    def _step(self, chunk: Chunk) -> torch.Tensor:
        from transformers import DynamicCache

        row = chunk.generation.row
        assert row is not None
        if chunk.generation.num_computed == 0:
            self._caches[row] = DynamicCache(config=self._net.config)
        input_ids = torch.tensor([chunk.token_ids], device=self._device)
        self._version = chunk.generation.version
        output = self._net(input_ids=input_ids, past_key_values=self._caches[row], use_cache=True, logits_to_keep=1)
        scores: torch.Tensor = output.logits[0, -1]
        return scores

    def cache_size(self, rows: int, tokens: int) -> int:
        return rows * tokens

    def reserve(self, rows: int, tokens: int) -> None:
        """Do nothing: each cache grows by itself."""

    def _add_version(self, layer: str, _: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        pair = None if self._version is None else self._version.pairs.get(layer)
        if pair is None:
            return output
        down, up = pair
        return output + (inputs[0] @ down.T) @ up.T

    def copy_out(self, row: int, tokens: int) -> Any:
        raise NotImplementedError

    def copy_in(self, row: int, content: Any, tokens: int) -> None:
        raise NotImplementedError

    def move(self, source: int, target: int, tokens: int) -> None:  # noqa: ARG002
        self._caches.pop(target, None)
        if source in self._caches:  # otherwise none of its tokens is computed yet
            self._caches[target] = self._caches.pop(source)

    def clear(self, row: int) -> None:
        self._caches.pop(row, None)

    def release(self, in_use: int) -> None:
        for row in [row for row in self._caches if row >= in_use]:
            del self._caches[row]

    def reset(self) -> None:
        self._caches.clear()
