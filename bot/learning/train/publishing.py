"""Write, check and register the files of a trained version.

The folder is moved into place before its row is written, so that a row never names a missing folder. Every check
guards against a silent failure that occurred, and raises `CheckFailed` with the reason.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bot.errors import MynaError
from bot.generation.engine.generation import Chunk, Generation
from bot.generation.engine.lora import CONFIG_FILE, PREFIX, WEIGHTS_FILE
from bot.generation.engine.runner import Runner
from bot.jobs.contract import JobRefused
from bot.learning.train.material import TokenRow
from bot.learning.train.network import LoraNetwork
from bot.learning.versions import CARD_FILE, FACTS_FILE, folder_of
from storage import audit, datasets, jobs, versions
from storage.database import Database
from storage.jobs import JobLease
from storage.learning_values import Version
from storage.transaction import Transaction
from storage.versions import NameTaken, NewVersion


async def publish(database: Database, lease: JobLease, data: Path, draft: Path, new: NewVersion) -> Version:
    """Copy the `draft` folder into place and register it as a version.

    The draft is kept, so that a crash before the registration can be repaired by another call. Raises `LeaseLost` if
    another worker holds the job, and `JobRefused` if a person whose words the version learnt has been erased.
    """
    while True:
        name = await database.read(versions.next_name, lease.workspace_id, new.weights_sha256)
        folder = folder_of(data, name)
        await asyncio.to_thread(_copy, draft, folder)
        try:
            version = await database.write(_register, lease.workspace_id, lease, new, name)
        except NameTaken:
            await asyncio.to_thread(shutil.rmtree, folder)
            continue
        except BaseException:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True))
            raise
        if version.name != name:  # registered before a crash, under another number
            await asyncio.to_thread(shutil.rmtree, folder)
            await asyncio.to_thread(_copy, draft, folder_of(data, version.name))
        return version


def _register(tx: Transaction, lease: JobLease, new: NewVersion, name: str) -> Version:
    jobs.hold(tx, lease)
    if datasets.has_erased(tx, new.dataset_id):
        raise JobRefused(
            "A person whose words this training used was erased meanwhile. Start a new training, which leaves them out."
        )
    version = versions.register(tx, new, name)
    if version.name == name:  # else registered before a crash
        details = {"dataset": new.dataset_id, "job": new.job_id, "weights_sha256": new.weights_sha256}
        audit.record(tx, new.created_by, "version.registered", version.name, details)
    return version


def _copy(draft: Path, folder: Path) -> None:
    """Copy under a temporary name first, so that a folder under its own name is always complete."""
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(draft, part)
    for path in part.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    part.replace(folder)


ALLOWED_FILES = frozenset({CONFIG_FILE, WEIGHTS_FILE, CARD_FILE, FACTS_FILE})
# bf16 in the engine against float32 in a trainer; weights that are not applied differ by far more.
MAX_RELATIVE_DIFFERENCE = 0.05
MIN_CHANGE = 1e-3


class CheckFailed(MynaError):
    """The trained weights failed a check."""

    code = "check_failed"


def check_files(folder: Path) -> None:
    """Raise `CheckFailed` unless the folder holds only config, safetensors and card: no file that can run code."""
    for needed in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / needed).is_file():
            raise CheckFailed(f"{folder} has no {needed}.")
    others = sorted(path.name for path in folder.iterdir() if path.name not in ALLOWED_FILES)
    if others:
        raise CheckFailed(f"{folder} holds files that no version needs: {', '.join(others)}.")


def check_weights(folder: Path) -> None:
    """Raise `CheckFailed` unless all weights are finite and some `lora_B` is not zero, its value before any step."""
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
    """Raise `CheckFailed` if the engine's logits differ from the trainer's, `[tokens, vocabulary]` for each prompt.

    Logits are compared less their mean, which no probability depends on.
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
    """Return the root mean square difference of centred logits relative to that of `wanted`; NaN for NaN."""
    ours, theirs = (logits.float().cpu() - logits.float().cpu().mean(-1, keepdim=True) for logits in (found, wanted))
    return float((ours - theirs).square().mean().sqrt() / theirs.square().mean().sqrt().clamp_min(1e-12))


def check_differs_from_base(trained: Sequence[torch.Tensor], base: Sequence[torch.Tensor]) -> None:
    """Raise `CheckFailed` if the version's logits are those of the base on every prompt."""
    if not any(relative_difference(ours, theirs) > MIN_CHANGE for ours, theirs in zip(trained, base, strict=True)):
        raise CheckFailed("The version computes what the base computes: its weights are not used, or do nothing.")


NUM_ROWS = 4
MOST_TOKENS = 256


def check_served_as_trained(network: LoraNetwork, base: Path, version: Path, rows: Sequence[TokenRow]) -> None:
    """Load the version as serving does, and compare its logits after some prompts with the trainer's.

    Raises `CheckFailed`, and `VersionError` for a folder that the engine can't read.
    """
    prompts = [row.token_ids[: min(row.learnt[0], MOST_TOKENS)] for row in rows[:NUM_ROWS]]
    trained = [network.next_token_scores(prompt)[None] for prompt in prompts]
    with network.base_only():
        untrained = [network.next_token_scores(prompt)[None] for prompt in prompts]
    check_differs_from_base(trained, untrained)
    runner = Runner(base, str(network.device), None, context_tokens=2 * MOST_TOKENS)
    loaded = runner.read_version(version.name, version, None)
    served = []
    with runner.inference_mode():
        for prompt in prompts:
            generation = Generation(list(prompt), row=0, version=loaded)
            runner.decoder.reserve(1, len(prompt))
            served.append(runner.step([Chunk(generation, len(prompt))], [generation]).float().cpu())
            runner.decoder.reset()
    check_same_logits(served, [logits.cpu() for logits in trained])


def save_adapter(folder: Path, parameters: Mapping[str, torch.Tensor], *, rank: int, alpha: float, base: str) -> str:
    """Write a version's files into an existing folder, and return the SHA-256 of the weights' file.

    The form is that of PEFT 0.18 and later, which vLLM and `engine/lora.py` read. `parameters` have the names of
    `LoraNetwork.parameters`: `model.layers.0.self_attn.q_proj.lora_A`.
    """
    tensors = {f"{PREFIX}{name}.weight": weights.detach().cpu().contiguous() for name, weights in parameters.items()}
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    modules = sorted({name.rsplit(".", 2)[-2] for name in parameters})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
        "target_modules": modules,
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
