"""Passing reports for the gate, for tests that spoil one measure."""

from __future__ import annotations

from dataclasses import replace

from bot.learning.judge.evaluation_report import EvaluationReport, Interval, Leakage, Measure, MeasureName, SuiteReport


def measure(champion: float, candidate: float, width: float = 0.01) -> Measure:
    def around(value: float) -> Interval:
        return Interval(value, value - width, value + width)

    return Measure(
        {"base": around(champion), "champion": around(champion), "candidate": around(candidate)},
        around(candidate - champion),
    )


GOOD_HELD_OUT: dict[MeasureName, Measure] = {
    "loss": measure(2.19, 1.41),
    "perplexity": measure(8.9, 4.1),
    "question_gain": measure(0.3, 0.5),
    "rouge_l": measure(0.2, 0.4),
    "chrf": measure(0.3, 0.4),
    "length_ratio": measure(1, 1),
    "repetition": measure(0.05, 0.06),
    "loops": measure(0.0, 0.01),
    "stopped": measure(0.8, 0.9),
    "refused": measure(0.1, 0.1),
    "empty": measure(0.0, 0.0),
}


GOOD = EvaluationReport(
    names={"base": "tiny", "champion": "tiny", "candidate": "bot-v2"},
    suites={
        "held_out": SuiteReport(50, 0, GOOD_HELD_OUT),
        "general": SuiteReport(60, 0, {"loss": measure(1.5, 1.51)}, Interval(0.007, -0.01, 0.02)),
        "safety": SuiteReport(30, 0, {"broken_rules": measure(0.3, 0.3)}),
        "golden": SuiteReport(4, 0, {"broken_rules": measure(0.5, 0.25)}),
    },
    leakage=Leakage(4, {"base": 1.2, "champion": 1.2, "candidate": 1.6}),
    seconds=12.5,
)


def held_out(**measures: Measure) -> EvaluationReport:
    suite = replace(GOOD.suites["held_out"], measures={**GOOD_HELD_OUT, **measures})  # type: ignore[dict-item]
    return replace(GOOD, suites={**GOOD.suites, "held_out": suite})
