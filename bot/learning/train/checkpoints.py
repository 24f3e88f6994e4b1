"""Checkpoints of a stage of training: safetensors, whole or not there at all.

Knows: where they lie, how a damaged one is told from a good one. Does not know: what the tensors mean.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

log = logging.getLogger("myna.training")

KEPT = 2


@dataclass(slots=True)
class StageState:
    """How far a stage has come. `held_out` has the loss of each look, the first before any step."""

    name: str
    settings: dict[str, Any]
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    loss: float | None = None
    held_out: list[float] = field(default_factory=list)
    best_look: int = 0
    best_step: int = 0


class Checkpoints:
    """The checkpoints of one job, in its folder. The two newest of a stage are kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, state: StageState, tensors: dict[str, torch.Tensor]) -> None:
        """Write one beside the others, so that a crash or a full disk leaves the one before. Raises `OSError`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        plain = {name: one.detach().cpu().contiguous() for name, one in tensors.items()}
        content = save(plain, metadata={"state": json.dumps(asdict(state))})
        digest = hashlib.sha256(content).hexdigest()[:16]
        path = self._folder / f"{state.name}-{state.step:06d}-{digest}.checkpoint"
        draft = path.with_suffix(".part")
        try:
            with draft.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        for old in self._of(state.name)[KEPT:]:
            old.unlink(missing_ok=True)

    def newest(self, wanted: StageState) -> tuple[StageState, dict[str, torch.Tensor]] | None:
        """The newest one of a stage that is whole and was made with the same settings."""
        for path in self._of(wanted.name):
            content = path.read_bytes()
            try:
                if hashlib.sha256(content).hexdigest()[:16] != path.stem.rpartition("-")[2]:
                    raise ValueError("its content is not what was written")
                state = StageState(**json.loads(_metadata(content)["state"]))
                tensors = load(content)
            except (ValueError, KeyError, TypeError, SafetensorError) as error:
                log.warning("the checkpoint %s is damaged and is left out: %s", path.name, error)
                continue
            if state.settings == json.loads(json.dumps(wanted.settings)):
                return state, tensors
            log.warning("the checkpoint %s was made with other settings and is left out", path.name)
        return None

    def forget(self, stage: str | None = None) -> None:
        """Remove those of a stage, or all of them: the work is done."""
        for path in self._folder.glob(f"{stage}-*" if stage is not None else "*"):
            path.unlink(missing_ok=True)

    def _of(self, stage: str) -> list[Path]:
        return sorted(self._folder.glob(f"{stage}-*.checkpoint"), reverse=True)


def _metadata(content: bytes) -> dict[str, str]:
    """A safetensors file begins with the length of its header, eight bytes, and the header in JSON."""
    length = int.from_bytes(content[:8], "little")
    found: dict[str, str] = json.loads(content[8 : 8 + length])["__metadata__"]
    return found
