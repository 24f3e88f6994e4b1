"""LoRA versions (Hu et al., 2021): read PEFT files, serve many in a batch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors

from bot.errors import VersionError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."
MAX_RANK = 512
# For this many rows or fewer on a CPU, small products take a quarter of the time in float32 that they take in bf16.
MAX_ROWS_FLOAT32 = 16
# A version is absent between the turns of its conversations; after this many steps without it the stack is made anew.
PATIENCE_STEPS = 100

Pair = tuple[torch.Tensor, torch.Tensor]
Shapes = Mapping[str, tuple[int, int]]


@dataclass(eq=False, slots=True)
class LoraVersion:
    """LoRA weights of a trained version.

    pairs: by name of the base's layer, `[rank, in]` and `[out, rank]`; the second is scaled already.
    retired: unloaded. Running replies go on with it, and their prefixes are not cached.
    """

    name: str
    sha256: str
    pairs: dict[str, Pair]
    retired: bool = field(default=False)


def read_lora(
    name: str, folder: Path, shapes: Shapes, dtype: torch.dtype, device: torch.device, sha256: str | None = None
) -> LoraVersion:
    """Read and check a version.

    shapes: `(out, in)` of the base's linear layers, by name.
    sha256: expected digest of the weights file, if known.

    Raises `VersionError` if a file is damaged or was made for another base.
    """
    config = _read_config(folder)
    try:
        content = (folder / WEIGHTS_FILE).read_bytes()
    except OSError as error:
        raise VersionError(f"{folder / WEIGHTS_FILE} can't be read: {error.strerror}.") from error
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256:
        raise VersionError(f"{folder / WEIGHTS_FILE} is not the file that was trained: its SHA-256 is {found}.")
    try:
        tensors = load_safetensors(content)
    except (SafetensorError, ValueError) as error:
        raise VersionError(f"{folder / WEIGHTS_FILE} is damaged: {error}") from error
    pairs = {}
    for layer, (down, up) in _pair_up(tensors, folder).items():
        _check_pair(layer, down, up, shapes, folder)
        rank = down.shape[0]
        scale = config["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank)
        pairs[layer] = (down.to(device, dtype).contiguous(), (up.float() * scale).to(device, dtype).contiguous())
        if not all(bool(half.isfinite().all()) for half in pairs[layer]):
            raise VersionError(f"{folder / WEIGHTS_FILE} is damaged: the weights of {layer} are not all numbers.")
    return LoraVersion(name, found, pairs)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_bytes())
    except OSError as error:
        raise VersionError(f"{path} can't be read: {error.strerror}.") from error
    except ValueError as error:
        raise VersionError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise VersionError(f"{path} does not describe a LoRA version.")
    alpha = config.get("lora_alpha")
    if not isinstance(alpha, (int, float)) or isinstance(alpha, bool) or not 0 < alpha < 1e6:
        raise VersionError(f'{path}: "lora_alpha" must be a positive number.')
    unsupported = {
        "use_dora": bool(config.get("use_dora")),
        "bias": config.get("bias", "none") != "none",
        "modules_to_save": bool(config.get("modules_to_save")),
        "alpha_pattern": bool(config.get("alpha_pattern")),
        "fan_in_fan_out": bool(config.get("fan_in_fan_out")),
    }
    for option, is_used in unsupported.items():
        if is_used:
            raise VersionError(f"{path} uses {option}, which the engine can't serve. Train without it.")
    return config


def _pair_up(tensors: Mapping[str, torch.Tensor], folder: Path) -> dict[str, Pair]:
    halves: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        layer, _, half = key.removeprefix(PREFIX).removesuffix(".weight").rpartition(".")
        if half not in ("lora_A", "lora_B"):
            raise VersionError(f"{folder / WEIGHTS_FILE} holds {key}, which is no LoRA weight of a linear layer.")
        halves.setdefault(layer, {})[half] = tensor
    if not halves:
        raise VersionError(f"{folder / WEIGHTS_FILE} holds no weights.")
    for layer, pair in halves.items():
        if len(pair) != 2:
            raise VersionError(f"{folder / WEIGHTS_FILE} holds only half of the weights of {layer}.")
    return {layer: (pair["lora_A"], pair["lora_B"]) for layer, pair in halves.items()}


def _check_pair(layer: str, down: torch.Tensor, up: torch.Tensor, shapes: Shapes, folder: Path) -> None:
    if layer not in shapes:
        raise VersionError(f"{folder} was trained for another base model: this one has no linear layer {layer}.")
    rows, columns = shapes[layer]
    fits = down.ndim == up.ndim == 2 and (up.shape[0], down.shape[1]) == (rows, columns)
    if not fits or down.shape[0] != up.shape[1] or not 1 <= down.shape[0] <= MAX_RANK:
        raise VersionError(
            f"{folder} was trained for another base model: {layer} is {rows} x {columns} here, and the weights are "
            f"{tuple(up.shape)} and {tuple(down.shape)}."
        )


class LoraLayer:
    """LoRA weights of several versions for one linear layer, or for several joined ones over the same input.

    All versions' weights lie side by side, so that a mixed batch takes two products whatever the number of versions; a
    mask leaves each token the columns of its own version. `parts` are `(name, rows)` of the joined layers in order.
    """

    def __init__(self, versions: Sequence[LoraVersion], parts: Sequence[tuple[str, int]]) -> None:
        downs, ups, widths = [], [], []
        for version in versions:
            pairs = [version.pairs.get(name) for name, _ in parts]
            present = [pair for pair in pairs if pair is not None]
            widths.append(sum(down.shape[0] for down, _ in present))
            downs += [down for down, _ in present]
            first = 0
            for pair, (_, rows) in zip(pairs, parts, strict=True):
                if pair is not None:
                    _, up = pair
                    block = up.new_zeros(up.shape[1], sum(rows for _, rows in parts))
                    block[:, first : first + rows] = up.T
                    ups.append(block)
                first += rows
        self.widths = tuple(widths)
        self._pair = (torch.cat(downs).T.contiguous(), torch.cat(ups)) if downs else None
        self._exact_pair = None
        if self._pair is not None and len(versions) == 1 and self._pair[0].device.type == "cpu":
            self._exact_pair = (self._pair[0].float(), self._pair[1].float())

    def add(self, y: torch.Tensor, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return `y [tokens, out]` plus the versions' share of `x [tokens, in]`.

        `mask [tokens, ranks]` is None if all tokens belong to the only version.
        """
        if self._pair is None:
            return y
        if self._exact_pair is not None and mask is None and len(x) <= MAX_ROWS_FLOAT32:
            down, up = self._exact_pair
            return y.add_((x.float() @ down) @ up)
        down, up = self._pair
        low = x @ down
        return torch.addmm(y, low if mask is None else low * mask, up)


class LoraStack:
    """Several versions side by side in all layers of a model. Making a stack takes tens of milliseconds."""

    def __init__(self, versions: Sequence[LoraVersion], joined: Sequence[Sequence[tuple[str, int]]]) -> None:
        self.versions = tuple(versions)
        self.layers = [LoraLayer(self.versions, parts) for parts in joined]
        self._steps_too_large = 0

    def serves(self, wanted: set[LoraVersion]) -> bool:
        """Return True if the stack holds the wanted versions, and has not held unwanted ones for long."""
        self._steps_too_large = self._steps_too_large + 1 if len(self.versions) > len(wanted) else 0
        return wanted <= set(self.versions) and self._steps_too_large < PATIENCE_STEPS


class StepVersions:
    """The version of each token of a step, within a stack."""

    def __init__(self, stack: LoraStack, token_versions: Sequence[LoraVersion | None], device: torch.device) -> None:
        self._stack = stack
        indices = {version: index for index, version in enumerate(stack.versions)}
        self._uniform = len(stack.versions) == 1 and None not in token_versions
        owners = [-1 if version is None else indices[version] for version in token_versions]
        self._owners = torch.tensor(owners, device=device)[:, None]
        self._masks: dict[tuple[int, ...], torch.Tensor] = {}

    def add(self, layer: int, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return `y` plus the versions' share of `x` in the layer with that number; see `LoraLayer.add`."""
        lora = self._stack.layers[layer]
        return lora.add(y, x, None if self._uniform else self._mask(lora.widths, x.dtype))

    def _mask(self, widths: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        mask = self._masks.get(widths)
        if mask is None:
            columns = [index for index, width in enumerate(widths) for _ in range(width)]
            mask = (self._owners == torch.tensor(columns, device=self._owners.device)).to(dtype)
            self._masks[widths] = mask
        return mask
