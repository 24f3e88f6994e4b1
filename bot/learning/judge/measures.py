"""The figures of one suite, out of what every contestant answered and how likely it found the references.

Knows: which figure comes from what, and that all contestants are compared on the same rows. Does not know: models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bot.learning.judge import text_scores
from bot.learning.judge.answer_loss import AnswerLoss
from bot.learning.judge.answer_rules import AnswerRules
from bot.learning.judge.bootstrap import Bootstrap
from bot.learning.judge.evaluation_report import LABELS, Interval, Label, Measure, MeasureName, SuiteReport
from storage.values import Quotation


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """Something to ask: `messages` are `{"role", "content"}`, the user's last; a row has a reference, rules or both."""

    id: str
    messages: tuple[Mapping[str, str], ...]
    reference: str | None = None
    rules: AnswerRules | None = None
    person_id: str | None = None
    passages: tuple[Quotation, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a contestant said, and whether it ended that by itself."""

    text: str
    stopped: bool


@dataclass(slots=True)
class Taken:
    """What one contestant did with the rows of a suite.

    `answers` are to the first rows, `losses` of the references of all rows, and `foreign_losses` of those of the first
    rows behind other rows' questions.
    """

    answers: list[Answer] = field(default_factory=list)
    losses: list[AnswerLoss] = field(default_factory=list)
    foreign_losses: list[AnswerLoss] = field(default_factory=list)


OfAnswer = Callable[[EvaluationRow, Answer], float]
_OF_ANSWERS: Mapping[MeasureName, OfAnswer] = {
    "repetition": lambda _row, answer: text_scores.repetition(answer.text),
    "loops": lambda _row, answer: float(text_scores.ends_in_loop(answer.text)),
    "stopped": lambda _row, answer: float(answer.stopped),
    "refused": lambda _row, answer: float(text_scores.is_refusal(answer.text)),
    "empty": lambda _row, answer: float(not answer.text.strip()),
}
_BESIDE_REFERENCES: Mapping[MeasureName, OfAnswer] = {
    "rouge_l": lambda row, answer: text_scores.rouge_l(answer.text, row.reference or ""),
    "chrf": lambda row, answer: text_scores.chrf(answer.text, row.reference or ""),
    "length_ratio": lambda row, answer: text_scores.length_ratio(answer.text, row.reference or ""),
}
_BY_RULES: Mapping[MeasureName, OfAnswer] = {
    "broken_rules": lambda row, answer: float(bool(row.rules and row.rules.broken(answer.text)))
}


def measure_suite(rows: Sequence[EvaluationRow], taken: Mapping[Label, Taken], left_out: int = 0) -> SuiteReport:
    """All figures that the rows allow: losses where they have references, broken rules where they have rules."""
    measures: dict[MeasureName, Measure] = {}
    growth = None
    if taken["base"].losses:
        losses, growth = _measure_losses(taken)
        measures |= losses
    if taken["base"].foreign_losses:
        measures["question_gain"] = _measure_question_gain(taken)
    answered = rows[: len(taken["base"].answers)]
    if answered:
        wanted = dict(_OF_ANSWERS)
        wanted |= _BESIDE_REFERENCES if all(row.reference is not None for row in answered) else {}
        wanted |= _BY_RULES if any(row.rules is not None for row in answered) else {}
        measures |= _measure_answers(answered, taken, wanted)
    return SuiteReport(len(rows), left_out, measures, growth)


def _measure_losses(taken: Mapping[Label, Taken]) -> tuple[dict[MeasureName, Measure], Interval | None]:
    counted = [place for place, one in enumerate(taken["base"].losses) if one.tokens]
    if not counted:
        return {}, None
    tokens = [float(taken["base"].losses[place].tokens) for place in counted]
    nll = {label: [taken[label].losses[place].nll for place in counted] for label in LABELS}
    draws = Bootstrap(len(counted))
    loss = Measure(
        {label: draws.ratio(nll[label], tokens) for label in LABELS},
        draws.ratio_difference(nll["candidate"], nll["champion"], tokens),
    )
    perplexity = Measure(
        {label: draws.perplexity(nll[label], tokens) for label in LABELS},
        draws.perplexity_difference(nll["candidate"], nll["champion"], tokens),
    )
    return {"loss": loss, "perplexity": perplexity}, draws.growth(nll["candidate"], nll["base"])


def _measure_question_gain(taken: Mapping[Label, Taken]) -> Measure:
    """By how much an answer is likelier behind its own question: what remains of it when answers are shuffled."""
    count = len(taken["base"].foreign_losses)

    def gains(label: Label) -> list[float]:
        own, foreign = taken[label].losses[:count], taken[label].foreign_losses
        # Behind a longer question less of an answer may fit the window, so both are taken a token.
        return [_per_token(other) - _per_token(mine) for mine, other in zip(own, foreign, strict=True)]

    draws = Bootstrap(count)
    all_gains = {label: gains(label) for label in LABELS}
    return Measure(
        {label: draws.mean(all_gains[label]) for label in LABELS},
        draws.mean_difference(all_gains["candidate"], all_gains["champion"]),
    )


def _per_token(loss: AnswerLoss) -> float:
    return loss.nll / loss.tokens if loss.tokens else 0.0


def _measure_answers(
    rows: Sequence[EvaluationRow], taken: Mapping[Label, Taken], wanted: Mapping[MeasureName, OfAnswer]
) -> dict[MeasureName, Measure]:
    draws = Bootstrap(len(rows))
    measures: dict[MeasureName, Measure] = {}
    for name, of_answer in wanted.items():
        values = {
            label: [of_answer(row, answer) for row, answer in zip(rows, taken[label].answers, strict=True)]
            for label in LABELS
        }
        measures[name] = Measure(
            {label: draws.mean(values[label]) for label in LABELS},
            draws.mean_difference(values["candidate"], values["champion"]),
        )
    return measures
