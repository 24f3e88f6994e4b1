"""Checks after training: a sound version in PEFT's form, and every way to break it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bot.generation.port import ChatMessage
from bot.learning.judge.answer_loss import AnsweredPrompt, ReferenceLossScorer
from bot.learning.train import publishing
from bot.learning.train.publishing import CheckFailed
from tests.builders.tiny_models import ALL_LINEAR, save_version

pytestmark = pytest.mark.model
WEIGHTS = "adapter_model.safetensors"
ROWS = [AnsweredPrompt((ChatMessage("user", text),), "So it is, and so it was.") for text in ("Really?", "And you?")]


@pytest.fixture(scope="module")
def base_and_version(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("checks")
    save_version(tiny, folder / "version", r=4, lora_alpha=8, target_modules=ALL_LINEAR)
    (folder / "version" / "README.md").write_text("# card")
    return tiny, folder / "version"


@pytest.fixture
def version(base_and_version: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(base_and_version[1], tmp_path / "version"))


def change(folder: Path, to: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({name: to(name, tensor).contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)


def test_a_sound_version_passes(version: Path) -> None:
    publishing.check_files(version)
    publishing.check_weights(version)


@pytest.mark.parametrize("name", ["adapter_model.bin", "optimizer.pt", "code.py", "folder"])
def test_other_files_are_refused(version: Path, name: str) -> None:
    (version / name).mkdir() if name == "folder" else (version / name).write_bytes(b"x")
    with pytest.raises(CheckFailed, match=name):
        publishing.check_files(version)


def test_missing_files_are_refused(version: Path) -> None:
    (version / "adapter_config.json").unlink()
    with pytest.raises(CheckFailed, match=r"no adapter_config\.json"):
        publishing.check_files(version)


def test_untrained_weights_are_refused(version: Path) -> None:
    publishing.check_weights(version)
    change(version, lambda name, tensor: tensor * ("lora_A" in name))
    with pytest.raises(CheckFailed, match="Every lora_B is zero"):
        publishing.check_weights(version)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(version: Path, bad: float) -> None:
    change(version, lambda name, tensor: tensor.fill_(bad) if "q_proj.lora_A" in name else tensor)
    with pytest.raises(CheckFailed, match="not all numbers"):
        publishing.check_weights(version)
    (version / WEIGHTS).write_bytes(b"damaged")
    with pytest.raises(CheckFailed, match="can't be read"):
        publishing.check_weights(version)


def test_logits_are_compared(base_and_version: tuple[Path, Path], version: Path) -> None:
    base, trained = base_and_version
    scorer = ReferenceLossScorer(base)
    wanted, plain = scorer.logits(ROWS, trained), scorer.logits(ROWS, None)
    publishing.check_same_logits([one.bfloat16() for one in wanted], wanted)
    publishing.check_same_logits([one + 3 for one in wanted], wanted)  # the same probabilities
    publishing.check_differs_from_base(wanted, plain)
    with pytest.raises(CheckFailed, match="something else than the trainer"):
        publishing.check_same_logits(plain, wanted)
    with pytest.raises(CheckFailed, match="something else than the trainer"):
        publishing.check_same_logits([one * float("nan") for one in wanted], wanted)
    with pytest.raises(CheckFailed, match="1 prompts"):
        publishing.check_same_logits(wanted[:1], wanted)
    with pytest.raises(CheckFailed, match="instead of"):
        publishing.check_same_logits([one[:-1] for one in wanted], wanted)
    change(version, lambda name, tensor: tensor * ("lora_A" in name))
    with pytest.raises(CheckFailed, match="what the base computes"):
        publishing.check_differs_from_base(scorer.logits(ROWS, version), plain)
