"""What the base says to everyday questions, to be learnt along: so that it is not forgotten over the new. And answers
by which it is seen whether it was.

Knows: the questions. Does not know: how many rows of a training should be these. The answers are the base's own: what
it said before is all that is to be kept (as in self-distillation, Shenfeld et al., 2026).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources

from bot.learning.judge.evaluation_rows import load_suite
from bot.learning.train.material import with_system_prompt
from bot.learning.train.network import LoraNetwork
from bot.learning.train.token_sequences import Row, render

MOST_ANSWER_TOKENS = 64
AT_ONCE = 32


def replay_rows(network: LoraNetwork, system_prompt: str, count: int, report: Callable[[int, int], None]) -> list[Row]:
    """At most `count` rows of everyday questions with what the base answers, likeliest words first."""
    questions = everyday_questions()[:count]
    rows: list[Row] = []
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
            rows.append(Row(token_ids, tuple(range(len(prompt), len(token_ids))), "everyday"))
    return rows


def known_rows(network: LoraNetwork, system_prompt: str) -> list[Row]:
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
