"""Linear layers by the fastest CPU kernel: 4-bit, oneDNN blocks or plain.

From which number of rows each kernel pays is measured in benchmarks/LOG.md.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional

from bot.generation.models.precision import has_bf16_kernels

GROUP = 32
# With more rows, the kernel that unpacks 4 bits is slower than plain bf16.
MAX_ROWS_4_BITS = 5
# Relative error (root mean square) of 4 bits that counts as lossless: rounding to bf16 itself costs 0.17 %.
MAX_GRID_ERROR = 0.004


class Linear:
    """Compute `x @ weight.T + bias` for `x` of `[rows, in]`.

    With `compress`, bf16 weights on a CPU are kept in oneDNN's blocked layout. Weights that were dequantised from 4
    bits are kept in 4 bits as well, for inputs of few rows.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None, *, compress: bool = False) -> None:
        self._weight, self._bias = weight.contiguous(), bias
        self._in_blocks = False
        self._four_bits: tuple[torch.Tensor, torch.Tensor] | None = None
        if compress and weight.dtype == torch.bfloat16 and weight.device.type == "cpu":
            self._four_bits = _pack_4_bits(weight)
            if has_bf16_kernels():
                self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight, None)
                self._in_blocks = True

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self._four_bits is not None and x.shape[0] <= MAX_ROWS_4_BITS:
            packed, scales = self._four_bits
            y: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed, GROUP, scales)
            return y if self._bias is None else y + self._bias
        if not self._in_blocks:
            return functional.linear(x, self._weight, self._bias)
        whole: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return whole


def _pack_4_bits(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Quantise to 4 bits, in groups of 32 with a scale and a minimum. Return None if that would lose accuracy."""
    rows, columns = weight.shape
    if columns % GROUP or rows % 16:
        return None
    groups = weight.float().view(rows, columns // GROUP, GROUP)
    low, high = groups.amin(-1), groups.amax(-1)
    scale = ((high - low) / 15).clamp_min(1e-8)
    steps = ((groups - low[..., None]) / scale[..., None]).round_().clamp_(0, 15)
    scales = torch.stack([scale, low + 8 * scale], -1).to(torch.bfloat16)
    restored = (steps - 8) * scales[..., :1].float() + scales[..., 1:].float()
    if (restored - groups).norm() > MAX_GRID_ERROR * groups.norm():
        return None
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(steps.to(torch.int32).view(rows, columns), 1)
    return packed, scales.transpose(0, 1).contiguous()
