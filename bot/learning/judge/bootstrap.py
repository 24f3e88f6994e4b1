"""How sure a mean is: paired bootstrap intervals (Efron, 1979; Koehn, 2004, for systems that are compared).

Knows: rows drawn with replacement, the same for all that is compared. Does not know: what the numbers mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bot.learning.judge.evaluation_report import Interval

RESAMPLES = 2_000
CONFIDENCE = 0.95

Numbers = npt.NDArray[np.float64]


class Bootstrap:
    """The same draws of `rows` rows for every figure, so that differences between contestants are paired.

    Every sequence of numbers has one for each row. With one row the interval is as wide as nothing.
    """

    def __init__(self, rows: int, seed: int = 0, resamples: int = RESAMPLES) -> None:
        if rows < 1:
            raise ValueError("a bootstrap needs at least one row")
        self._rows = rows
        draws = np.random.default_rng(seed).multinomial(rows, np.full(rows, 1.0 / rows), size=resamples)
        self._counts: Numbers = draws.astype(np.float64)

    def mean(self, values: Sequence[float]) -> Interval:
        """The mean of a value each row has."""
        numbers = self._numbers(values)
        return _interval(float(numbers.mean()), self._sums(numbers) / self._rows)

    def mean_difference(self, values: Sequence[float], others: Sequence[float]) -> Interval:
        """The mean of `values` less that of `others`."""
        return self.mean(self._numbers(values) - self._numbers(others))  # type: ignore[arg-type]

    def ratio(self, parts: Sequence[float], wholes: Sequence[float]) -> Interval:
        """A sum over a sum, such as the loss per token: `parts` are rows' losses, `wholes` their tokens."""
        above, below = self._numbers(parts), self._numbers(wholes)
        return _interval(float(above.sum() / below.sum()), self._sums(above) / self._sums(below))

    def ratio_difference(self, parts: Sequence[float], others: Sequence[float], wholes: Sequence[float]) -> Interval:
        """The difference of two such ratios over the same wholes."""
        return self.ratio(self._numbers(parts) - self._numbers(others), wholes)  # type: ignore[arg-type]

    def perplexity(self, losses: Sequence[float], tokens: Sequence[float]) -> Interval:
        """e to the loss per token; NaN where that is more than a float can hold."""
        above, below = self._numbers(losses), self._numbers(tokens)
        return _interval(_exp(above.sum() / below.sum()), _exp(self._sums(above) / self._sums(below)))

    def perplexity_difference(
        self, losses: Sequence[float], others: Sequence[float], tokens: Sequence[float]
    ) -> Interval:
        """The first perplexity less the other, over the same tokens."""
        first, second, below = self._numbers(losses), self._numbers(others), self._numbers(tokens)
        resampled = [_exp(self._sums(above) / self._sums(below)) for above in (first, second)]
        means = [_exp(above.sum() / below.sum()) for above in (first, second)]
        return _interval(means[0] - means[1], resampled[0] - resampled[1])

    def growth(self, parts: Sequence[float], others: Sequence[float]) -> Interval:
        """By which share the sum of `parts` lies above that of `others`: 0.05 is 5 % more."""
        ratio = self.ratio(parts, others)
        return Interval(ratio.mean - 1.0, ratio.low - 1.0, ratio.high - 1.0)

    def _sums(self, numbers: Numbers) -> Numbers:
        with np.errstate(invalid="ignore", over="ignore"):  # what is no number is told by the interval
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
