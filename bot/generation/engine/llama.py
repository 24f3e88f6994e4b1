"""Batched forward pass of the Llama family: Llama, SmolLM, Qwen 2 and 3, Mistral.

The torch operations are those that are quickest for few tokens on a CPU (benchmarks/LOG.md). Other architectures go
through `general.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as functional

from bot.errors import ModelError
from bot.generation.engine.attention import StepAttention
from bot.generation.engine.generation import Chunk, Generation
from bot.generation.engine.key_value_rows import KeyValueRows
from bot.generation.engine.linear import MAX_ROWS_4_BITS, Linear
from bot.generation.engine.lora import LoraStack, LoraVersion, StepVersions

FAMILY = {"llama", "qwen2", "qwen3", "mistral"}
MAX_SINGLE_STACKS = 4
# The 4-bit kernel takes four rows at a time. The number for GPUs is an estimate: they compute while they read weights.
SPARE_TOKENS_CPU = 4
SPARE_TOKENS_GPU = 64


def is_supported(config: Any) -> bool:
    """Return True if this pass computes the same as transformers for the model."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    sliding = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return (
        config.model_type in FAMILY
        and config.hidden_act == "silu"
        and not sliding
        and not getattr(config, "mlp_bias", False)
        and rope.get("rope_type", "default") in ("default", "linear", "llama3", "yarn")
    )


class LlamaDecoder:
    """`Decoder` that takes over the weights of a model loaded by transformers; that model is empty afterwards.

    compress: keep weights in 4 bits where that loses nothing.
    compiles: compile the small operations. Raises `ModelError` where that fails.
    """

    can_cut = True

    def __init__(self, net: Any, max_tokens: int, *, compress: bool, compiles: bool = False) -> None:
        config = net.config
        self._heads = config.num_attention_heads
        self._kv_heads = config.num_key_value_heads
        self._size = getattr(config, "head_dim", None) or config.hidden_size // self._heads
        self._eps = config.rms_norm_eps
        weight = net.model.embed_tokens.weight
        self._device, self._dtype = weight.device, weight.dtype
        # Copied, so that nothing holds the memory-mapped weights file: all other weights are copied by packing.
        self._embedding = weight.detach().clone()
        positions = torch.arange(max_tokens, device=self._device)[None]
        cos, sin = net.model.rotary_emb(weight[:1], positions)
        self._cos, sin = cos[0, :, None].contiguous(), sin[0, :, None]
        half = self._size // 2
        self._sin = torch.cat((-sin[..., :half], sin[..., half:]), -1).contiguous()
        self._joined = [
            [(f"model.layers.{number}.{name}", module.weight.shape[0]) for name, module in parts]
            for number, layer in enumerate(net.model.layers)
            for parts in _joined_parts(layer)
        ]
        self._glue = _Glue(compiles)
        self._layers = [_take_layer(layer, compress, self._glue) for layer in net.model.layers]
        self._stack: LoraStack | None = None
        self._single_stacks: dict[LoraVersion, LoraStack] = {}
        self._norm = _Norm(net.model.norm.weight, self._eps, self._glue)
        tied = net.lm_head.weight is weight
        self._head = Linear(self._embedding if tied else net.lm_head.weight.detach().clone(), compress=compress)
        self.bytes_per_token = 2 * len(self._layers) * self._kv_heads * self._size * self._dtype.itemsize
        self.rows = KeyValueRows(len(self._layers), self._kv_heads, self._size, self._dtype, self._device)
        self.spare_tokens = SPARE_TOKENS_CPU if self._device.type == "cpu" else SPARE_TOKENS_GPU
        self._warm_up()
        if compiles:
            self._compile()

    def forward(
        self, chunks: Sequence[Chunk], running: Sequence[Generation], *, every_token: bool = False
    ) -> torch.Tensor:
        """Return the scores after the last token of each chunk and after those of its draft, `[scores, vocabulary]`.

        With `every_token`, return the scores after every token. Leading chunks of one token are computed together,
        which is quickest. `running` are all generations that have rows, in the order of the rows.
        """
        num_tokens = sum(chunk.length for chunk in chunks)
        num_padded = self._round_up(num_tokens)
        padding = [0] * (num_padded - num_tokens)
        ids = [token_id for chunk in chunks for token_id in chunk.token_ids]
        token_ids = torch.tensor(ids + padding, device=self._device)
        positions = torch.tensor([i for chunk in chunks for i in range(chunk.start, chunk.end)] + padding)
        positions = positions.to(self._device)
        attention = StepAttention(chunks, self.rows, (self._heads, self._kv_heads), self._round_up)
        versions = self._step_versions(chunks, running, num_padded)

        def project(number: int, linear: Linear, x: torch.Tensor) -> torch.Tensor:
            y = linear(x)
            return y if versions is None else versions.add(number, y, x)

        x = self._embedding[token_ids]
        cos, sin = self._cos[positions], self._sin[positions]
        for index, layer in enumerate(self._layers):
            first = 4 * index  # number of the layer's first joined linear
            qkv = project(first, layer.qkv, layer.before_attention(x))
            qkv = qkv.view(len(x), self._heads + 2 * self._kv_heads, self._size)
            rotated = self._glue.rotate(layer.norm_heads(qkv, self._heads, self._kv_heads), cos, sin)
            queries, keys, values = rotated[:, : self._heads], rotated[:, self._heads :], qkv[:, -self._kv_heads :]
            attention.store(index, keys, values)
            x = x + project(first + 1, layer.out, attention.attend(index, queries))
            gated = self._glue.gate(project(first + 2, layer.gate_up, layer.before_mlp(x)))
            x = x + project(first + 3, layer.down, gated)
        if every_token:
            return self._head(self._norm(x))[:num_tokens]
        scored = _scored_tokens(chunks)
        padded = scored + [0] * (self._round_up(len(scored)) - len(scored))
        return self._head(self._norm(x[torch.tensor(padded, device=self._device)]))[: len(scored)]

    def _warm_up(self) -> None:
        """Run the usual numbers of tokens once, so that the first replies are as quick as later ones."""
        if self._device.type != "cpu":
            return
        for count in {self._round_up(number) for number in range(1, 65)}:
            x = self._embedding[:count]
            layer = self._layers[0]
            layer.out(layer.qkv(x)[:, : self._heads * self._size].contiguous())
            layer.down(layer.gate_up(x).chunk(2, -1)[0].contiguous())
            self._head(x[:32])

    def _compile(self) -> None:
        """Compile for one token and for several now, as each takes seconds."""
        try:
            for count in (1, 3):
                generation = Generation([0] * count, row=0)
                self.reserve(1, count)
                self.forward([Chunk(generation, count)], [generation])
        except Exception as error:
            reason = str(error).partition("\n")[0]
            raise ModelError(
                f"The model could not be compiled: {reason}. Set MYNA_COMPILE=off, or install what is missing; a CPU "
                "needs a C++ compiler, such as g++, and a GPU a C compiler."
            ) from error
        self.reset()

    def cache_size(self, rows: int, tokens: int) -> int:
        return self._round_up(rows) * self.rows.round_up(tokens)

    def reserve(self, rows: int, tokens: int) -> None:
        self.rows.reserve(self._round_up(rows), tokens)

    def copy_out(self, row: int, tokens: int) -> torch.Tensor:
        return self.rows.copy_out(row, tokens)

    def copy_in(self, row: int, content: torch.Tensor, tokens: int) -> None:
        self.rows.copy_in(row, content, tokens)

    def move(self, source: int, target: int, tokens: int) -> None:
        self.rows.move(source, target, tokens)

    def clear(self, row: int) -> None:
        self.rows.clear(row)

    def release(self, in_use: int) -> None:
        """Do nothing: the next `reserve` of far fewer rows frees memory."""

    def reset(self) -> None:
        self.rows.reset()
        self._stack = None
        self._single_stacks.clear()

    def _round_up(self, count: int) -> int:
        """Return the number of tokens or rows to pad `count` to.

        A CPU's kernels are generated for each new number, which takes 10 ms, so that few numbers are used.
        """
        if self._device.type != "cpu" or count <= MAX_ROWS_4_BITS:
            return count
        step = 4 if count <= 16 else 8 if count <= 64 else 32
        return -(-count // step) * step

    def _step_versions(
        self, chunks: Sequence[Chunk], running: Sequence[Generation], num_tokens: int
    ) -> StepVersions | None:
        by_chunk: list[LoraVersion | None] = [chunk.generation.version for chunk in chunks]
        if not any(by_chunk):
            return None
        if chunks[0].generation.alone:  # a stack of its own: the same operations, whatever else runs
            stack = self._single_stack(next(version for version in by_chunk if version is not None))
        else:
            stack = self._common_stack({other.version for other in running if other.version and not other.alone})
        by_token = [version for version, chunk in zip(by_chunk, chunks, strict=True) for _ in range(chunk.length)]
        by_token += by_token[-1:] * (num_tokens - len(by_token))
        return StepVersions(stack, by_token, self._device)

    def _common_stack(self, wanted: set[LoraVersion]) -> LoraStack:
        if self._stack is None or not self._stack.serves(wanted):
            self._stack = LoraStack(sorted(wanted, key=lambda version: version.name), self._joined)
        return self._stack

    def _single_stack(self, version: LoraVersion) -> LoraStack:
        if version not in self._single_stacks:
            while len(self._single_stacks) >= MAX_SINGLE_STACKS:
                del self._single_stacks[next(iter(self._single_stacks))]
            self._single_stacks[version] = LoraStack([version], self._joined)
        return self._single_stacks[version]


def _scored_tokens(chunks: Sequence[Chunk]) -> list[int]:
    """Return the indices of the step's tokens whose scores are wanted."""
    indices: list[int] = []
    end = 0
    for chunk in chunks:
        end += chunk.length
        indices += range(end - chunk.num_scores, end)
    return indices


def _rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Apply rotary position embedding (RoPE; Su et al., 2021) to queries and keys, `[tokens, heads, size]`."""
    half = heads.shape[-1] // 2
    return heads * cos + torch.cat((heads[..., half:], heads[..., :half]), -1) * sin


def _gate(gate_up: torch.Tensor) -> torch.Tensor:
    """Apply SwiGLU (Shazeer, 2020)."""
    gate, up = gate_up.chunk(2, -1)
    return functional.silu(gate) * up


def _normalise(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return functional.rms_norm(x, weight.shape, weight, eps)


class _Glue:
    """The small operations between matrix products. Compiled, each is one kernel: a GPU launches fewer."""

    def __init__(self, compiles: bool) -> None:
        def wrap(function: Any) -> Any:
            return torch.compile(function, dynamic=True) if compiles else function

        self.compiles = compiles
        self.rotate, self.gate, self.normalise = wrap(_rotate), wrap(_gate), wrap(_normalise)


class _Norm:
    """RMS normalisation (Zhang and Sennrich, 2019).

    A CPU computes `layer_norm` of `(x, -x)`, whose mean is 0: the same result in a fifth of the time.
    """

    def __init__(self, weight: torch.Tensor, eps: float, glue: _Glue) -> None:
        self._width, self._eps, self._glue = weight.shape[0], eps, glue
        self._doubled = weight.device.type == "cpu" and not glue.compiles
        self._weight = torch.cat((weight, torch.zeros_like(weight))).detach() if self._doubled else weight.detach()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if not self._doubled:
            normed: torch.Tensor = self._glue.normalise(x, self._weight, self._eps)
            return normed
        both = functional.layer_norm(torch.cat((x, -x), -1), (2 * self._width,), self._weight, None, self._eps)
        return both[..., : self._width].contiguous()


class _Layer:
    def __init__(self, layer: Any, compress: bool, glue: _Glue) -> None:
        attention = layer.self_attn
        self.qkv, self.out, self.gate_up, self.down = (
            _join([module for _, module in parts], compress) for parts in _joined_parts(layer)
        )
        before_attention, before_mlp = layer.input_layernorm, layer.post_attention_layernorm
        self.before_attention = _Norm(before_attention.weight, before_attention.variance_epsilon, glue)
        self.before_mlp = _Norm(before_mlp.weight, before_mlp.variance_epsilon, glue)
        norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
        self._head_norms = [_Norm(norm.weight, norm.variance_epsilon, glue) for norm in norms if norm is not None]

    def norm_heads(self, qkv: torch.Tensor, heads: int, kv_heads: int) -> torch.Tensor:
        """Return queries and keys, normalised where the architecture does so (Qwen 3)."""
        if not self._head_norms:
            return qkv[:, : heads + kv_heads]
        query_norm, key_norm = self._head_norms
        return torch.cat((query_norm(qkv[:, :heads]), key_norm(qkv[:, heads : heads + kv_heads])), 1)


def _take_layer(layer: Any, compress: bool, glue: _Glue) -> _Layer:
    """Pack a layer and free the original at once: both forms of all layers may not fit in memory."""
    packed = _Layer(layer, compress, glue)
    for parameter in layer.parameters():
        parameter.data = parameter.data.new_empty(0)
    return packed


def _joined_parts(layer: Any) -> list[list[tuple[str, Any]]]:
    """Return the linear layers of a transformer layer, grouped by their common input."""
    attention, mlp = layer.self_attn, layer.mlp
    return [
        [(f"self_attn.{name}", getattr(attention, name)) for name in ("q_proj", "k_proj", "v_proj")],
        [("self_attn.o_proj", attention.o_proj)],
        [("mlp.gate_proj", mlp.gate_proj), ("mlp.up_proj", mlp.up_proj)],
        [("mlp.down_proj", mlp.down_proj)],
    ]


def _join(parts: Sequence[Any], compress: bool) -> Linear:
    """Join linear layers over the same input into one."""
    biases = [part.bias for part in parts]
    bias = None if biases[0] is None else torch.cat(biases).detach()
    return Linear(torch.cat([part.weight for part in parts]).detach(), bias, compress=compress)
