"""Sentence embedder: a small transformer with mean or CLS pooling.

Calls take milliseconds to seconds and block their thread, so never call it on the event loop.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Vectors = npt.NDArray[np.float32]

# So many tokens at once keep two cores busy, and stay in their caches.
TOKENS_AT_ONCE = 4096
MAX_TOKENS = 256


class Embedder:
    """Sentence-transformers model (BERT and similar) from a folder of safetensors.

    `name` distinguishes vectors of different models. `dtype` is the format of the computation, None for the fast one on
    this machine: vectors of both may be compared, as the same text differs by less than 0.001 in cosine. Thread-safe:
    calls from several threads take turns.
    """

    def __init__(self, folder: Path, *, name: str, dtype: torch.dtype | None = None) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        from bot.generation.models.precision import fast_dtype
        from bot.generation.models.store import check_embedder, quiet_transformers

        check_embedder(folder)
        quiet_transformers()
        self.name = name
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        dtype = dtype or fast_dtype(torch.device("cpu"))
        self._model: Any = AutoModel.from_pretrained(folder, local_files_only=True, dtype=dtype).eval()
        self._takes_first = _pooling(folder)
        limit = min(self._model.config.max_position_embeddings, self._tokenizer.model_max_length)
        self._max_tokens = int(min(limit, MAX_TOKENS))
        self._turn = threading.Lock()

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        return int(self._model.config.hidden_size)

    def embed(self, texts: Sequence[str], progress: Callable[[int], None] = lambda _: None) -> Vectors:
        """Return unit vectors, shape `(len(texts), dimensions)`. `progress` gets the number of texts done so far."""
        vectors = np.zeros((len(texts), self.dimensions), np.float32)
        with self._turn:
            tokens = (
                self._tokenizer(list(texts), truncation=True, max_length=self._max_tokens)["input_ids"] if texts else []
            )
            done = 0
            for batch in _batches(tokens):
                vectors[batch] = self._run([tokens[number] for number in batch])
                done += len(batch)
                progress(done)
        return vectors

    def _run(self, tokens: Sequence[Sequence[int]]) -> Vectors:
        import torch

        longest = max(map(len, tokens))
        ids = torch.full((len(tokens), longest), self._tokenizer.pad_token_id or 0)
        mask = torch.zeros((len(tokens), longest), dtype=torch.bool)
        for row, one in enumerate(tokens):
            ids[row, : len(one)] = torch.tensor(one)
            mask[row, : len(one)] = True
        with torch.inference_mode():
            states = self._model(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float()
            if self._takes_first:
                pooled = states[:, 0]
            else:
                weights = mask[..., None].float()
                pooled = (states * weights).sum(1) / weights.sum(1)
            found: Vectors = torch.nn.functional.normalize(pooled, dim=1).numpy()
        return found


def _batches(tokens: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return batches of text indices, grouped by length to keep padding small."""
    batches: list[list[int]] = []
    for number in sorted(range(len(tokens)), key=lambda one: (-len(tokens[one]), one)):
        if not batches or (len(batches[-1]) + 1) * len(tokens[batches[-1][0]]) > TOKENS_AT_ONCE:
            batches.append([])
        batches[-1].append(number)
    return batches


def _pooling(folder: Path) -> bool:
    """Return True if the model's pooling file chooses the first (CLS) token, False for the mean of all tokens."""
    try:
        about = json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    return bool(about.get("pooling_mode_cls_token"))
