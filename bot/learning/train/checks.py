"""What must hold after training, before anybody looks at figures: each check is a silent failure that somebody had.

Knows: a version's folder, weights and logits. Does not know: how a version was trained, or how good it is.
Each check returns nothing, or raises `CheckFailed` with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from bot.errors import MynaError
from bot.generation.engine.lora import CONFIG_FILE, WEIGHTS_FILE
from bot.learning.versions import CARD_FILE, FACTS_FILE

ALLOWED_FILES = frozenset({CONFIG_FILE, WEIGHTS_FILE, CARD_FILE, FACTS_FILE})
# bf16 in the engine against float32 in a trainer; weights that are not applied differ by far more.
MAX_RELATIVE_DIFFERENCE = 0.05
MIN_CHANGE = 1e-3


class CheckFailed(MynaError):
    """The trained weights failed a check."""

    code = "check_failed"


def check_files(folder: Path) -> None:
    """Only the config and the weights as safetensors, with their card: nothing that runs code when it is loaded."""
    for needed in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / needed).is_file():
            raise CheckFailed(f"{folder} has no {needed}.")
    others = sorted(one.name for one in folder.iterdir() if one.name not in ALLOWED_FILES)
    if others:
        raise CheckFailed(f"{folder} holds files that no version needs: {', '.join(others)}.")


def check_weights(folder: Path) -> None:
    """All finite, and moved: some `lora_B` is not zero any more, as all of them are before the first step."""
    try:
        tensors = load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise CheckFailed(f"{folder / WEIGHTS_FILE} can't be read: {error}") from error
    broken = sorted(name for name, tensor in tensors.items() if not bool(tensor.isfinite().all()))
    if broken:
        raise CheckFailed(f"The weights of {broken[0]} and {len(broken) - 1} others are not all numbers.")
    ups = [tensor for name, tensor in tensors.items() if "lora_B" in name]
    if not ups or not any(bool(tensor.any()) for tensor in ups):
        raise CheckFailed("Every lora_B is zero: nothing was learnt.")


def check_same_logits(engine: Sequence[torch.Tensor], trainer: Sequence[torch.Tensor]) -> None:
    """What the engine computes with the reloaded version is what the trainer computed, `[tokens, vocabulary]` a prompt.

    Compared are logits less their mean, which no probability depends on.
    """
    if len(engine) != len(trainer) or not trainer:
        raise CheckFailed(f"There are logits of {len(engine)} prompts to compare with {len(trainer)}.")
    for number, (found, wanted) in enumerate(zip(engine, trainer, strict=True), 1):
        if found.shape != wanted.shape:
            raise CheckFailed(f"Prompt {number}: logits of {tuple(found.shape)} instead of {tuple(wanted.shape)}.")
        difference = relative_difference(found, wanted)
        if not difference <= MAX_RELATIVE_DIFFERENCE:
            raise CheckFailed(
                f"Prompt {number}: the reloaded version computes something else than the trainer did, by "
                f"{difference * 100:.1f} % (at most {MAX_RELATIVE_DIFFERENCE * 100:g} %)."
            )


def relative_difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Root mean square of the difference of centred logits, as a share of the wanted ones' own; NaN for NaN."""
    ours, theirs = (one.float().cpu() - one.float().cpu().mean(-1, keepdim=True) for one in (found, wanted))
    return float((ours - theirs).square().mean().sqrt() / theirs.square().mean().sqrt().clamp_min(1e-12))


def check_differs_from_base(trained: Sequence[torch.Tensor], base: Sequence[torch.Tensor]) -> None:
    """The version computes something else than the base on one prompt at least."""
    if not any(relative_difference(one, other) > MIN_CHANGE for one, other in zip(trained, base, strict=True)):
        raise CheckFailed("The version computes what the base computes: its weights are not used, or do nothing.")
