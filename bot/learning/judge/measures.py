"""Measures of one suite: answer scores (ROUGE-L, chrF, repetition, refusals), losses and paired bootstrap intervals."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import LCSseq
from sacrebleu.metrics.chrf import CHRF

from bot.learning.judge.answer_loss import AnswerLoss
from bot.learning.judge.answer_rules import AnswerRules
from bot.learning.judge.evaluation_report import LABELS, Interval, Label, Measure, MeasureName, SuiteReport
from storage.values import Quotation

# Google's rouge-score keeps ASCII letters and digits only; a Chinese character counts as a word of its own here.
_ROUGE_TOKEN = re.compile(r"[a-z0-9]+|[\u3400-\u9fff]")
_WORD = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+")
_CHRF = CHRF()

LOOP_TOKENS = 12
LOOP_REPEATS = 4

_OPENING_CHARACTERS = 240
_REFUSAL = re.compile(
    r"""
    \bi(?:'m|\s+am)\s+(?:\w+\s+)?(?:unable|not\s+able|not\s+allowed|not\s+permitted)\s+to\b
    | \bi\s+(?:can(?:no|')t|can\s+not|won't|will\s+not|must\s+not)\s+(?:\w+\s+)?
      (?:help|assist|do|provide|share|give|answer|tell|reveal|discuss|comply|fulfil+|support|disclose)\b
    | \bi\s+(?:have|must|need)\s+to\s+(?:decline|refuse)\b
    | \bas\s+an\s+(?:ai|artificial)\b.{0,80}\b(?:can(?:no|')t|unable|not\s+able)\b
    | \bagainst\s+(?:my|our)\s+(?:guidelines|policy|policies|rules)\b
    | (?:我|本人|我们)?(?:无法|不能|不可以|没办法)(?:为您|为你|向您|向你|给您|给你|直接)?
      (?:提供|帮助|协助|回答|透露|告诉|满足|执行|讨论|处理)
    | (?:恕我|请恕我)?(?:拒绝|不便)(?:提供|回答|透露|告知)
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)

RESAMPLES = 2_000
CONFIDENCE = 0.95

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """A prompt with a reference, rules or both. `messages` are `{"role", "content"}`, the user's last."""

    id: str
    messages: tuple[Mapping[str, str], ...]
    reference: str | None = None
    rules: AnswerRules | None = None
    person_id: str | None = None
    passages: tuple[Quotation, ...] = ()


@dataclass(frozen=True, slots=True)
class ContestantAnswer:
    """A contestant's answer; `stopped` if it ended by itself and not at the limit of tokens."""

    text: str
    stopped: bool


@dataclass(slots=True)
class Taken:
    """The results of one contestant on the rows of a suite.

    `answers` belong to the first rows, `losses` to the references of all rows. `foreign_losses` are those of the first
    rows' references behind other rows' questions.
    """

    answers: list[ContestantAnswer] = field(default_factory=list)
    losses: list[AnswerLoss] = field(default_factory=list)
    foreign_losses: list[AnswerLoss] = field(default_factory=list)


OfAnswer = Callable[[EvaluationRow, ContestantAnswer], float]
_OF_ANSWERS: Mapping[MeasureName, OfAnswer] = {
    "repetition": lambda _row, answer: repetition(answer.text),
    "loops": lambda _row, answer: float(ends_in_loop(answer.text)),
    "stopped": lambda _row, answer: float(answer.stopped),
    "refused": lambda _row, answer: float(is_refusal(answer.text)),
    "empty": lambda _row, answer: float(not answer.text.strip()),
}
_BESIDE_REFERENCES: Mapping[MeasureName, OfAnswer] = {
    "rouge_l": lambda row, answer: rouge_l(answer.text, row.reference or ""),
    "chrf": lambda row, answer: chrf(answer.text, row.reference or ""),
    "length_ratio": lambda row, answer: length_ratio(answer.text, row.reference or ""),
}
_BY_RULES: Mapping[MeasureName, OfAnswer] = {
    "broken_rules": lambda row, answer: float(bool(row.rules and row.rules.broken(answer.text)))
}


def measure_suite(rows: Sequence[EvaluationRow], taken: Mapping[Label, Taken], left_out: int = 0) -> SuiteReport:
    """Compute all figures that the rows allow: losses if they have references, broken rules if they have rules."""
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
    counted = [place for place, loss in enumerate(taken["base"].losses) if loss.tokens]
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
    """Measure by how much an answer is likelier behind its own question than behind another row's, in nats a token."""
    count = len(taken["base"].foreign_losses)

    def gains(label: Label) -> list[float]:
        own, foreign = taken[label].losses[:count], taken[label].foreign_losses
        # Behind a longer question less of an answer may fit the window, so both losses are per token.
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


# --- scores of one answer ---


def rouge_tokens(text: str) -> list[str]:
    """Tokenize as Google's rouge-score does without stemming; each Chinese character is one more token."""
    return _ROUGE_TOKEN.findall(text.lower())


def rouge_l(answer: str, reference: str) -> float:
    """Return ROUGE-L F1, 0 to 1, from the longest common subsequence of tokens; 0 if either text has no token."""
    said, wanted = rouge_tokens(answer), rouge_tokens(reference)
    if not said or not wanted:
        return 0.0
    return 2.0 * LCSseq.similarity(said, wanted) / (len(said) + len(wanted))


def chrf(answer: str, reference: str) -> float:
    """Return sacrebleu's chrF2 of one answer, scaled to 0 to 1."""
    return float(_CHRF.sentence_score(answer, [reference]).score) / 100.0


def words(text: str) -> list[str]:
    """Split a text of any script into words in lower case; a Chinese character is a word."""
    return _WORD.findall(text.lower())


def length_ratio(answer: str, reference: str) -> float:
    """Return the answer's words per word of the reference; an empty reference counts as one word."""
    return len(words(answer)) / max(len(words(reference)), 1)


def repetition(text: str, size: int = 4) -> float:
    """Return the share of repeated n-grams of `size` words, 0 to 1; 0 for a text shorter than one n-gram."""
    found = words(text)
    runs = [tuple(found[start : start + size]) for start in range(len(found) - size + 1)]
    return 1.0 - len(set(runs)) / len(runs) if runs else 0.0


def ends_in_loop(text: str) -> bool:
    """Return True if the end repeats itself at least four times in a row, over at least twelve words."""
    found = words(text)
    return any(_has_period(found, period) for period in range(1, len(found) // LOOP_REPEATS + 1))


def _has_period(found: Sequence[str], period: int) -> bool:
    span = max(LOOP_REPEATS * period, LOOP_TOKENS)
    end = found[-span:]
    return len(end) == span and end[period:] == end[:-period]


def is_refusal(text: str) -> bool:
    """Return True if an answer opens with a usual English or Chinese refusal; a heuristic, sometimes wrong."""
    return _REFUSAL.search(text[:_OPENING_CHARACTERS].replace("\u2019", "'")) is not None


# --- how sure a figure is ---


class Bootstrap:
    """Paired bootstrap (Efron, 1979; Koehn, 2004): every figure uses the same draws of `rows` rows.

    Every sequence passed has one number a row. With a single row, intervals have no width.
    """

    def __init__(self, rows: int, seed: int = 0, resamples: int = RESAMPLES) -> None:
        if rows < 1:
            raise ValueError("a bootstrap needs at least one row")
        self._rows = rows
        draws = np.random.default_rng(seed).multinomial(rows, np.full(rows, 1.0 / rows), size=resamples)
        self._counts: Numbers = draws.astype(np.float64)

    def mean(self, values: Sequence[float]) -> Interval:
        """Return the mean of one value a row."""
        numbers = self._numbers(values)
        return _interval(float(numbers.mean()), self._sums(numbers) / self._rows)

    def mean_difference(self, values: Sequence[float], others: Sequence[float]) -> Interval:
        """Return the mean of `values` minus the mean of `others`."""
        return self.mean(self._numbers(values) - self._numbers(others))  # type: ignore[arg-type]

    def ratio(self, parts: Sequence[float], wholes: Sequence[float]) -> Interval:
        """Return the sum of `parts` over the sum of `wholes`, such as rows' losses over their tokens."""
        above, below = self._numbers(parts), self._numbers(wholes)
        return _interval(float(above.sum() / below.sum()), self._sums(above) / self._sums(below))

    def ratio_difference(self, parts: Sequence[float], others: Sequence[float], wholes: Sequence[float]) -> Interval:
        """Return the ratio of `parts` minus the ratio of `others`, over the same wholes."""
        return self.ratio(self._numbers(parts) - self._numbers(others), wholes)  # type: ignore[arg-type]

    def perplexity(self, losses: Sequence[float], tokens: Sequence[float]) -> Interval:
        """Return e to the loss per token; NaN if a float can't hold it."""
        above, below = self._numbers(losses), self._numbers(tokens)
        return _interval(_exp(above.sum() / below.sum()), _exp(self._sums(above) / self._sums(below)))

    def perplexity_difference(
        self, losses: Sequence[float], others: Sequence[float], tokens: Sequence[float]
    ) -> Interval:
        """Return the perplexity of `losses` minus that of `others`, over the same tokens."""
        first, second, below = self._numbers(losses), self._numbers(others), self._numbers(tokens)
        resampled = [_exp(self._sums(above) / self._sums(below)) for above in (first, second)]
        means = [_exp(above.sum() / below.sum()) for above in (first, second)]
        return _interval(means[0] - means[1], resampled[0] - resampled[1])

    def growth(self, parts: Sequence[float], others: Sequence[float]) -> Interval:
        """Return by which share the sum of `parts` exceeds that of `others`: 0.05 is 5 % more."""
        ratio = self.ratio(parts, others)
        return Interval(ratio.mean - 1.0, ratio.low - 1.0, ratio.high - 1.0)

    def _sums(self, numbers: Numbers) -> Numbers:
        with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity become an interval of NaN
            sums: Numbers = self._counts @ numbers
        return sums

    def _numbers(self, values: Any) -> Numbers:
        numbers = np.asarray(values, dtype=np.float64)
        if numbers.shape != (self._rows,):
            raise ValueError(f"expected {self._rows} numbers, one a row, and got {numbers.shape}")
        return numbers


def _interval(mean: Any, resampled: Numbers) -> Interval:
    if not math.isfinite(mean) or not np.isfinite(resampled).all():
        return Interval(math.nan, math.nan, math.nan)
    outside = (1.0 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [outside, 1.0 - outside])
    return Interval(float(mean), float(low), float(high))


def _exp(values: Any) -> Any:
    with np.errstate(over="ignore"):
        return np.exp(values)
