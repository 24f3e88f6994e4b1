"""Hyperparameters of a training, and a random search for better ones.

The defaults were measured on the starter model with tens to thousands of rows (benchmarks/LOG.md).
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bot.errors import TrainingFailed
from bot.learning.train.material import Material
from bot.learning.train.network import LoraNetwork
from bot.learning.train.objectives import Answers
from bot.learning.train.trainer import Checkpoints, StageSettings, Watch, run_stage, steps_for

SHARE_OF_A_TRIAL = 0.25


@dataclass(frozen=True, slots=True)
class Recipe:
    """Hyperparameters of a training. Early stopping may end it before its `epochs`."""

    rank: int = 16
    alpha: float = 32.0
    learning_rate: float = 1e-3
    rows_per_step: int = 8
    epochs: float = 2.0
    preference_rate: float = 5e-5
    seed: int = 1


def recipe_for(material: Material, wanted: Mapping[str, Any]) -> Recipe:
    """Return the default recipe for the number of rows, with the `wanted` values (`learning_rate`, ...) in place."""
    rows = len(material.train.answers)
    chosen = Recipe(rows_per_step=4 if rows < 200 else 8 if rows < 2000 else 16, epochs=2.0 if rows < 2000 else 1.0)
    return replace(chosen, **{name: wanted[name] for name in Recipe.__slots__ if wanted.get(name) is not None})


def answer_stage(recipe: Recipe, rows: int) -> StageSettings:
    """Return the settings of the stage that learns answers."""
    steps = steps_for(rows, recipe.rows_per_step, recipe.epochs)
    return StageSettings(steps, recipe.rows_per_step, recipe.learning_rate, seed=recipe.seed)


def preference_stage(recipe: Recipe, examples: int) -> StageSettings:
    """Return the settings of a stage of pairs or thumbs: one epoch, at a low rate."""
    steps = steps_for(examples, recipe.rows_per_step, 1.0, least=10)
    return StageSettings(steps, recipe.rows_per_step, recipe.preference_rate, looks=4, patience=2, seed=recipe.seed)


def trials_of(recipe: Recipe, count: int) -> list[Recipe]:
    """Return the recipe and `count` - 1 random variations of it, the same for the same seed."""
    source = random.Random(recipe.seed)
    others = [
        replace(
            recipe,
            learning_rate=float(f"{recipe.learning_rate * 4 ** source.uniform(-1, 1):.2g}"),
            rows_per_step=source.choice((4, 8, 16)),
        )
        for _ in range(count - 1)
    ]
    return [recipe, *others]


log = logging.getLogger("myna.training")


def run_trials(
    network: LoraNetwork,
    material: Material,
    recipe: Recipe,
    count: int,
    checkpoints: Checkpoints,
    watch: Watch,
    losses: list[float | None],
    remember: Callable[[list[float | None]], None],
) -> list[tuple[Recipe, float | None]]:
    """Train each recipe shortly. Returns each with its lowest held-out loss, None if its trial failed.

    `losses` has the results of trials that an earlier attempt finished; `remember` gets the list after each new trial.
    The network's weights are reset before each trial and after the last.
    """
    trials = trials_of(recipe, count)
    for number, trial in enumerate(trials[len(losses) :], len(losses) + 1):
        network.begin_anew(trial.seed)
        whole = answer_stage(trial, len(material.train.answers))
        short = replace(whole, steps=max(10, round(whole.steps * SHARE_OF_A_TRIAL)), looks=2)
        objective = Answers(network, material.train.answers, material.watched.answers)
        name = f"trial-{number}"
        try:
            result = run_stage(name, network, objective, short, checkpoints, _Trial(watch, number, count))
            losses = [*losses, result.best_held_out_loss]
        except TrainingFailed as error:  # a rate too high for these rows; other recipes may work
            log.info("%s: %s", name, error.message)
            losses = [*losses, None]
        remember(losses)
        checkpoints.forget(name)
    network.begin_anew(recipe.seed)
    return list(zip(trials, losses, strict=True))


class _Trial:
    """Pass progress on with the number of the trial as its phase."""

    def __init__(self, watch: Watch, number: int, count: int) -> None:
        self._watch, self._number, self._count = watch, number, count

    def progress(self, **fields: Any) -> None:
        self._watch.progress(**{**fields, "phase": f"trial {self._number} of {self._count}"})

    def point(self, series: str, step: int, value: float) -> None:
        self._watch.point(series, step, value)

    def check(self) -> None:
        self._watch.check()

    def flush(self) -> None:
        self._watch.flush()
