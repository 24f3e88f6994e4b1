"""What the base says to everyday questions, to be learnt along: so that it is not forgotten over the new. And answers
by which it is seen whether it was.

Knows: the questions. Does not know: how many rows of a training should be these. The answers are the base's own: what
it said before is all that is to be kept (as in self-distillation, Shenfeld et al., 2026).
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
    """At most `count` rows of everyday questions with what the base answers, likeliest words first."""
    questions = everyday_questions()[:count]
    rows: list[TokenRow] = []
    for begin in range(0, len(questions), AT_ONCE):
        report(begin, len(questions))
        asked = [
            network.tokenizer.encode(with_system_prompt([{"role": "user", "content": one}], system_prompt))
            for one in questions[begin : begin + AT_ONCE]
        ]
        with network.base_only():
            answers = network.answers(asked, MOST_ANSWER_TOKENS)
        for prompt, answer in zip(asked, answers, strict=True):
            token_ids = (*prompt, *answer)
            rows.append(TokenRow(token_ids, tuple(range(len(prompt), len(token_ids))), "everyday"))
    return rows


def known_rows(network: LoraNetwork, system_prompt: str) -> list[TokenRow]:
    """Good answers to questions of all kinds, which are never learnt: what a version should still be able to say."""
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
    """Short questions and remarks of all kinds, none of which the suites of the evaluation have."""
    text = resources.files("bot.learning.judge").joinpath("suites/everyday.txt").read_text(encoding="utf-8")
    return text.splitlines()


STRENGTHS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
# So much of what the held-out loss has gained must be left.
KEPT_GAIN = 0.93
# By so much the loss of what the base could may rise, and the gate's limit is kept with room (benchmarks/LOG.md).
MOST_FORGOTTEN = 0.08


def choose_strength(network: LoraNetwork, watched: Sequence[TokenRow], known: Sequence[TokenRow] = ()) -> float:
    """The least strength that keeps nearly all of the gain on rows that were not learnt; the network is left with it.

    The gain grows with the strength up to 1, so that halving what is left finds it. Where that forgets too much of
    what is `known` (answers to questions of all kinds), less is taken.
    """
    before, after = _loss(network, watched, 0.0), _loss(network, watched, 1.0)
    enough = before - KEPT_GAIN * (before - after)
    chosen = 1.0
    if after < before:
        place = bisect.bisect_left(
            STRENGTHS, True, key=lambda one: one == 1.0 or _loss(network, watched, one) <= enough
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
