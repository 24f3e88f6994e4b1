"""The rule for bf16 or float32, against what the system says of its CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bot.generation.models.precision import fast_dtype

NARROW = "ONEDNN_MAX_CPU_ISA"


@pytest.mark.skipif(NARROW in os.environ, reason="this run is to look like another CPU")
def test_a_cpu_computes_in_bf16_only_if_it_multiplies_it() -> None:
    flags = set(Path("/proc/cpuinfo").read_text().split())
    multiplies = bool(flags & {"avx512_bf16", "amx_bf16"})
    assert fast_dtype(torch.device("cpu")) == (torch.bfloat16 if multiplies else torch.float32)


def test_a_gpu_computes_in_bf16() -> None:
    assert fast_dtype(torch.device("cuda", 1)) == torch.bfloat16


@pytest.mark.slow
def test_a_cpu_that_is_told_to_be_an_older_one_computes_in_float32() -> None:
    """Its kernels for bf16 are off then, and a model that was laid out for them would not load."""
    code = (
        "import torch\n"
        "from bot.generation.models.precision import fast_dtype, has_bf16_kernels\n"
        "print(fast_dtype(torch.device('cpu')), has_bf16_kernels())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {NARROW: "AVX2"}, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "torch.float32 False\n", done.stderr
