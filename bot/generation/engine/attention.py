"""Causal attention of one step's tokens over the key-value cache (Llama family).

The torch operations are those that are quickest for few tokens on a CPU (benchmarks/LOG.md).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as functional

from bot.generation.engine.drafts import MAX_DRAFT
from bot.generation.engine.generation import Chunk
from bot.generation.engine.key_value_rows import KeyValueRows

# Attention over this many rows or fewer is quickest as one fused call; over more, as two matrix products.
MAX_ROWS_FUSED = 2


class StepAttention:
    """Attention layout of a step, the same for all layers.

    Leading chunks of one token and its draft (decode) are computed together, as a grid of rows; each longer chunk
    (prefill) is computed by itself, after them.

    heads: numbers of query heads and of key-value heads.
    round_up: returns the number of rows to pad to, for speed.
    """

    def __init__(
        self, chunks: Sequence[Chunk], cache: KeyValueRows, heads: tuple[int, int], round_up: Callable[[int], int]
    ) -> None:
        short = list(itertools.takewhile(lambda chunk: chunk.count == 1 and not chunk.generation.alone, chunks))
        if len(short) == 1:
            short = []  # a single chunk is quicker as a segment, which reads its own tokens instead of whole rows
        self._cache = cache
        self._kv_heads, self._group = heads[1], heads[0] // heads[1]
        self._grid = _Grid(short, cache, heads, round_up) if short else None
        self._begin = sum(chunk.length for chunk in short)
        self._segments = chunks[len(short) :]
        self._masks = [self._causal_mask(chunk) for chunk in self._segments]

    def store(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Write the keys and values of the step's tokens, `[tokens, heads, size]`, into their rows."""
        key_rows, value_rows, begin = self._cache.keys[layer], self._cache.values[layer], self._begin
        if self._grid is not None:
            key_rows[self._grid.row_ids, :, self._grid.positions] = keys[:begin]
            value_rows[self._grid.row_ids, :, self._grid.positions] = values[:begin]
        for chunk in self._segments:
            row, end = chunk.generation.row, begin + chunk.length
            key_rows[row, :, chunk.start : chunk.end] = keys[begin:end].transpose(0, 1)
            value_rows[row, :, chunk.start : chunk.end] = values[begin:end].transpose(0, 1)
            begin = end

    def attend(self, layer: int, queries: torch.Tensor) -> torch.Tensor:
        """Attend with queries `[tokens, heads, size]`; return `[tokens, heads * size]`, zeros for padding tokens."""
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        parts, begin = [], self._begin
        if self._grid is not None:
            parts.append(self._grid.attend(keys, values, queries[:begin]))
        for chunk, mask in zip(self._segments, self._masks, strict=True):
            parts.append(self._attend_segment(keys, values, chunk, queries[begin : begin + chunk.length], mask))
            begin += chunk.length
        if begin < len(queries):
            parts.append(queries.new_zeros(len(queries) - begin, parts[0].shape[1]))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _attend_segment(
        self, keys: torch.Tensor, values: torch.Tensor, chunk: Chunk, queries: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Attend for one chunk. Query heads that share keys (GQA) are stacked, so that keys need no repetition."""
        row, count, size = chunk.generation.row, chunk.length, queries.shape[-1]
        own_keys, own_values = keys[row, :, : chunk.end], values[row, :, : chunk.end]
        folded = queries.reshape(count, self._kv_heads, self._group, size).permute(1, 2, 0, 3).flatten(1, 2)
        found = functional.scaled_dot_product_attention(folded[None], own_keys[None], own_values[None], mask)[0]
        return found.view(self._kv_heads, self._group, count, size).permute(2, 0, 1, 3).reshape(count, -1)

    def _causal_mask(self, chunk: Chunk) -> torch.Tensor | None:
        if chunk.length == 1:
            return None
        keys = self._cache.keys[0]
        later = torch.ones(chunk.length, chunk.end, dtype=torch.bool, device=keys.device).triu_(chunk.start + 1)
        return _as_scores(later, keys).repeat(self._group, 1)


class _Grid:
    """Tokens of decoding generations as cells `[rows, width]`, some of which may be empty."""

    def __init__(
        self, chunks: Sequence[Chunk], cache: KeyValueRows, heads: tuple[int, int], round_up: Callable[[int], int]
    ) -> None:
        device = cache.keys[0].device
        self._kv_heads, self._group = heads[1], heads[0] // heads[1]
        # Only two widths are used, as the first product of each shape is slow.
        self._width = 1 + MAX_DRAFT if any(chunk.draft for chunk in chunks) else 1
        rows = [chunk.generation.row or 0 for chunk in chunks]
        self._num_rows = min(round_up(max(rows) + 1), cache.count)
        cells = [  # row, column, position in the generation
            (row, column, chunk.start + column)
            for row, chunk in zip(rows, chunks, strict=True)
            for column in range(chunk.length)
        ]
        self.row_ids, columns, self.positions = torch.tensor(cells, device=device).T
        self._cells = self.row_ids * self._width + columns
        num_cells = self._num_rows * self._width
        self._is_full = [row * self._width + column for row, column, _ in cells] == list(range(num_cells))
        last_seen = torch.zeros(num_cells, dtype=torch.long, device=device)
        last_seen[self._cells] = self.positions
        hidden = torch.arange(cache.slots, device=device)[None] > last_seen[:, None]
        self._mask = self._spread(_as_scores(hidden, cache.keys[0]))

    def _spread(self, mask: torch.Tensor) -> torch.Tensor:
        """Expand a mask with a line for each cell, `[rows * width, slots]`, to a line for each query."""
        mask = mask.view(self._num_rows, 1, self._width, -1)
        if self._width > 1:
            mask = mask.repeat_interleave(self._group, 2)
        if self._num_rows > MAX_ROWS_FUSED:
            mask = mask.expand(-1, self._kv_heads, -1, -1).flatten(0, 1)
        return mask

    def attend(self, keys: torch.Tensor, values: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        rows, shape, size = self._num_rows, (self._width, self._kv_heads, self._group), queries.shape[-1]
        if not self._is_full:
            cells = queries.new_zeros(rows * self._width, *queries.shape[1:])
            cells[self._cells] = queries
            queries = cells
        folded = queries.reshape(rows, *shape, size).transpose(1, 2)
        keys, values = keys[:rows], values[:rows]
        if rows <= MAX_ROWS_FUSED:
            folded = folded.flatten(2, 3)
            found = functional.scaled_dot_product_attention(folded, keys, values, self._mask)
        else:
            folded = folded.reshape(rows * self._kv_heads, -1, size)
            scores = torch.baddbmm(self._mask, folded, keys.flatten(0, 1).transpose(1, 2), alpha=size**-0.5)
            found = torch.bmm(scores.softmax(-1), values.flatten(0, 1))
        found = found.view(rows, self._kv_heads, self._width, self._group, size).transpose(1, 2)
        found = found.reshape(rows * self._width, -1)
        return found if self._is_full else found[self._cells]


def _as_scores(hidden: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return the mask to add to scores: minus infinity where hidden. It is quicker than a boolean mask."""
    return torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(hidden, float("-inf"))
