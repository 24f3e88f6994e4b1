"""A search for a better recipe: short trials on the same rows, judged by what is held out.

Knows: how trials are run and compared; the budget is a quarter of a training for each. Does not know: what is tried.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bot.training.checkpoints import Checkpoints
from bot.training.material import Material
from bot.training.network import LoraNetwork
from bot.training.objectives import Answers
from bot.training.recipe import SHARE_OF_A_TRIAL, Recipe, answer_stage, trials_of
from bot.training.trainer import Watch, run_stage

MOST_HELD_OUT = 48


def best_recipe(
    network: LoraNetwork, material: Material, recipe: Recipe, count: int, checkpoints: Checkpoints, watch: Watch
) -> Recipe:
    """The recipe whose trial ended with the lowest held-out loss. The network begins anew for each trial."""
    found: list[tuple[float, int, Recipe]] = []
    for number, trial in enumerate(trials_of(recipe, count)):
        network.begin_anew(trial.seed)
        whole = answer_stage(trial, len(material.train.answers))
        short = replace(whole, steps=max(10, round(whole.steps * SHARE_OF_A_TRIAL)), looks=2)
        objective = Answers(network, material.train.answers, material.held_out.answers[:MOST_HELD_OUT])
        told = _Trial(watch, number + 1, count)
        result = run_stage(f"trial-{number + 1}", network, objective, short, checkpoints, told)
        found.append((result.best_held_out_loss, number, trial))
    network.begin_anew(recipe.seed)
    return min(found)[2]


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
