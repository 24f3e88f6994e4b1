"""Model and tokenizer in memory: encode messages, run steps, decode tokens.

Torch and transformers are imported when the first `Runner` is made.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bot.errors import ModelError
from bot.generation.engine.chat_tokenizer import ChatTokenizer
from bot.generation.engine.generation import Chunk, Generation
from bot.generation.engine.process_memory import keep_what_is_loaded, return_free_memory, return_large_blocks
from bot.generation.engine.sampler import Choice
from bot.generation.models.precision import fast_dtype
from bot.generation.models.store import quiet_transformers
from bot.generation.port import ChatMessage, TokenLogprob

if TYPE_CHECKING:
    import torch

    from bot.generation.engine.grammar import Grammar
    from bot.generation.engine.lora import LoraVersion


log = logging.getLogger("myna.engine")

CPU_CACHE_BYTES = 512 * 2**20


class Decoder(Protocol):
    """A forward pass with a key-value cache of rows.

    can_cut: True if a row may continue from fewer tokens than it holds, or from another row's.
    spare_tokens: a step of this many tokens takes little longer than a step of one, so that drafts pay.
    """

    can_cut: bool
    bytes_per_token: int
    spare_tokens: int

    def cache_size(self, rows: int, tokens: int) -> int:
        """Return the tokens that the cache reserves for `rows` rows of `tokens` tokens."""

    def reserve(self, rows: int, tokens: int) -> None:
        """Make room for `rows` rows, the longest of `tokens` tokens. Called before a row is used."""

    def forward(self, chunks: Sequence[Chunk], running: Sequence[Generation]) -> torch.Tensor:
        """Return the scores after the last token of each chunk and after those of its draft, `[scores, vocabulary]`."""

    def copy_out(self, row: int, tokens: int) -> Any:
        """Return a copy of a row's first `tokens` tokens, for `copy_in` into any row of the same decoder."""

    def copy_in(self, row: int, content: Any, tokens: int) -> None:
        """Write the first `tokens` tokens of a copy into a row."""

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy a row's first `tokens` tokens to another row; `source` is not used afterwards."""

    def clear(self, row: int) -> None:
        """Overwrite a row whose content is broken (NaN)."""

    def release(self, in_use: int) -> None:
        """Note that only the first `in_use` rows are in use."""

    def reset(self) -> None:
        """Forget all rows and free their memory."""


class Runner:
    """A loaded model and its tokenizer. One thread makes and steps it; `encode` and `decode` work in any.

    cache_bytes: memory for keys and values; None for a default by device.
    exact: compute in float32 with the weights as they are; otherwise in bf16 where the hardware multiplies it, and with
        4-bit weights where that loses nothing.
    compiles: compile small operations with `torch.compile`, which needs a C++ compiler on a CPU and a C compiler for a
        GPU.
    """

    def __init__(
        self,
        path: Path,
        device: str,
        threads: int | None,
        *,
        context_tokens: int,
        cache_bytes: int | None = None,
        exact: bool = False,
        compiles: bool = False,
    ) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        from bot.generation.engine.grammar import Vocabulary

        return_large_blocks()
        quiet_transformers()
        if threads is not None:
            torch.set_num_threads(threads)
        self._device = _choose_device(device)
        # `Any`: transformers has no types that mypy could follow.
        net: Any = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=torch.float32 if exact else fast_dtype(self._device),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
        net.to(self._device).eval()
        self._chat = ChatTokenizer(path)
        self._tokenizer = self._chat.tokenizer
        self.takes_tools = self._chat.takes_tools
        self.vocab_size = int(net.get_input_embeddings().num_embeddings)
        self.max_context_tokens = int(getattr(net.config, "max_position_embeddings", None) or sys.maxsize)
        self.end_ids = end_ids_of(net, self._tokenizer)
        self.silent_ids = frozenset(
            token_id for token_id, token in self._tokenizer.added_tokens_decoder.items() if token.special
        )
        head = net.get_output_embeddings()
        self.vocabulary = Vocabulary(self._tokenizer, int(head.weight.shape[0]), sorted(self.end_ids))
        self._dtype = head.weight.dtype
        self._linear_shapes = {
            name: (module.out_features, module.in_features)
            for name, module in net.named_modules()
            if isinstance(module, torch.nn.Linear) and module is not head
        }
        self.decoder = _make_decoder(net, min(context_tokens, self.max_context_tokens), exact=exact, compiles=compiles)
        del net
        keep_what_is_loaded()
        return_free_memory()
        self.cache_bytes = cache_bytes or _default_cache_bytes(self._device)

    def encode(self, messages: Sequence[ChatMessage], tools: Sequence[str] = ()) -> tuple[int, ...]:
        return self._chat.encode(messages, tools)

    def encode_text(self, text: str) -> tuple[int, ...]:
        return self._chat.encode_text(text)

    def decode(self, token_ids: Sequence[int]) -> str:
        return self._chat.decode(token_ids)

    def step(self, chunks: Sequence[Chunk], running: Sequence[Generation]) -> torch.Tensor:
        """Return the scores after the last token of each chunk and after those of its draft, `[scores, vocabulary]`."""
        return self.decoder.forward(chunks, running)

    def inference_mode(self) -> contextlib.AbstractContextManager[None]:
        """Return the context in which all code must run that touches the decoder's rows."""
        import torch

        return torch.inference_mode()

    def compile_grammar(self, json_schema: str) -> Grammar:
        """Compile a JSON schema, in up to a second. Raises `InvalidInput` if it can't be enforced."""
        return self.vocabulary.compile(json_schema)

    def read_version(self, name: str, folder: Path, sha256: str | None) -> LoraVersion:
        """Read LoRA weights. Raises `VersionError` if they are damaged or were made for another model."""
        from bot.generation.engine.lora import read_lora

        return read_lora(name, folder, self._linear_shapes, self._dtype, self._device, sha256)

    def describe(self, choice: Choice) -> TokenLogprob:
        """Return the chosen token and the likeliest ones as text. `choice` must have been made with logprobs."""
        assert choice.logprob is not None
        top = tuple(self._describe(token_id, logprob) for token_id, logprob in choice.top)
        return self._describe(choice.token_id, choice.logprob, top)

    def _describe(self, token_id: int, logprob: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        if token_id in self.silent_ids:
            name = str(self._tokenizer.convert_ids_to_tokens(token_id))
            return TokenLogprob(name, name.encode(), logprob, top)
        content = self.vocabulary.token_bytes(token_id)
        return TokenLogprob(content.decode(errors="replace"), content, logprob, top)


def _make_decoder(net: Any, max_tokens: int, *, exact: bool, compiles: bool) -> Decoder:
    import torch

    from bot.generation.engine import general, llama

    if not llama.is_supported(net.config):
        if compiles:
            log.warning("MYNA_COMPILE does nothing for models of the kind %s", net.config.model_type)
        return general.GeneralDecoder(net)
    with torch.inference_mode():
        return llama.LlamaDecoder(net, max_tokens, compress=not exact, compiles=compiles)


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


def _default_cache_bytes(device: torch.device) -> int:
    """Return half of the GPU memory that the weights leave free, at least 512 MiB; on a CPU 512 MiB."""
    import torch

    if device.type != "cuda":
        return CPU_CACHE_BYTES
    gc.collect()
    torch.cuda.empty_cache()
    return max(torch.cuda.mem_get_info(device)[0] // 2, CPU_CACHE_BYTES)


def end_ids_of(net: Any, tokenizer: Any) -> frozenset[int]:
    """Return every token that ends a reply. Models with several list them in the generation config."""
    found: set[int] = set()
    for value in (net.generation_config.eos_token_id, net.config.eos_token_id, tokenizer.eos_token_id):
        found.update(value if isinstance(value, list) else [] if value is None else [value])
    return frozenset(found)
