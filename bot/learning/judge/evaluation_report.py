"""What came of an evaluation: every figure with its interval, and the answers that people may look at.

Knows: the shape of a report, and its form as JSON. Does not know: how figures are made, which are good enough.
"""

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
# Each with its unit, for tables and charts. A share is from 0 to 1.
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
    """A figure and where it lies with 95 % confidence. All three are NaN if a number that it comes from is."""

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
    """One figure of all contestants; `difference` is the candidate's less the champion's, over the same rows."""

    values: Mapping[Label, Interval]
    difference: Interval


@dataclass(frozen=True, slots=True)
class SuiteReport:
    """What was measured on one set of rows; `left_out` were too long for the model.

    `loss_growth` is by which share the candidate's loss lies above the base's.
    """

    rows: int
    left_out: int
    measures: Mapping[MeasureName, Measure]
    loss_growth: Interval | None = None


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """What each contestant said to the same messages, and which rules it broke."""

    suite: str
    id: str
    messages: tuple[Mapping[str, str], ...]
    reference: str | None
    answers: Mapping[Label, str]
    broken: Mapping[Label, tuple[str, ...]]
    person_id: str | None = None


@dataclass(frozen=True, slots=True)
class Leakage:
    """How far planted secrets stick out among others like them: bits, at most about 6.6; about 1.4 by chance.

    `by_heart` counts those that are the first or second of a hundred, so that they could be asked out.
    """

    secrets: int
    exposure: Mapping[Label, float]
    by_heart: Mapping[Label, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Judgements:
    """What people thought who did not know which answer was whose."""

    candidate: int = 0
    champion: int = 0
    same: int = 0

    @property
    def total(self) -> int:
        return self.candidate + self.champion + self.same


@dataclass(frozen=True, slots=True)
class Report:
    """An evaluation. `names` are those of the contestants; the champion is the base where both are the same.

    `suites` are held_out, general, safety and golden, those that were used. `golden_broken` are the questions that the
    champion answers by their rules and the candidate does not.
    """

    names: Mapping[Label, str]
    suites: Mapping[str, SuiteReport]
    golden_broken: tuple[str, ...] = ()
    leakage: Leakage | None = None
    answers: tuple[JudgedAnswer, ...] = ()
    seconds: float = 0.0


def report_as_json(report: Report) -> dict[str, Any]:
    """Plain lists, mappings and numbers; what is no number is null, since JSON has no other word for it."""
    plain: dict[str, Any] = _plain(dataclasses.asdict(report))
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def report_from_json(value: Mapping[str, Any]) -> Report:
    """What `report_as_json` gave."""
    return Report(
        names=value["names"],
        suites={name: _suite(one) for name, one in value["suites"].items()},
        golden_broken=tuple(value["golden_broken"]),
        leakage=Leakage(**value["leakage"]) if value["leakage"] else None,
        answers=tuple(_answer(one) for one in value["answers"]),
        seconds=value["seconds"],
    )


def _suite(value: Mapping[str, Any]) -> SuiteReport:
    measures = {name: _measure(one) for name, one in value["measures"].items()}
    growth = _interval(value["loss_growth"]) if value["loss_growth"] else None
    return SuiteReport(value["rows"], value["left_out"], measures, growth)


def _measure(value: Mapping[str, Any]) -> Measure:
    return Measure({label: _interval(one) for label, one in value["values"].items()}, _interval(value["difference"]))


def _interval(value: Mapping[str, float | None]) -> Interval:
    return Interval(**{name: math.nan if one is None else one for name, one in value.items()})


def _answer(value: Mapping[str, Any]) -> JudgedAnswer:
    broken = {label: tuple(rules) for label, rules in value["broken"].items()}
    return JudgedAnswer(**{**value, "messages": tuple(value["messages"]), "broken": broken})
