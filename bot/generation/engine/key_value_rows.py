"""Keys and values of the running sequences: one row each, for all layers.

Knows: how rows are laid out, grown, moved and copied. Does not know: attention, or whose row is whose. A layer's rows
are one contiguous block `[rows, heads, slots, size]` with few slots to spare, because the product over it is only quick
then: a slice of a larger block would be copied first.
"""

from __future__ import annotations

import torch

from bot.generation.engine.process_memory import return_free_memory

SLOT_STEP = 64


class KeyValueRows:
    """Rows are made as they are needed; their content survives growing."""

    def __init__(self, layers: int, heads: int, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self._shape = (heads, size)
        self._dtype, self._device = dtype, device
        self._layers = layers
        self.reset()

    def reset(self) -> None:
        """Give back all memory."""
        self.slots = 0
        self.keys: list[torch.Tensor] = [self._empty(0, 0) for _ in range(self._layers)]
        self.values: list[torch.Tensor] = [self._empty(0, 0) for _ in range(self._layers)]

    @property
    def count(self) -> int:
        return self.keys[0].shape[0]

    def round_up(self, tokens: int) -> int:
        """The slots of a row for so many tokens: up to 64 more, and a quarter, as a long row should not grow often."""
        step = max(SLOT_STEP, 1 << max((tokens - 1).bit_length() - 3, 0))
        return -(-tokens // step) * step

    def reserve(self, rows: int, tokens: int) -> None:
        """Have at least `rows` rows of at least `tokens` slots; up to four times the rows and twice the slots stay."""
        have, slots = self.count, self.round_up(tokens)
        too_small = rows > have or tokens > self.slots
        too_large = have > 4 * rows or self.slots > 2 * slots
        if not too_small and not too_large:
            return
        common = min(rows, have)
        kept, self.slots = min(self.slots, slots), slots
        for blocks in (self.keys, self.values):
            for layer, old in enumerate(blocks):
                blocks[layer] = self._empty(rows, slots)
                blocks[layer][:common, :, :kept] = old[:common, :, :kept]
        return_free_memory()  # small blocks stay with the allocator, which adds up to 100 MB

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy the first `tokens` tokens of a row to another."""
        for block in (*self.keys, *self.values):
            block[target, :, :tokens] = block[source, :, :tokens]

    def clear(self, row: int) -> None:
        """Write over what is there. All slots take part in products, where one that is no number would spread."""
        for block in (*self.keys, *self.values):
            block[row].zero_()

    def copy_out(self, row: int, tokens: int) -> torch.Tensor:
        """The first `tokens` tokens of a row: `[2 * layers, heads, tokens, size]`."""
        return torch.stack([block[row, :, :tokens] for block in (*self.keys, *self.values)])

    def copy_in(self, row: int, content: torch.Tensor, tokens: int) -> None:
        """Put the first `tokens` tokens of what `copy_out` gave into a row."""
        for block, part in zip((*self.keys, *self.values), content, strict=True):
            block[row, :, :tokens] = part[:, :tokens]

    def _empty(self, rows: int, slots: int) -> torch.Tensor:
        # Zeros, as what no token has written yet takes part in products, with weight 0: it must be a number.
        heads, size = self._shape
        return torch.zeros(rows, heads, slots, size, dtype=self._dtype, device=self._device)
