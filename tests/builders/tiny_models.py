"""Tiny models of several architectures with random weights, and versions of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers

# With all of the tokenizer's 49,152 tokens, a tiny model would spend nearly all of its time on their scores.
VOCABULARY = 8192
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
CONFIGS: dict[str, Any] = {
    "llama": lambda: transformers.LlamaConfig(**SHAPE, tie_word_embeddings=False),
    "llama3-rope": lambda: transformers.LlamaConfig(
        **SHAPE,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10_000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),
    "qwen2": lambda: transformers.Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "qwen3": lambda: transformers.Qwen3Config(**SHAPE, head_dim=32),
    "mistral": lambda: transformers.MistralConfig(**SHAPE, sliding_window=None),
    "mistral-sliding": lambda: transformers.MistralConfig(**SHAPE, sliding_window=24),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=512,
        n_embd=64,
        n_layer=3,
        n_head=4,
        eos_token_id=2,
        bos_token_id=1,
        initializer_range=0.3,
    ),
    "gemma3": lambda: transformers.Gemma3TextConfig(**SHAPE, head_dim=32, sliding_window=24, tie_word_embeddings=False),
}
FAST = {"llama", "llama3-rope", "qwen2", "qwen3", "mistral"}


def save_tiny(kind: str, folder: Path, tokenizer_from: Path) -> Path:
    """Save a model folder as a user would have it."""
    torch.manual_seed(7)
    net = transformers.AutoModelForCausalLM.from_config(CONFIGS[kind]())
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    net.save_pretrained(folder)
    save_tokenizer(tokenizer_from, folder)
    return folder


def save_tokenizer(source: Path, folder: Path) -> None:
    """Save a BPE tokenizer without its rare tokens: each merge makes the next token, so that the first are kept."""
    for name in ("tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"):
        if (source / name).exists():
            shutil.copy(source / name, folder / name)
    content = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    model = content["model"]
    merges = model["merges"][: VOCABULARY - len(model["vocab"]) + len(model["merges"])]
    made = {first + second for first, second in model["merges"][len(merges) :]}
    vocabulary = {token: number for token, number in model["vocab"].items() if token not in made}
    assert max(vocabulary.values()) == VOCABULARY - 1
    content["model"] |= {"merges": merges, "vocab": vocabulary}
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")


ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


# Names and settings of versions; some train all layers and some only few.
KINDS: dict[str, dict[str, Any]] = {
    "all": {"r": 4, "lora_alpha": 16, "target_modules": ALL_LINEAR},
    "attention": {"r": 8, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    "stable": {"r": 2, "lora_alpha": 8, "target_modules": ["k_proj", "up_proj", "down_proj"], "use_rslora": True},
}


def save_version(base: Path, folder: Path, seed: int = 0, **config: Any) -> Any:
    """Let PEFT write a version with random weights, and give the model with these weights merged in."""
    import peft  # takes seconds, which most tests with a tiny model need not wait for

    net = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(seed)
    trained = peft.get_peft_model(net, peft.LoraConfig(init_lora_weights=False, task_type="CAUSAL_LM", **config))
    for name, parameter in trained.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.15)
    trained.save_pretrained(folder)
    return trained.merge_and_unload().eval()
