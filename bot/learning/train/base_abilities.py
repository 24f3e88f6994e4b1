"""Protection against catastrophic forgetting: replay and weight interpolation.

Replay trains on the base's own answers to everyday questions (self-distillation, Shenfeld et al., 2026). Interpolation
scales the trained LoRA weights down: a little less costs next to nothing on the new rows, and keeps much of the base's
abilities (Wortsman et al., 2022).
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from importlib import resources

from bot.learning.judge.evaluation_rows import load_suite
from bot.learning.train.material import TokenRow, render, with_system_prompt
from bot.learning.train.network import LoraNetwork
from bot.learning.train.objectives import answer_logps

MOST_ANSWER_TOKENS = 64
AT_ONCE = 32


def replay_rows(
    network: LoraNetwork, system_prompt: str, count: int, report: Callable[[int, int], None]
) -> list[TokenRow]:
    """Return at most `count` rows of everyday questions with the base's greedy answers.

    `report(done, total)` counts the questions.
    """
    questions = everyday_questions()[:count]
    rows: list[TokenRow] = []
    for begin in range(0, len(questions), AT_ONCE):
        report(begin, len(questions))
        asked = [
            network.tokenizer.encode(with_system_prompt([{"role": "user", "content": question}], system_prompt))
            for question in questions[begin : begin + AT_ONCE]
        ]
        with network.base_only():
            answers = network.answers(asked, MOST_ANSWER_TOKENS)
        for prompt, answer in zip(asked, answers, strict=True):
            token_ids = (*prompt, *answer)
            rows.append(TokenRow(token_ids, tuple(range(len(prompt), len(token_ids))), "everyday"))
    return rows


def known_rows(network: LoraNetwork, system_prompt: str) -> list[TokenRow]:
    """Return reference answers of the `kept` suite, which are never trained on: a version should still know them."""
    return [
        render(
            with_system_prompt(row.messages, system_prompt),
            row.reference or "",
            network.tokenizer,
            network.end_of_turn,
            row.id,
        )
        for row in load_suite("kept")
    ]


def everyday_questions() -> list[str]:
    """Return short questions and remarks on all topics, none of them in the evaluation's suites."""
    text = resources.files("bot.learning.judge").joinpath("suites/everyday.txt").read_text(encoding="utf-8")
    return text.splitlines()


STRENGTHS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
# Share of the gain in held-out loss that must be left.
KEPT_GAIN = 0.93
# Greatest rise of the loss on known answers, as a share: well within the gate's limit (benchmarks/LOG.md).
MOST_FORGOTTEN = 0.08


def choose_strength(network: LoraNetwork, watched: Sequence[TokenRow], known: Sequence[TokenRow] = ()) -> float:
    """Set and return the least strength that keeps nearly all of the gain on the `watched` rows.

    The gain grows with the strength up to 1, so that bisection finds it. Where the `known` rows lose too much with that
    strength, a lower one is taken.
    """
    before, after = _loss(network, watched, 0.0), _loss(network, watched, 1.0)
    enough = before - KEPT_GAIN * (before - after)
    chosen = 1.0
    if after < before:
        place = bisect.bisect_left(
            STRENGTHS, True, key=lambda strength: strength == 1.0 or _loss(network, watched, strength) <= enough
        )
        chosen = _remembering(network, known, place)
    network.set_strength(chosen)
    return chosen


def _remembering(network: LoraNetwork, known: Sequence[TokenRow], place: int) -> float:
    most = _loss(network, known, 0.0) * (1 + MOST_FORGOTTEN) if known else 0.0
    while known and place > 0 and _loss(network, known, STRENGTHS[place]) > most:
        place -= 1
    return STRENGTHS[place]


def _loss(network: LoraNetwork, rows: Sequence[TokenRow], strength: float) -> float:
    network.set_strength(strength)
    return -float(answer_logps(network, rows).sum()) / sum(len(row.learnt) for row in rows)
