"""LoRA weights as files in PEFT's form: safetensors and a JSON beside it, never a pickle.

Knows: the names and the configuration that PEFT 0.18 and later, vLLM and `engine/lora.py` read. Does not know: how
they were trained.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from bot.generation.engine.lora import CONFIG_FILE, PREFIX, WEIGHTS_FILE


def save_adapter(folder: Path, parameters: Mapping[str, torch.Tensor], *, rank: int, alpha: float, base: str) -> str:
    """Write a version's files into a folder that exists, and return the SHA-256 of the weights' file.

    `parameters` are by `LoraNetwork.parameters`' names: `model.layers.0.self_attn.q_proj.lora_A`.
    """
    tensors = {f"{PREFIX}{name}.weight": one.detach().cpu().contiguous() for name, one in parameters.items()}
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    modules = sorted({name.rsplit(".", 2)[-2] for name in parameters})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
        "target_modules": modules,
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
