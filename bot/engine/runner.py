"""A model and its tokenizer in memory: turns to token ids, token ids to scores, and tokens to text.

Knows: torch and transformers, both imported when the first model is made. Does not know: threads that call it, queues,
or when a reply is over.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot.engine.model_store import quiet_transformers
from bot.engine.sampler import Sampler
from bot.errors import InvalidInput, ModelError
from bot.generator import ChatMessage, Sampling

if TYPE_CHECKING:
    import torch

# An abort waits for one chunk at most: a third of a second for a small model on two cores.
PREFILL_CHUNK = 512


class Runner:
    """A loaded model and its tokenizer. One thread makes and steps it; `encode` and `decode` work in any."""

    def __init__(self, path: Path, device: str, threads: int | None) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        quiet_transformers()
        if threads is not None:
            torch.set_num_threads(threads)
        self._device = _choose_device(device)
        # `Any`: transformers has no types that mypy could follow.
        self._net: Any = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=_choose_dtype(self._device),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
        self._net.to(self._device).eval()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
        self._encoding = threading.Lock()
        self.vocab_size = int(self._net.get_input_embeddings().num_embeddings)
        self.max_context_tokens = int(getattr(self._net.config, "max_position_embeddings", None) or sys.maxsize)
        self.end_ids = _end_ids(self._net, self._tokenizer)
        self.silent_ids = frozenset(
            token_id for token_id, token in self._tokenizer.added_tokens_decoder.items() if token.special
        )

    def encode(self, messages: Sequence[ChatMessage]) -> tuple[int, ...]:
        """Control tokens come from the template alone: the same strings inside a message become ordinary text."""
        turns = [{"role": message.role, "content": message.content} for message in messages]
        with self._encoding:  # a tokenizer's settings are not safe to use from two threads
            try:
                token_ids = self._tokenizer.apply_chat_template(
                    turns, add_generation_prompt=True, sanitize_control_tokens=True, return_dict=False
                )
            except Exception as error:  # a template is a program, and refuses turns in its own words
                raise InvalidInput(f"The model can't read this conversation: {error}", field="messages") from error
        return tuple(token_ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def tokens(self, prompt_ids: Sequence[int], sampling: Sampling) -> Iterator[int | None]:
        """Endless token ids. `None` marks a prefilled chunk, so that the caller can stop in between."""
        from transformers import DynamicCache

        cache = DynamicCache(config=self._net.config)
        sampler = Sampler(sampling, prompt_ids, self._num_scores(), self._device)
        for start in range(0, len(prompt_ids), PREFILL_CHUNK):
            logits = self._step(prompt_ids[start : start + PREFILL_CHUNK], cache)
            yield None
        while True:
            token_id = sampler.pick(logits)
            yield token_id
            logits = self._step([token_id], cache)

    def _step(self, token_ids: Sequence[int], cache: Any) -> torch.Tensor:
        """Scores for the token after these, which join the cache."""
        import torch

        with torch.inference_mode():
            input_ids = torch.tensor([token_ids], dtype=torch.long, device=self._device)
            output = self._net(input_ids=input_ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            scores: torch.Tensor = output.logits[0, -1]
            return scores

    def _num_scores(self) -> int:
        return int(self._net.get_output_embeddings().weight.shape[0])


def _choose_device(device: str) -> torch.device:
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ModelError(f'"{device}" is not a device. Use auto, cpu, cuda or cuda:1.') from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ModelError("The settings ask for CUDA, and torch finds no CUDA device. Use auto or cpu.")
    return chosen


def _choose_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the hardware multiplies it; elsewhere it would be slower than float32."""
    import torch

    has_bf16 = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if has_bf16 else torch.float32


def _end_ids(net: Any, tokenizer: Any) -> frozenset[int]:
    """Every token that ends a reply; models with several list them in the generation config."""
    found: set[int] = set()
    for value in (net.generation_config.eos_token_id, net.config.eos_token_id, tokenizer.eos_token_id):
        found.update(value if isinstance(value, list) else [] if value is None else [value])
    return frozenset(found)
