"""A search for a better recipe: short trials on the same rows, judged by what is watched.

Knows: how trials are run and compared; the budget is a quarter of a training for each. Does not know: what is tried.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bot.errors import TrainingFailed
from bot.learning.train.material import Material
from bot.learning.train.network import LoraNetwork
from bot.learning.train.objectives import Answers
from bot.learning.train.recipe import SHARE_OF_A_TRIAL, Recipe, answer_stage, trials_of
from bot.learning.train.trainer import Checkpoints, Watch, run_stage

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
    """Each recipe with the lowest loss of its trial, None where that came to nothing. The network begins anew for each
    trial, and after the last.

    `losses` are those of trials that are over since before; `remember` is told of each new one.
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
        except TrainingFailed as error:  # a rate that is too high for these rows; others may not be
            log.info("%s: %s", name, error.message)
            losses = [*losses, None]
        remember(losses)
        checkpoints.forget(name)
    network.begin_anew(recipe.seed)
    return list(zip(trials, losses, strict=True))


class _Trial:
    """Tells whoever looks on which trial it is."""

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
