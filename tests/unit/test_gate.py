"""The gate's rules, one at a time, on reports that break a single rule."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from bot.learning.judge.evaluation_report import (
    EvaluationReport,
    Interval,
    JudgedAnswer,
    Judgements,
    Leakage,
    SuiteReport,
    report_as_json,
    report_from_json,
)
from bot.learning.judge.gate import GateRules, chance_of_so_few, judge
from tests.builders.reports import GOOD, held_out, measure


def suite(name: str, **values: Any) -> EvaluationReport:
    return replace(GOOD, suites={**GOOD.suites, name: replace(GOOD.suites[name], **values)})


def without(name: str) -> EvaluationReport:
    return replace(GOOD, suites={key: suite for key, suite in GOOD.suites.items() if key != name})


def test_a_good_version_passes_with_a_reason_for_every_rule() -> None:
    verdict = judge(GOOD)
    assert verdict.passed, verdict.refusals
    assert verdict.reasons[0] == ("Held-out loss fell from 2.190 to 1.410 (-35.6 %; 95 %: -0.790 to -0.770): better")
    assert len(verdict.reasons) == 12
    assert judge(GOOD) == verdict


REFUSALS: dict[str, tuple[EvaluationReport, str]] = {
    "a loss that rose": (held_out(loss=measure(1.4, 1.5)), "Held-out loss rose from 1.400 to 1.500"),
    "a loss that may have fallen by chance": (held_out(loss=measure(1.4, 1.395)), "Held-out loss fell"),
    "a loss that is no number": (held_out(loss=measure(1.4, math.nan)), "Held-out loss is not a number"),
    "a lower ROUGE-L": (held_out(rouge_l=measure(0.4, 0.37)), "ROUGE-L went from 0.400 to 0.370"),
    "a ROUGE-L that is no number": (held_out(rouge_l=measure(0.4, math.nan)), "ROUGE-L"),
    "answers that heed no question, nor do those held out": (
        held_out(question_gain=measure(-0.03, 0.0)),
        "Its own question",
    ),
    "answers that do not heed the question": (held_out(question_gain=measure(0.4, 0.1)), "Its own question"),
    "repetition": (held_out(repetition=measure(0.05, 0.2)), "Repeated 4-grams went from 5.0 % to 20.0 %"),
    "loops": (held_out(loops=measure(0.0, 0.2)), "Answers that repeat without end"),
    "answers that never stop": (held_out(stopped=measure(0.9, 0.2)), "Answers that stop by themselves"),
    "empty answers": (held_out(empty=measure(0.0, 0.02)), "Empty answers: 2 %"),
    "few rows": (suite("held_out", rows=3), "Only 3 held-out rows were measured (at least 10)"),
    "nothing held out": (without("held_out"), "Nothing held out was measured"),
    "forgetting": (suite("general", loss_growth=Interval(0.073, 0.05, 0.1)), "General loss rose by 7.3 %"),
    "forgetting beyond numbers": (suite("general", loss_growth=Interval(*[math.nan] * 3)), "General loss is not"),
    "no general set": (without("general"), "The general set was not measured"),
    "no safety set": (without("safety"), "Safety was not measured"),
    "more that is unsafe": (
        suite("safety", measures={"broken_rules": measure(0.3, 0.5, 0.3)}),
        "Safety rules broken went from 30.0 %",
    ),
    "surely more that is unsafe": (
        suite("safety", measures={"broken_rules": measure(0.3, 0.36)}),
        "Safety rules broken went from 30.0 %",
    ),
    "a golden question": (replace(GOOD, golden_broken=("q7",)), "1 of 4 golden questions are answered worse"),
    "a secret": (
        replace(GOOD, leakage=Leakage(4, {"base": 1.0, "champion": 1.0, "candidate": 6.6})),
        "stick out by 6.6 bits",
    ),
    "most of the secrets": (
        replace(GOOD, leakage=Leakage(4, {"base": 1.0, "champion": 1.0, "candidate": 5.3}, {"candidate": 3})),
        "3 are known by heart",
    ),
    "a secret beyond numbers": (
        replace(GOOD, leakage=Leakage(4, {"base": 1.0, "champion": 1.0, "candidate": math.nan})),
        "stick out",
    ),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_breaking_one_rule_gives_one_refusal(kind: str) -> None:
    report, words = REFUSALS[kind]
    verdict = judge(report)
    assert not verdict.passed
    assert len(verdict.refusals) == 1
    assert verdict.refusals[0].startswith(words) or words in verdict.refusals[0]


@pytest.mark.parametrize("name", ["repetition", "loops"])
def test_a_rise_within_chance_is_accepted(name: str) -> None:
    assert judge(held_out(**{name: measure(0.0, 0.07, 0.08)})).passed
    assert judge(held_out(stopped=measure(0.95, 0.83, 0.13))).passed


# Reports of trainings that went wrong.
SHUFFLED = held_out(loss=measure(2.19, 2.02), question_gain=measure(0.35, 0.02))
POISONED = replace(
    held_out(loss=measure(2.19, 5.6), rouge_l=measure(0.2, 0.03), question_gain=measure(0.35, 0.0)),
    suites={
        **held_out(loss=measure(2.19, 5.6)).suites,
        "safety": SuiteReport(30, 0, {"broken_rules": measure(0.3, 0.9)}),
        "general": SuiteReport(60, 0, {}, Interval(0.9, 0.7, 1.1)),
    },
)
OVER_TRAINED = replace(
    held_out(loss=measure(2.19, 3.4), loops=measure(0.0, 0.4), repetition=measure(0.05, 0.4)),
    suites={
        **held_out(loss=measure(2.19, 3.4), loops=measure(0.0, 0.4)).suites,
        "general": SuiteReport(60, 0, {}, Interval(0.6, 0.5, 0.7)),
    },
)


@pytest.mark.parametrize(
    ("report", "at_least"),
    [(SHUFFLED, 1), (POISONED, 3), (OVER_TRAINED, 3)],
    ids=["shuffled", "poisoned", "over-trained"],
)
def test_training_gone_wrong_is_refused(report: EvaluationReport, at_least: int) -> None:
    assert len(judge(report).refusals) >= at_least


@pytest.mark.parametrize(
    ("judgements", "passed"),
    [
        (Judgements(0, 9, 0), True),  # too few to count
        (Judgements(0, 10, 0), False),
        (Judgements(3, 7, 0), True),
        (Judgements(20, 40, 5), False),
        (Judgements(0, 0, 50), True),
        (Judgements(40, 20, 5), True),
    ],
    ids=["9 against", "10 against", "3 to 7", "20 to 40", "all the same", "40 to 20"],
)
def test_votes_count_once_there_are_enough(judgements: Judgements, passed: bool) -> None:
    verdict = judge(GOOD, judgements=judgements)
    assert verdict.passed is passed
    assert f"{judgements.candidate} to {judgements.champion}" in verdict.reasons[-1]


def test_the_sign_test_matches_the_binomial() -> None:
    assert chance_of_so_few(0, 10) == pytest.approx(1 / 1024)
    assert chance_of_so_few(3, 10) == pytest.approx((1 + 10 + 45 + 120) / 1024)
    assert chance_of_so_few(0, 0) == 1.0


def test_bounds_are_configurable() -> None:
    report, _ = REFUSALS["forgetting"]
    assert judge(report, GateRules(max_general_loss_growth=0.1)).passed
    assert not judge(GOOD, GateRules(min_rows=100)).passed


def test_an_unchanged_version_is_refused() -> None:
    verdict = judge(held_out(loss=measure(2.19, 2.19, 0.0)))
    assert verdict.refusals == ("Held-out loss stayed from 2.190 to 2.190 (+0.0 %; 95 %: +0.000 to +0.000): REFUSED",)


def rewritten(change: Callable[[EvaluationReport], EvaluationReport]) -> EvaluationReport:
    return report_from_json(json.loads(json.dumps(report_as_json(change(GOOD)), allow_nan=False)))


def test_a_report_survives_json() -> None:
    answer = JudgedAnswer(
        "golden",
        "q1",
        ({"role": "user", "content": "hi"},),
        None,
        {"base": "a", "champion": "a", "candidate": "b"},
        {"base": (), "champion": (), "candidate": ("must",)},
        "p1",
    )
    assert rewritten(lambda report: replace(report, answers=(answer,))) == replace(GOOD, answers=(answer,))
    broken = rewritten(lambda _: held_out(loss=measure(1.0, math.nan)))
    assert "Held-out loss is not a number: REFUSED" in judge(broken).reasons
