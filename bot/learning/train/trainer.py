"""Training loop of one stage: AdamW, early stopping, checkpoints.

A stage that is stopped at any step and resumed from its checkpoint ends with the same weights as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from bot.errors import TrainingFailed
from bot.learning.train.material import epochs_of
from bot.learning.train.network import LoraNetwork
from bot.learning.train.objectives import Objective

SMOOTHING = 0.9


class Watch(Protocol):
    """Receiver of a stage's progress. `check` raises when the work should stop now."""

    def progress(self, **fields: object) -> None: ...

    def point(self, series: str, step: int, value: float) -> None: ...

    def check(self) -> None: ...

    def flush(self) -> None:
        """Store all reported points: a stage resumed from the checkpoint that follows does not report them again."""


@dataclass(frozen=True, slots=True)
class StageSettings:
    """Settings of a stage. After `patience` measurements of held-out loss without a new best the stage ends."""

    steps: int
    examples_per_step: int
    learning_rate: float
    looks: int = 8
    patience: int = 3
    warmup_share: float = 0.06
    last_rate_share: float = 0.05
    max_gradient: float = 1.0
    seed: int = 1
    seconds_per_checkpoint: float = 60.0


@dataclass(frozen=True, slots=True)
class StageResult:
    """Outcome of a stage. Losses are per token for answers, per example for preferences."""

    steps: int
    best_step: int
    first_held_out_loss: float
    best_held_out_loss: float
    tokens: int
    seconds: float


def run_stage(
    name: str,
    network: LoraNetwork,
    objective: Objective,
    settings: StageSettings,
    checkpoints: Checkpoints,
    watch: Watch,
) -> StageResult:
    """Train the network, and leave it with the weights of the best held-out loss.

    Raises `TrainingFailed` when the loss is not finite, and passes on the exception of `watch.check` after saving a
    checkpoint.
    """
    return _Stage(name, network, objective, settings, checkpoints, watch).run()


class _Stage:
    def __init__(
        self,
        name: str,
        network: LoraNetwork,
        objective: Objective,
        settings: StageSettings,
        checkpoints: Checkpoints,
        watch: Watch,
    ) -> None:
        self._name, self._network, self._objective, self._watch = name, network, objective, watch
        self._settings, self._checkpoints = settings, checkpoints
        self._parameters = network.parameters
        self._optimizer = torch.optim.AdamW(
            self._parameters.values(), lr=settings.learning_rate, weight_decay=0.0, fused=True
        )
        self._plan = epochs_of(objective.count, settings.examples_per_step, settings.steps, settings.seed)
        self._look_every = max(1, settings.steps // settings.looks)
        self._state = StageState(name, {**asdict(settings), "learns_from": objective.digest})
        self._best = self._copy_weights()

    def run(self) -> StageResult:
        self._restore()
        if not self._state.held_out:
            self._look()
        saved = time.monotonic()
        while self._state.step < len(self._plan) and not self._is_over():
            try:
                self._watch.check()
            except BaseException:
                self._save()
                raise
            self._step()
            if self._state.step % self._look_every == 0 or self._state.step == len(self._plan):
                self._look()
            if time.monotonic() - saved > self._settings.seconds_per_checkpoint:
                self._save()
                saved = time.monotonic()
        # A job that is stopped in its next stage resumes with this stage finished.
        self._save()
        self._network.load(self._best)
        state = self._state
        return StageResult(
            state.step, state.best_step, state.held_out[0], state.held_out[state.best_look], state.tokens, state.seconds
        )

    def _step(self) -> None:
        state, began = self._state, time.monotonic()
        self._set_learning_rate(state.step)
        loss, tokens = self._objective.backward(self._plan[state.step])
        size = torch.nn.utils.clip_grad_norm_(self._parameters.values(), self._settings.max_gradient)
        if not math.isfinite(loss) or not bool(size.isfinite()):
            raise TrainingFailed(
                f"The loss is not finite at step {state.step + 1} of {len(self._plan)} ({self._name}). "
                "Try a lower learning rate."
            )
        self._optimizer.step()
        self._optimizer.zero_grad()
        state.step += 1
        state.tokens += tokens
        state.seconds += time.monotonic() - began
        state.loss = loss if state.loss is None else SMOOTHING * state.loss + (1 - SMOOTHING) * loss
        self._tell(loss)

    def _tell(self, loss: float) -> None:
        state, left = self._state, len(self._plan) - self._state.step
        self._watch.point(f"{self._name}.loss", state.step, loss)
        self._watch.progress(
            phase=self._name,
            step=state.step,
            steps=len(self._plan),
            loss=state.loss,
            held_out_loss=state.held_out[-1],
            tokens_per_second=state.tokens / max(state.seconds, 1e-9),
            seconds_left=left * state.seconds / max(state.step, 1),
        )

    def _set_learning_rate(self, step: int) -> None:
        """Set the rate of a step: linear warmup, then cosine decay."""
        settings = self._settings
        warmup = max(1, round(settings.warmup_share * settings.steps))
        done = max(0.0, (step - warmup) / max(1, settings.steps - warmup))
        falling = settings.last_rate_share + (1 - settings.last_rate_share) * 0.5 * (1 + math.cos(math.pi * done))
        for group in self._optimizer.param_groups:
            group["lr"] = settings.learning_rate * min(1.0, (step + 1) / warmup) * falling

    def _look(self) -> None:
        state = self._state
        loss = self._objective.held_out_loss()
        state.held_out.append(loss)
        self._watch.point(f"{self._name}.held_out_loss", state.step, loss)
        if loss < state.held_out[state.best_look] or len(state.held_out) == 1:
            state.best_look, state.best_step = len(state.held_out) - 1, state.step
            self._best = self._copy_weights()

    def _is_over(self) -> bool:
        """Return True if the last `patience` held-out losses brought no new best."""
        return len(self._state.held_out) - 1 - self._state.best_look >= self._settings.patience

    def _copy_weights(self) -> dict[str, torch.Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self._parameters.items()}

    def _save(self) -> None:
        self._watch.flush()
        self._checkpoints.save(self._state, self._tensors())

    def _tensors(self) -> dict[str, torch.Tensor]:
        tensors = {f"weights/{name}": parameter.detach() for name, parameter in self._parameters.items()}
        tensors |= {f"best/{name}": weights for name, weights in self._best.items()}
        for name, parameter in self._parameters.items():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer/{name}/{key}"] = value
        return tensors

    def _restore(self) -> None:
        found = self._checkpoints.newest(self._state)
        if found is None:
            return
        self._state, tensors = found
        self._network.load(_below(tensors, "weights/"))
        self._best = _below(tensors, "best/")
        for name, parameter in self._parameters.items():
            state = _below(tensors, f"optimizer/{name}/")
            if state:
                self._optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in state.items()}


def _below(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def steps_for(count: int, examples_per_step: int, epochs: float, least: int = 30) -> int:
    """Return the steps of `epochs` epochs, but at least `least`: with fewer the learning rate hardly moves weights."""
    return max(least, math.ceil(count * epochs / examples_per_step))


log = logging.getLogger("myna.training")

KEPT = 2


@dataclass(slots=True)
class StageState:
    """Progress of a stage. `held_out` has every measured held-out loss, the first before any step."""

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
    """Checkpoints of one job as safetensors in its folder. The two newest of a stage are kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, state: StageState, tensors: dict[str, torch.Tensor]) -> None:
        """Write a checkpoint beside the others; a crash or a full disk leaves the one before. Raises `OSError`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
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
        """Return the newest intact checkpoint of a stage with the same settings, or None."""
        for path in self._of(wanted.name):
            content = path.read_bytes()
            try:
                if hashlib.sha256(content).hexdigest()[:16] != path.stem.rpartition("-")[2]:
                    raise ValueError("its content does not match its hash")
                state = StageState(**json.loads(_metadata(content)["state"]))
                tensors = load(content)
            except (ValueError, KeyError, TypeError, SafetensorError) as error:
                log.warning("skipping the damaged checkpoint %s: %s", path.name, error)
                continue
            if state.settings == json.loads(json.dumps(wanted.settings)):
                return state, tensors
            log.warning("skipping the checkpoint %s: it was made with other settings", path.name)
        return None

    def forget(self, stage: str | None = None) -> None:
        """Delete the checkpoints of a finished stage, or all of them."""
        for path in self._folder.glob(f"{stage}-*" if stage is not None else "*"):
            path.unlink(missing_ok=True)

    def _of(self, stage: str) -> list[Path]:
        return sorted(self._folder.glob(f"{stage}-*.checkpoint"), reverse=True)


def _metadata(content: bytes) -> dict[str, str]:
    """Read the metadata in a safetensors header: its length in eight bytes, then the header itself as JSON."""
    length = int.from_bytes(content[:8], "little")
    found: dict[str, str] = json.loads(content[8 : 8 + length])["__metadata__"]
    return found
