"""Bootstrap intervals: close to closed forms, paired, and reproducible."""

from __future__ import annotations

import math
import random

import pytest

from bot.learning.judge.measures import Bootstrap

SOURCE = random.Random(11)
VALUES = [SOURCE.gauss(2.0, 0.5) for _ in range(200)]


def test_a_mean_matches_the_normal_interval() -> None:
    found = Bootstrap(len(VALUES)).mean(VALUES)
    mean = sum(VALUES) / len(VALUES)
    error = math.sqrt(sum((value - mean) ** 2 for value in VALUES)) / len(VALUES)
    assert found.mean == pytest.approx(mean)
    assert found.low == pytest.approx(mean - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(mean + 1.96 * error, abs=0.15 * error)


def test_intervals_depend_only_on_the_seed() -> None:
    assert Bootstrap(200).mean(VALUES) == Bootstrap(200).mean(VALUES)
    assert Bootstrap(200, seed=1).mean(VALUES) != Bootstrap(200).mean(VALUES)


def test_a_difference_is_paired() -> None:
    draws = Bootstrap(200)
    better = [value - 0.1 for value in VALUES]
    found = draws.mean_difference(better, VALUES)
    assert (found.mean, found.low, found.high) == pytest.approx((-0.1, -0.1, -0.1))
    assert draws.mean(better).high > draws.mean(VALUES).low, "unpaired, the two intervals overlap"


def test_a_ratio_weighs_rows_by_their_tokens() -> None:
    draws = Bootstrap(3)
    found = draws.ratio([10.0, 1.0, 1.0], [10.0, 1.0, 10.0])
    assert found.mean == pytest.approx(12 / 21)
    assert found.low < found.mean < found.high
    assert draws.ratio_difference([3.0, 3.0, 3.0], [2.0, 2.0, 2.0], [1.0, 1.0, 2.0]).mean == pytest.approx(3 / 4)
    assert draws.growth([2.2, 1.1, 3.3], [2.0, 1.0, 3.0]).high == pytest.approx(0.1)


def test_perplexity_is_e_to_the_loss() -> None:
    draws = Bootstrap(2)
    assert draws.perplexity([2.0, 4.0], [1.0, 2.0]).mean == pytest.approx(math.exp(2))
    difference = draws.perplexity_difference([1.0, 2.0], [2.0, 4.0], [1.0, 2.0])
    assert difference.high == pytest.approx(math.exp(1) - math.exp(2))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_infinity_give_an_interval_of_nan(bad: float) -> None:
    draws = Bootstrap(3)
    for found in (draws.mean([1.0, bad, 2.0]), draws.ratio([1.0, bad, 2.0], [1.0, 1.0, 1.0])):
        assert math.isnan(found.mean) and math.isnan(found.low) and math.isnan(found.high)
    assert math.isnan(draws.perplexity([1e6, 1e6, 1e6], [1.0, 1.0, 1.0]).mean)


def test_one_row_gives_an_interval_without_width() -> None:
    found = Bootstrap(1).mean([0.5])
    assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)


def test_wrong_numbers_of_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        Bootstrap(0)
    with pytest.raises(ValueError, match="expected 3 numbers"):
        Bootstrap(3).mean([1.0, 2.0])
