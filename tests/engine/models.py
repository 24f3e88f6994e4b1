"""Tiny random models of several architectures, and recording requests."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from bot.errors import MynaError
from bot.generation.engine.batch import Batch
from bot.generation.engine.drafts import PromptLookup
from bot.generation.engine.generation import Generation
from bot.generation.engine.grammar import Grammar
from bot.generation.engine.lora import LoraVersion
from bot.generation.port import Finish, Piece, Sampling

SHAPE = {
    "vocab_size": 49152,
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
        vocab_size=49152,
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
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")


def save_tiny(kind: str, folder: Path, tokenizer_from: Path) -> Path:
    """Write a model folder as a user would have it."""
    torch.manual_seed(7)
    net = transformers.AutoModelForCausalLM.from_config(CONFIGS[kind]())
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    net.save_pretrained(folder)
    for name in TOKENIZER_FILES:
        if (tokenizer_from / name).exists():
            shutil.copy(tokenizer_from / name, folder / name)
    return folder


class Wanted:
    """A `GenerationRequest` that records its events."""

    def __init__(
        self,
        prompt_ids: Sequence[int],
        max_tokens: int = 20,
        *,
        sampling: Sampling | None = None,
        version: LoraVersion | None = None,
        priority: int = 0,
        grammar: Grammar | None = None,
    ) -> None:
        self.prompt_ids = tuple(prompt_ids)
        self.max_tokens = max_tokens
        self.sampling = sampling or Sampling()
        self.version = version
        self.priority = priority
        self.grammar = grammar
        self.aborted = False
        self.events: list[Piece | Finish | MynaError] = []
        self.num_ends = 0
        self.generation: Generation | None = None

    def deliver(self, event: Piece | Finish | MynaError) -> None:
        self.events.append(event)

    def end(self) -> None:
        self.num_ends += 1

    @property
    def new_ids(self) -> list[int]:
        """Generated token ids."""
        assert self.generation is not None
        return self.generation.token_ids[self.generation.num_prompt :]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Piece))


def add(batch: Batch, *wanted: Wanted) -> None:
    for request in wanted:
        batch.add(request)
        started = (generation for generation, reply in batch._replies.items() if reply.request is request)
        request.generation = next(started, None)


def finish(batch: Batch, *wanted: Wanted) -> list[list[int]]:
    """Add requests, run until nothing is left, and return their new token ids."""
    add(batch, *wanted)
    while len(batch):
        batch.step()
    assert all(request.num_ends == 1 for request in wanted)
    return [request.new_ids for request in wanted]


def scripted_drafts(wanted: Sequence[Wanted], expected: Sequence[list[int]]) -> Any:
    """Return a replacement of `PromptLookup.propose` that knows the expected replies, and is wrong now and then."""
    source = random.Random(17)
    replies = {tuple(request.prompt_ids): reply for request, reply in zip(wanted, expected, strict=True)}

    def propose(lookup: PromptLookup, most: int) -> tuple[int, ...]:
        token_ids = tuple(lookup._token_ids)
        prompt = next(prompt for prompt in replies if token_ids[: len(prompt)] == prompt)
        draft = replies[prompt][len(token_ids) - len(prompt) :][: source.randint(0, most)]
        if draft and source.random() < 0.4:
            draft[source.randrange(len(draft))] = 99
        return tuple(draft)

    return propose
