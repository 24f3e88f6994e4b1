"""Choose bf16 or float32 by what the hardware multiplies fast.

Torch is imported inside the functions, so that importing this module stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def fast_dtype(device: torch.device) -> torch.dtype:
    """Return bf16 where the hardware multiplies it, else float32, which is several times as fast there."""
    import torch

    has_instructions = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    is_fast = device.type == "cuda" or (has_instructions and has_bf16_kernels())
    return torch.bfloat16 if is_fast else torch.float32


def has_bf16_kernels() -> bool:
    """Return True if oneDNN multiplies bf16 on this CPU. It obeys `ONEDNN_MAX_CPU_ISA`; torch's own flags do not."""
    import torch

    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
