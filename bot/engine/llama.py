"""The forward pass of the Llama family (Llama, SmolLM, Qwen 2 and 3, Mistral), for many sequences in one step.

Knows: the architecture, and which plain torch operations are quick for few tokens on a CPU (benchmarks/LOG.md). Does
not know: scheduling, sampling, text. Everything else that transformers loads goes through `bot.engine.general`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as functional

from bot.engine.key_value_rows import KeyValueRows
from bot.engine.linear import MAX_ROWS_4_BITS, Linear
from bot.engine.lora import LoraStack, LoraVersion, StepVersions
from bot.engine.sequence import Chunk
from bot.engine.sequence import Sequence as Tokens

FAMILY = {"llama", "qwen2", "qwen3", "mistral"}
# Attention over up to so many rows is quickest as one fused call; over more, as two products.
MAX_ROWS_FUSED = 2
MAX_SINGLE_STACKS = 4


def is_supported(config: Any) -> bool:
    """Whether this pass computes what transformers would compute for the model."""
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
    """Takes the weights out of a model that transformers loaded. `compress` allows weights of fewer bits."""

    shares_prefixes = True

    def __init__(self, net: Any, max_tokens: int, *, compress: bool) -> None:
        config = net.config
        self._heads = config.num_attention_heads
        self._kv_heads = config.num_key_value_heads
        self._size = getattr(config, "head_dim", None) or config.hidden_size // self._heads
        self._eps = config.rms_norm_eps
        weight = net.model.embed_tokens.weight
        self._device, self._dtype = weight.device, weight.dtype
        # A copy, so that nothing holds on to the mapped file of weights: all else is copied when it is packed.
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
        self._layers = [_take_layer(layer, compress) for layer in net.model.layers]
        self._stack: LoraStack | None = None
        self._single_stacks: dict[LoraVersion, LoraStack] = {}
        self._norm = _Norm(net.model.norm.weight, self._eps)
        tied = net.lm_head.weight is weight
        self._head = Linear(self._embedding if tied else net.lm_head.weight.detach().clone(), compress=compress)
        self.bytes_per_token = 2 * len(self._layers) * self._kv_heads * self._size * self._dtype.itemsize
        self.rows = KeyValueRows(len(self._layers), self._kv_heads, self._size, self._dtype, self._device)
        self._warm_up()

    def forward(self, chunks: Sequence[Chunk], running: Sequence[Tokens], *, every_token: bool = False) -> torch.Tensor:
        """Scores after the last token of each chunk, `[len(chunks), vocabulary]`, or after every token.

        The first chunks that have one token are computed together quickest. `running` are all sequences that have rows,
        in the order of these.
        """
        longest = max(chunk.sequence.num_computed + chunk.count for chunk in chunks)
        in_use = self._round_up(len(running))
        self.rows.reserve(in_use, max(longest, *(one.num_computed for one in running)))
        plan = _Plan(chunks, in_use, self)
        versions = self._step_versions(chunks, running, len(plan.token_ids))

        def project(number: int, linear: Linear, x: torch.Tensor) -> torch.Tensor:
            y = linear(x)
            return y if versions is None else versions.add(number, y, x)

        x = self._embedding[plan.token_ids]
        cos, sin = self._cos[plan.positions], self._sin[plan.positions]
        for index, layer in enumerate(self._layers):
            first = 4 * index  # of the joined linear layers
            qkv = project(first, layer.qkv, layer.before_attention(x))
            qkv = qkv.view(len(x), self._heads + 2 * self._kv_heads, self._size)
            turned = self._turn(layer.norm_heads(qkv, self._heads, self._kv_heads), cos, sin)
            queries, keys, values = turned[:, : self._heads], turned[:, self._heads :], qkv[:, -self._kv_heads :]
            plan.store(index, keys, values)
            x = x + project(first + 1, layer.out, plan.attend(index, queries))
            gate, up = project(first + 2, layer.gate_up, layer.before_mlp(x)).chunk(2, -1)
            x = x + project(first + 3, layer.down, functional.silu(gate) * up)
        if every_token:
            return self._head(self._norm(x))[: plan.num_tokens]
        return self._head(self._norm(x[plan.last]))[: len(chunks)]

    def _warm_up(self) -> None:
        """Meet the usual numbers of tokens, so that the first replies are as quick as the later ones."""
        if self._device.type != "cpu":
            return
        for count in {self._round_up(number) for number in range(1, 65)}:
            x = self._embedding[:count]
            layer = self._layers[0]
            layer.out(layer.qkv(x)[:, : self._heads * self._size].contiguous())
            layer.down(layer.gate_up(x).chunk(2, -1)[0].contiguous())
            self._head(x[:32])

    def copy_out(self, row: int, tokens: int) -> torch.Tensor:
        return self.rows.copy_out(row, tokens)

    def copy_in(self, row: int, content: torch.Tensor, tokens: int) -> None:
        # Only a step gives rows back: here more are likely to follow.
        self.rows.reserve(max(self._round_up(row + 1), self.rows.count), max(tokens, self.rows.slots))
        self.rows.copy_in(row, content, tokens)

    def move(self, source: int, target: int, tokens: int) -> None:
        self.rows.move(source, target, tokens)

    def clear(self, row: int) -> None:
        self.rows.clear(row)

    def release(self, in_use: int) -> None:
        """Rows are given back by the next step that needs far fewer."""

    def reset(self) -> None:
        self.rows.reset()
        self._stack = None
        self._single_stacks.clear()

    def _round_up(self, count: int) -> int:
        """A number of tokens or rows that is computed instead of `count`.

        A CPU's kernels are made anew for each number that they meet, which takes 10 ms: so there are few numbers.
        """
        if self._device.type != "cpu" or count <= MAX_ROWS_4_BITS:
            return count
        step = 4 if count <= 16 else 8 if count <= 64 else 32
        return -(-count // step) * step

    def _step_versions(
        self, chunks: Sequence[Chunk], running: Sequence[Tokens], num_tokens: int
    ) -> StepVersions | None:
        by_chunk: list[LoraVersion | None] = [chunk.sequence.version for chunk in chunks]
        if not any(by_chunk):
            return None
        if chunks[0].sequence.alone:  # by the same operations, whatever else runs
            stack = self._single_stack(next(version for version in by_chunk if version is not None))
        else:
            stack = self._common_stack({one.version for one in running if one.version and not one.alone})
        by_token = [version for version, chunk in zip(by_chunk, chunks, strict=True) for _ in range(chunk.count)]
        by_token += by_token[-1:] * (num_tokens - len(by_token))
        return StepVersions(stack, by_token, self._device)

    def _common_stack(self, wanted: set[LoraVersion]) -> LoraStack:
        if self._stack is None or not self._stack.serves(wanted):
            self._stack = LoraStack(sorted(wanted, key=lambda one: one.name), self._joined)
        return self._stack

    def _single_stack(self, version: LoraVersion) -> LoraStack:
        if version not in self._single_stacks:
            while len(self._single_stacks) >= MAX_SINGLE_STACKS:
                del self._single_stacks[next(iter(self._single_stacks))]
            self._single_stacks[version] = LoraStack([version], self._joined)
        return self._single_stacks[version]

    def _turn(self, heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Rotary position embedding (Su et al., 2021) of queries and keys, `[tokens, heads, size]`."""
        half = self._size // 2
        return heads * cos + torch.cat((heads[..., half:], heads[..., :half]), -1) * sin


class _Norm:
    """RMS normalisation (Zhang and Sennrich, 2019).

    On a CPU by `layer_norm` of `(x, -x)`, whose mean is 0: the same in a fifth of the time.
    """

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        self._width, self._eps = weight.shape[0], eps
        self._doubled = weight.device.type == "cpu"
        self._weight = torch.cat((weight, torch.zeros_like(weight))).detach() if self._doubled else weight.detach()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if not self._doubled:
            return functional.rms_norm(x, (self._width,), self._weight, self._eps)
        both = functional.layer_norm(torch.cat((x, -x), -1), (2 * self._width,), self._weight, None, self._eps)
        return both[..., : self._width].contiguous()


class _Layer:
    def __init__(self, layer: Any, compress: bool) -> None:
        attention = layer.self_attn
        self.qkv, self.out, self.gate_up, self.down = (
            _join([module for _, module in parts], compress) for parts in _joined_parts(layer)
        )
        self.before_attention = _Norm(layer.input_layernorm.weight, layer.input_layernorm.variance_epsilon)
        self.before_mlp = _Norm(layer.post_attention_layernorm.weight, layer.post_attention_layernorm.variance_epsilon)
        norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
        self._head_norms = [_Norm(one.weight, one.variance_epsilon) for one in norms if one is not None]

    def norm_heads(self, qkv: torch.Tensor, heads: int, kv_heads: int) -> torch.Tensor:
        """Queries and keys, normalised where the architecture does so (Qwen 3)."""
        if not self._head_norms:
            return qkv[:, : heads + kv_heads]
        query_norm, key_norm = self._head_norms
        return torch.cat((query_norm(qkv[:, :heads]), key_norm(qkv[:, heads : heads + kv_heads])), 1)


def _take_layer(layer: Any, compress: bool) -> _Layer:
    """Pack a layer, and let go of what it was made from: both may not fit for all layers at once."""
    made = _Layer(layer, compress)
    for parameter in layer.parameters():
        parameter.data = parameter.data.new_empty(0)
    return made


def _joined_parts(layer: Any) -> list[list[tuple[str, Any]]]:
    """The linear layers of a transformer layer, those over the same input together."""
    attention, mlp = layer.self_attn, layer.mlp
    return [
        [(f"self_attn.{name}", getattr(attention, name)) for name in ("q_proj", "k_proj", "v_proj")],
        [("self_attn.o_proj", attention.o_proj)],
        [("mlp.gate_proj", mlp.gate_proj), ("mlp.up_proj", mlp.up_proj)],
        [("mlp.down_proj", mlp.down_proj)],
    ]


def _join(parts: Sequence[Any], compress: bool) -> Linear:
    """Several layers over the same input as one."""
    biases = [part.bias for part in parts]
    bias = None if biases[0] is None else torch.cat(biases).detach()
    return Linear(torch.cat([part.weight for part in parts]).detach(), bias, compress=compress)


class _Plan:
    """What one step looks up and where it writes, the same for all layers."""

    def __init__(self, chunks: Sequence[Chunk], in_use: int, decoder: LlamaDecoder) -> None:
        self._rows, self._kv_heads, self._size = decoder.rows, decoder._kv_heads, decoder._size
        self._group = decoder._heads // decoder._kv_heads
        device, dtype = decoder._device, decoder._dtype
        singles = [
            chunk.sequence
            for chunk in itertools.takewhile(lambda one: one.count == 1 and not one.sequence.alone, chunks)
        ]
        self._num_singles = len(singles)
        self._segments = list(chunks[len(singles) :])
        counts = [chunk.count for chunk in chunks]
        self.num_tokens = sum(counts)
        self._num_padding = decoder._round_up(self.num_tokens) - self.num_tokens
        padding = [0] * self._num_padding
        token_ids = [one for chunk in chunks for one in chunk.token_ids]
        self.token_ids = torch.tensor(token_ids + padding, device=device)
        starts = [chunk.sequence.num_computed for chunk in chunks]
        positions = [start + i for start, count in zip(starts, counts, strict=True) for i in range(count)]
        self.positions = torch.tensor(positions + padding, device=device)
        last = [total - 1 for total in itertools.accumulate(counts)]
        last += last[-1:] * (decoder._round_up(len(last)) - len(last))
        self.last = torch.tensor(last, device=device)
        if singles:
            self._row_ids = torch.tensor([one.row for one in singles], device=device)
            self._places = self.positions[: len(singles)]
            self._in_order = [one.row for one in singles] == list(range(len(singles)))
            self._num_rows = min(decoder._round_up(len(singles)), in_use) if self._in_order else in_use
            lengths = torch.zeros(self._num_rows, dtype=torch.long, device=device)
            lengths[self._row_ids] = self._places
            beyond = torch.arange(self._rows.slots, device=device)[None] > lengths[:, None]
            self._mask = torch.zeros(beyond.shape, dtype=dtype, device=device).masked_fill_(beyond, float("-inf"))
            self._mask = self._mask[:, None, None]
            if self._num_rows > MAX_ROWS_FUSED:
                self._mask = self._mask.expand(-1, self._kv_heads, 1, -1).flatten(0, 1)
        self._only_place = starts[0] if len(singles) == 1 and singles[0].row == 0 else None
        self._segment_masks = [self._causal(chunk, device) for chunk in self._segments]

    def _causal(self, chunk: Chunk, device: torch.device) -> torch.Tensor:
        start = chunk.sequence.num_computed
        later = torch.ones(chunk.count, start + chunk.count, dtype=torch.bool, device=device).triu_(start + 1)
        mask = torch.zeros(later.shape, dtype=self._rows.keys[0].dtype, device=device).masked_fill_(
            later, float("-inf")
        )
        return mask.repeat(self._group, 1)

    def store(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Write the keys and values of all tokens of the step, `[tokens, heads, size]`, into their rows."""
        key_rows, value_rows, begin = self._rows.keys[layer], self._rows.values[layer], self._num_singles
        if self._only_place is not None:
            key_rows[0, :, self._only_place] = keys[0]
            value_rows[0, :, self._only_place] = values[0]
        elif begin:
            key_rows[self._row_ids, :, self._places] = keys[:begin]
            value_rows[self._row_ids, :, self._places] = values[:begin]
        for chunk in self._segments:
            row, start, end = chunk.sequence.row, chunk.sequence.num_computed, begin + chunk.count
            key_rows[row, :, start : start + chunk.count] = keys[begin:end].transpose(0, 1)
            value_rows[row, :, start : start + chunk.count] = values[begin:end].transpose(0, 1)
            begin = end

    def attend(self, layer: int, queries: torch.Tensor) -> torch.Tensor:
        """Attention of all tokens of the step, `[tokens, heads * size]`."""
        parts, begin = [], self._num_singles
        if begin:
            parts.append(self._attend_singles(layer, queries[:begin]))
        for chunk, mask in zip(self._segments, self._segment_masks, strict=True):
            parts.append(self._attend_segment(layer, chunk, queries[begin : begin + chunk.count], mask))
            begin += chunk.count
        if self._num_padding:
            parts.append(queries.new_zeros(self._num_padding, parts[0].shape[1]))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _attend_singles(self, layer: int, queries: torch.Tensor) -> torch.Tensor:
        if self._only_place is not None:  # the commonest step by far where few people write
            end = self._only_place + 1
            keys, values = self._rows.keys[layer][:1, :, :end], self._rows.values[layer][:1, :, :end]
            folded = queries.reshape(1, self._kv_heads, self._group, self._size)
            return functional.scaled_dot_product_attention(folded, keys, values).reshape(1, -1)
        count = len(queries)
        if not self._in_order or count < self._num_rows:
            all_rows = queries.new_zeros(self._num_rows, *queries.shape[1:])
            all_rows[self._row_ids] = queries
            queries = all_rows
        rows, shape = self._num_rows, (self._kv_heads, self._group, self._size)
        keys, values = self._rows.keys[layer][:rows], self._rows.values[layer][:rows]
        if rows <= MAX_ROWS_FUSED:
            found = functional.scaled_dot_product_attention(queries.reshape(rows, *shape), keys, values, self._mask)
        else:
            folded = queries.reshape(rows * shape[0], shape[1], shape[2])
            scores = torch.baddbmm(self._mask, folded, keys.flatten(0, 1).transpose(1, 2), alpha=self._size**-0.5)
            found = torch.bmm(scores.softmax(-1), values.flatten(0, 1))
        found = found.reshape(rows, -1)
        return found[:count] if self._in_order else found[self._row_ids]

    def _attend_segment(self, layer: int, chunk: Chunk, queries: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The heads of a group that share keys are stacked, so that these need not be repeated."""
        row, end = chunk.sequence.row, chunk.sequence.num_computed + chunk.count
        keys, values = self._rows.keys[layer][row, :, :end], self._rows.values[layer][row, :, :end]
        folded = queries.view(chunk.count, self._kv_heads, self._group, self._size).permute(1, 2, 0, 3).flatten(1, 2)
        found = functional.scaled_dot_product_attention(folded[None], keys[None], values[None], mask)[0]
        found = found.view(self._kv_heads, self._group, chunk.count, self._size).permute(2, 0, 1, 3)
        return found.reshape(chunk.count, -1)
