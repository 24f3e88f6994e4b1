"""Frozen causal language model with trainable LoRA weights (Hu et al., 2021).

Loads any causal model of transformers. On a CPU with bf16 kernels the frozen weights are laid out in blocks once, for
the forward and for the backward product.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bot.errors import ModelError
from bot.generation.engine.chat_tokenizer import ChatTokenizer
from bot.generation.engine.runner import end_ids_of
from bot.generation.models.precision import fast_dtype, has_bf16_kernels

# Answer tokens that are scored over the vocabulary at a time: the scores of all would take gigabytes.
TOKENS_PER_SCORING = 256
# Relative to the highest score: the error of rounding to bf16 in another order.
MAX_SCORE_ERROR = 0.05


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Rows of tokens, padded at their end, and the positions whose next token is to be learnt.

    `token_ids` is `[rows, length]`; `rows`, `places` and `targets` have an entry for each token to learn.
    """

    token_ids: torch.Tensor
    rows: torch.Tensor
    places: torch.Tensor
    targets: torch.Tensor


class LoraNetwork:
    """A frozen base with LoRA weights beside its linear layers.

    The device `auto` is the GPU, if there is one. `dtype` is the base's precision, None for the fast one of the device.
    Raises `ModelError` for a model that can't be trained.
    """

    def __init__(
        self, path: Path, device: str = "auto", *, rank: int, alpha: float, seed: int, dtype: torch.dtype | None = None
    ) -> None:
        from transformers import AutoModelForCausalLM

        self.device = torch.device(_choose(device))
        # `Any`: transformers has no types that mypy could follow.
        net: Any = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype or fast_dtype(self.device),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
        net.to(self.device).eval().requires_grad_(False)
        self.tokenizer = ChatTokenizer(path)
        self.end_of_turn = self.tokenizer.find_end_of_turn(end_ids_of(net, self.tokenizer.tokenizer))
        self.max_tokens = int(getattr(net.config, "max_position_embeddings", None) or 2**20)
        self.rank, self.alpha = rank, alpha
        self._net = net
        head = net.get_output_embeddings()
        self._body = net.base_model
        self._embed = net.get_input_embeddings()
        self._head = _FrozenProduct(head.weight, head.bias)
        self.layers = _put_lora_beside(net, head, rank, alpha, torch.Generator().manual_seed(seed))
        self._check_scores(net.config.model_type)

    def _check_scores(self, kind: str) -> None:
        """Raise `ModelError` for a model that rescales its scores after the head, which `logprobs` would leave out."""
        with torch.no_grad():
            wanted = self._net(torch.tensor([[self.end_of_turn]], device=self.device), use_cache=False).logits[0, -1]
        found = self.next_token_scores((self.end_of_turn,))
        if float((found - wanted.float()).abs().max()) > MAX_SCORE_ERROR * float(wanted.abs().max()):
            raise ModelError(f"Myna can't train models of the kind {kind}, because they rescale their scores.")

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """Trainable parameters, float32, by PEFT's names: `model.layers.0.self_attn.q_proj.lora_A`."""
        return {f"{name}.{half}": getattr(layer, half) for name, layer in self.layers.items() for half in _HALVES}

    @property
    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """Shape `(out, in)` of each layer with LoRA weights."""
        return {name: layer.shape for name, layer in self.layers.items()}

    def begin_anew(self, seed: int) -> None:
        """Reset the LoRA weights to their initial values, the same for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        for layer in self.layers.values():
            layer.begin_anew(generator)

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Copy weights by the names of `parameters`. Raises `ModelError` if they are of another base or rank."""
        own = self.parameters
        if own.keys() != weights.keys() or any(own[name].shape != weights[name].shape for name in own):
            raise ModelError("These LoRA weights were made for another base model or rank.")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(weights[name])

    def put_on(self, pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Use a version's pairs, `[rank, in]` and `[out, rank]` including its scale; layers without one use the base.

        `pairs` are by the name of the layer.
        """
        for name, layer in self.layers.items():
            layer.put_on(*pairs[name]) if name in pairs else layer.take_off()

    def set_strength(self, strength: float) -> None:
        """Scale the LoRA weights: 1 as trained, 0 for the base alone."""
        for layer in self.layers.values():
            layer.set_scale(strength * self.alpha / self.rank)

    @contextlib.contextmanager
    def base_only(self) -> Iterator[None]:
        """Turn the LoRA weights off within the context."""
        before = {name: layer.is_on for name, layer in self.layers.items()}
        for layer in self.layers.values():
            layer.is_on = False
        try:
            yield
        finally:
            for name, layer in self.layers.items():
                layer.is_on = before[name]

    def logprobs(self, batch: TokenBatch) -> torch.Tensor:
        """Return the natural log-probability of each of the batch's targets, float32, `[targets]`."""
        # A causal model needs no mask for padding at the end: no position attends to it.
        embedded = self._embed(batch.token_ids.to(self.device))
        hidden = self._body(inputs_embeds=embedded, use_cache=False).last_hidden_state
        return self._logprobs_at(hidden, batch)

    def logprobs_after(self, prompt: Sequence[int], batch: TokenBatch) -> torch.Tensor:
        """Do the same as `logprobs` for rows that continue one prompt, which is computed once. No gradient."""
        with torch.no_grad():
            read = self._body(torch.tensor([list(prompt)], device=self.device), use_cache=True)
            read.past_key_values.batch_repeat_interleave(len(batch.token_ids))
            hidden = self._body(
                batch.token_ids.to(self.device), past_key_values=read.past_key_values, use_cache=True
            ).last_hidden_state
            return self._logprobs_at(hidden, batch)

    def _logprobs_at(self, hidden: torch.Tensor, batch: TokenBatch) -> torch.Tensor:
        wanted = hidden[batch.rows.to(self.device), batch.places.to(self.device)]
        apply: Any = _TargetLogprobs.apply
        logprobs: torch.Tensor = apply(wanted, self._head, batch.targets.to(self.device))
        return logprobs

    def answers(self, prompts: Sequence[tuple[int, ...]], most_tokens: int) -> list[tuple[int, ...]]:
        """Decode greedily after each prompt, through the token that ends the turn or to `most_tokens`."""
        length = max(map(len, prompts))
        token_ids = torch.tensor([[self.end_of_turn] * (length - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        with torch.no_grad():
            whole = self._net.generate(
                input_ids=token_ids.to(self.device),
                attention_mask=mask.to(self.device),
                max_new_tokens=most_tokens,
                do_sample=False,
                pad_token_id=self.end_of_turn,
                eos_token_id=self.end_of_turn,
                temperature=None,
                top_p=None,
                top_k=None,
            )
        return [self._until_end(answer) for answer in whole[:, length:].tolist()]

    def _until_end(self, token_ids: list[int]) -> tuple[int, ...]:
        if self.end_of_turn in token_ids:
            return tuple(token_ids[: token_ids.index(self.end_of_turn) + 1])
        return tuple(token_ids)

    def next_token_scores(self, token_ids: tuple[int, ...]) -> torch.Tensor:
        """Return the logits after the last token, float32, `[vocabulary]`."""
        with torch.no_grad():
            hidden = self._body(torch.tensor([token_ids], device=self.device), use_cache=False).last_hidden_state
            return self._head.forward(hidden[0, -1:])[0].float()


_HALVES = ("lora_A", "lora_B")


def _choose(device: str) -> str:
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _put_lora_beside(
    net: Any, head: Any, rank: int, alpha: float, generator: torch.Generator
) -> dict[str, _LoraLinear]:
    found = [
        (name, module)
        for name, module in net.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    ]
    if not found:
        raise ModelError(f"Models of the kind {net.config.model_type} have no linear layers that LoRA could train.")
    layers = {}
    for name, module in found:
        layers[name] = _LoraLinear(module, rank, alpha, generator)
        parent, _, child = name.rpartition(".")
        setattr(net.get_submodule(parent), child, layers[name])
    return layers


class _FrozenProduct:
    """`x @ weight.T + bias` and its backward product. With bf16 kernels each has its own blocked copy of the weight."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight = weight.detach()
        self._bias = None if bias is None else bias.detach()
        self._blocks: tuple[torch.Tensor, torch.Tensor] | None = None
        if weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and has_bf16_kernels():
            reorder = torch.ops.mkldnn._reorder_linear_weight
            self._blocks = reorder(self._weight, None), reorder(self._weight.t().contiguous(), None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self._blocks is None:
            return torch.nn.functional.linear(x, self._weight, self._bias)
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._blocks[0], self._bias, "none", [], "")
        return y

    def backward(self, gradient: torch.Tensor) -> torch.Tensor:
        if self._blocks is None:
            return gradient @ self._weight
        back: torch.Tensor = torch.ops.mkldnn._linear_pointwise(gradient, self._blocks[1], None, "none", [], "")
        return back


class _LoraLinear(torch.nn.Module):
    """A frozen linear layer plus `x @ A.T @ B.T * alpha / rank`; A is random and B zero at first, as in PEFT."""

    def __init__(self, linear: torch.nn.Linear, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = linear.weight.shape
        self.shape = (rows, columns)
        self._product = _FrozenProduct(linear.weight, linear.bias)
        self._scale = alpha / rank
        device = linear.weight.device
        self.lora_A = torch.nn.Parameter(torch.zeros(rank, columns, device=device))
        self.lora_B = torch.nn.Parameter(torch.zeros(rows, rank, device=device))
        self.begin_anew(generator)
        self.is_on = True

    def begin_anew(self, generator: torch.Generator) -> None:
        bound = self.lora_A.shape[1] ** -0.5  # Kaiming uniform with PEFT's a = sqrt(5)
        with torch.no_grad():
            # Drawn on the CPU, so that every device begins with the same weights.
            drawn = torch.empty(self.lora_A.shape).uniform_(-bound, bound, generator=generator)
            self.lora_A.copy_(drawn)
            self.lora_B.zero_()

    def put_on(self, down: torch.Tensor, up: torch.Tensor) -> None:
        self.lora_A = torch.nn.Parameter(down.float())
        self.lora_B = torch.nn.Parameter(up.float())
        self._scale, self.is_on = 1.0, True

    def set_scale(self, scale: float) -> None:
        self._scale = scale

    def take_off(self) -> None:
        self.is_on = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.is_on:
            return self._product.forward(x)
        apply: Any = _LoraProduct.apply
        y: torch.Tensor = apply(x, self.lora_A, self.lora_B, self._product, self._scale)
        return y


class _LoraProduct(torch.autograd.Function):
    """A frozen product and its LoRA pair as one operation, which saves no activations for the frozen weight."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, first: torch.Tensor, second: torch.Tensor, product: _FrozenProduct, scale: float
    ) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        down, up = first.to(x.dtype), (second * scale).to(x.dtype)
        thin = flat @ down.t()
        y = product.forward(flat).addmm_(thin, up.t())
        ctx.save_for_backward(flat, thin, down, up)
        ctx.product, ctx.scale, ctx.shape = product, scale, x.shape
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        flat, thin, down, up = ctx.saved_tensors
        gradient = gradient.reshape(-1, gradient.shape[-1])
        to_thin = gradient @ up
        to_second = (gradient.t() @ thin).float().mul_(ctx.scale)
        to_first = (to_thin.t() @ flat).float()
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = ctx.product.backward(gradient).addmm_(to_thin, down).view(ctx.shape)
        return to_x, to_first, to_second, None, None


class _TargetLogprobs(torch.autograd.Function):
    """Log-probabilities of given tokens, computed in parts so that the full `[tokens, vocabulary]` never exists.

    The forward pass computes each gradient by its hidden state; the backward pass only weights them.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, head: _FrozenProduct, targets: torch.Tensor) -> torch.Tensor:
        needs_gradient = ctx.needs_input_grad[0]
        gradients = torch.empty_like(hidden) if needs_gradient else hidden.new_empty(0)
        logprobs = hidden.new_empty(len(hidden), dtype=torch.float32)
        for begin in range(0, len(hidden), TOKENS_PER_SCORING):
            part = slice(begin, begin + TOKENS_PER_SCORING)
            wanted = targets[part, None]
            scores = head.forward(hidden[part]).float()
            scores -= scores.amax(-1, keepdim=True)
            of_wanted = scores.gather(-1, wanted)
            total = scores.exp_().sum(-1, keepdim=True)
            logprobs[part] = (of_wanted - total.log())[:, 0]
            if needs_gradient:
                scores.div_(-total)
                scores.scatter_add_(-1, wanted, torch.ones_like(of_wanted))
                gradients[part] = head.backward(scores.to(hidden.dtype))
        ctx.save_for_backward(gradients)
        return logprobs

    @staticmethod
    def backward(ctx: Any, weights: torch.Tensor) -> Any:
        (gradients,) = ctx.saved_tensors
        return gradients * weights[:, None].to(gradients.dtype), None, None
