"""Evaluation report: every figure with its interval, the answers to look at, and its JSON form."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Label = Literal["base", "champion", "candidate"]
LABELS: tuple[Label, ...] = get_args(Label)

MeasureName = Literal[
    "loss",
    "perplexity",
    "question_gain",
    "rouge_l",
    "chrf",
    "length_ratio",
    "repetition",
    "loops",
    "stopped",
    "refused",
    "empty",
    "broken_rules",
]
# The title and unit of each, for tables and charts. A share is from 0 to 1.
MEASURES: Mapping[MeasureName, tuple[str, str]] = {
    "loss": ("Loss per token", "nats"),
    "perplexity": ("Perplexity", "per token"),
    "question_gain": ("What the question is worth", "nats per token"),
    "rouge_l": ("ROUGE-L", "F1"),
    "chrf": ("chrF", "share"),
    "length_ratio": ("Length", "of the reference"),
    "repetition": ("Repeated 4-grams", "share"),
    "loops": ("Endless repetition", "share"),
    "stopped": ("Stopped by itself", "share"),
    "refused": ("Refusals", "share"),
    "empty": ("Empty answers", "share"),
    "broken_rules": ("Rules broken", "share"),
}
MAX_ANSWERS = 100


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % confidence interval. All three are NaN if any number behind the figure is NaN."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3g} [{self.low:.3g}, {self.high:.3g}]"

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.mean)


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure of all contestants; `difference` is the candidate's minus the champion's, over the same rows."""

    values: Mapping[Label, Interval]
    difference: Interval


@dataclass(frozen=True, slots=True)
class SuiteReport:
    """The figures of one set of rows; `left_out` rows were too long for the model.

    `loss_growth` is the share by which the candidate's loss exceeds the base's.
    """

    rows: int
    left_out: int
    measures: Mapping[MeasureName, Measure]
    loss_growth: Interval | None = None


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """The answers of all contestants to the same messages, and the rules that each broke."""

    suite: str
    id: str
    messages: tuple[Mapping[str, str], ...]
    reference: str | None
    answers: Mapping[Label, str]
    broken: Mapping[Label, tuple[str, ...]]
    person_id: str | None = None


@dataclass(frozen=True, slots=True)
class Leakage:
    """Mean exposure of planted secrets in bits (Carlini et al., 2019): at most about 6.6, and about 1.4 by chance.

    `by_heart` counts the secrets that rank first or second of a hundred, so that they could be extracted.
    """

    secrets: int
    exposure: Mapping[Label, float]
    by_heart: Mapping[Label, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Judgements:
    """Votes of people who judged pairs blind."""

    candidate: int = 0
    champion: int = 0
    same: int = 0

    @property
    def total(self) -> int:
        return self.candidate + self.champion + self.same


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """The outcome of an evaluation. `names` are the contestants'; the champion is the base if both names are equal.

    `suites` has those used of held_out, general, safety and golden. `golden_broken` are the golden questions whose
    rules the candidate breaks and the champion keeps.
    """

    names: Mapping[Label, str]
    suites: Mapping[str, SuiteReport]
    golden_broken: tuple[str, ...] = ()
    leakage: Leakage | None = None
    answers: tuple[JudgedAnswer, ...] = ()
    seconds: float = 0.0


def report_as_json(report: EvaluationReport) -> dict[str, Any]:
    """Return plain lists, mappings and numbers; NaN and infinity become null, as JSON has neither."""
    plain: dict[str, Any] = _plain(dataclasses.asdict(report))
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def report_from_json(value: Mapping[str, Any]) -> EvaluationReport:
    """Read the form that `report_as_json` writes."""
    return EvaluationReport(
        names=value["names"],
        suites={name: _suite(suite) for name, suite in value["suites"].items()},
        golden_broken=tuple(value["golden_broken"]),
        leakage=Leakage(**value["leakage"]) if value["leakage"] else None,
        answers=tuple(_answer(answer) for answer in value["answers"]),
        seconds=value["seconds"],
    )


def _suite(value: Mapping[str, Any]) -> SuiteReport:
    measures = {name: _measure(measure) for name, measure in value["measures"].items()}
    growth = _interval(value["loss_growth"]) if value["loss_growth"] else None
    return SuiteReport(value["rows"], value["left_out"], measures, growth)


def _measure(value: Mapping[str, Any]) -> Measure:
    values = {label: _interval(interval) for label, interval in value["values"].items()}
    return Measure(values, _interval(value["difference"]))


def _interval(value: Mapping[str, float | None]) -> Interval:
    return Interval(**{name: math.nan if number is None else number for name, number in value.items()})


def _answer(value: Mapping[str, Any]) -> JudgedAnswer:
    broken = {label: tuple(rules) for label, rules in value["broken"].items()}
    return JudgedAnswer(**{**value, "messages": tuple(value["messages"]), "broken": broken})
