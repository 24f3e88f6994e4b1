"""`myna` whose trainings repeat less and are judged on less: each row takes seconds with one core and no bf16.

Run as `python -m tests.tools.short_training COMMAND`.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from adapters.cli import main as cli
from bot.learning.judge import judging
from bot.learning.judge.evaluation_rows import load_suite
from bot.learning.judge.measures import EvaluationRow
from bot.learning.train import base_abilities, train_job
from bot.learning.train.recipe import Recipe, answer_stage
from bot.learning.train.trainer import StageSettings

ROWS = 8


def load_short_suite(name: Any) -> tuple[EvaluationRow, ...]:
    return load_suite(name)[:ROWS]


def short_stage(recipe: Recipe, rows: int) -> StageSettings:
    return replace(answer_stage(recipe, rows), steps=20, examples_per_step=3, learning_rate=2e-3, looks=2)


def main(argv: list[str]) -> int:
    judging.load_suite = load_short_suite
    base_abilities.load_suite = load_short_suite
    train_job.MIN_REPLAY = ROWS
    train_job.answer_stage = short_stage
    return cli.main(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
