"""How a training is run: sizes, rates and steps, scaled with what there is to learn from.

Knows: what worked on the starter model with tens to thousands of rows (benchmarks/LOG.md). Does not know: loops, data.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bot.learning.train.material import Material
from bot.learning.train.trainer import StageSettings, steps_for

SHARE_OF_A_TRIAL = 0.25


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is chosen for a training; `epochs` is how often each row is learnt from, unless it ends early."""

    rank: int = 16
    alpha: float = 32.0
    learning_rate: float = 1e-3
    rows_per_step: int = 8
    epochs: float = 2.0
    preference_rate: float = 5e-5
    seed: int = 1


def recipe_for(material: Material, wanted: Mapping[str, Any]) -> Recipe:
    """The recipe for so many rows, less what somebody has `wanted` otherwise (`learning_rate`, `epochs`, ...)."""
    rows = len(material.train.answers)
    chosen = Recipe(rows_per_step=4 if rows < 200 else 8 if rows < 2000 else 16, epochs=2.0 if rows < 2000 else 1.0)
    return replace(chosen, **{name: wanted[name] for name in Recipe.__slots__ if wanted.get(name) is not None})


def answer_stage(recipe: Recipe, rows: int) -> StageSettings:
    """The stage that learns answers."""
    steps = steps_for(rows, recipe.rows_per_step, recipe.epochs)
    return StageSettings(steps, recipe.rows_per_step, recipe.learning_rate, seed=recipe.seed)


def preference_stage(recipe: Recipe, examples: int) -> StageSettings:
    """The stage that learns from pairs or thumbs, once through all of them, carefully."""
    steps = steps_for(examples, recipe.rows_per_step, 1.0, least=10)
    return StageSettings(steps, recipe.rows_per_step, recipe.preference_rate, looks=4, patience=2, seed=recipe.seed)


def trials_of(recipe: Recipe, count: int) -> list[Recipe]:
    """The recipe itself and `count` - 1 others near it, the same for the same seed."""
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
