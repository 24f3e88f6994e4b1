"""Key-value cache: one row per running generation, in all layers.

A layer's rows are one contiguous block `[rows, heads, slots, size]` with few slots to spare, because only then the
product over it is quick: a slice of a larger block would be copied first.
"""

from __future__ import annotations

import torch

from bot.generation.engine.process_memory import return_free_memory

SLOT_STEP = 64


class KeyValueRows:
    """Key and value blocks of all layers. Rows are allocated on demand, and keep their content when they grow."""

    def __init__(self, layers: int, heads: int, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self._shape = (heads, size)
        self._dtype, self._device = dtype, device
        self._layers = layers
        self.reset()

    def reset(self) -> None:
        """Free all memory."""
        self.slots = 0
        self.keys: list[torch.Tensor] = [self._empty(0, 0) for _ in range(self._layers)]
        self.values: list[torch.Tensor] = [self._empty(0, 0) for _ in range(self._layers)]

    @property
    def count(self) -> int:
        return self.keys[0].shape[0]

    def round_up(self, tokens: int) -> int:
        """Return the slots of a row of `tokens` tokens: up to 64 or a quarter more, so that long rows grow rarely."""
        step = max(SLOT_STEP, 1 << max((tokens - 1).bit_length() - 3, 0))
        return -(-tokens // step) * step

    def reserve(self, rows: int, tokens: int) -> None:
        """Resize to `rows` rows of at least `tokens` slots, unless there are enough and not too many.

        Up to four times the rows and twice the slots stay.
        """
        count, slots = self.count, self.round_up(tokens)
        too_small = rows > count or tokens > self.slots
        too_large = count > 4 * rows or self.slots > 2 * slots
        if not too_small and not too_large:
            return
        common = min(rows, count)
        kept, self.slots = min(self.slots, slots), slots
        for blocks in (self.keys, self.values):
            for layer, old in enumerate(blocks):
                blocks[layer] = self._empty(rows, slots)
                blocks[layer][:common, :, :kept] = old[:common, :, :kept]
        return_free_memory()  # otherwise small blocks stay with the allocator, up to 100 MB of them

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy the first `tokens` tokens of a row to another."""
        for block in (*self.keys, *self.values):
            block[target, :, :tokens] = block[source, :, :tokens]

    def clear(self, row: int) -> None:
        """Overwrite a row with zeros. All slots take part in products, where a NaN would spread."""
        for block in (*self.keys, *self.values):
            block[row].zero_()

    def copy_out(self, row: int, tokens: int) -> torch.Tensor:
        """Return a copy of the first `tokens` tokens of a row, `[2 * layers, heads, tokens, size]`."""
        return torch.stack([block[row, :, :tokens] for block in (*self.keys, *self.values)])

    def copy_in(self, row: int, content: torch.Tensor, tokens: int) -> None:
        """Write the first `tokens` tokens of a copy made by `copy_out` into a row."""
        for block, part in zip((*self.keys, *self.values), content, strict=True):
            block[row, :, :tokens] = part[:, :tokens]

    def _empty(self, rows: int, slots: int) -> torch.Tensor:
        # Zeros, as slots that no token has written yet take part in products, with weight 0: NaN times 0 is NaN.
        heads, size = self._shape
        return torch.zeros(rows, heads, slots, size, dtype=self._dtype, device=self._device)
