"""Charts: real pictures in both formats, reproducible, with readable text."""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from bot.learning.judge import charts
from bot.learning.judge.charts import CanaryPoint, DayOfVotes, Format
from tests.builders.reports import GOOD, held_out, measure

STEPS = [(step, 2.2 - step / 100) for step in range(60)]
DAYS = [DayOfVotes(date(2026, 11, 1) + timedelta(n), n % 7, n % 3) for n in range(40)]
CANARY = [CanaryPoint(n * 10, 0.1, 0.2, 10 ** (n / 10 - 1)) for n in range(30)]
LONG_NAMES = {"base": "smollm2-135m-instruct", "champion": "bot-v16-1a2b3c4d", "candidate": "bot-v17-99887766"}

CHARTS: dict[str, Callable[[Format], bytes]] = {
    "loss": lambda form: charts.loss_chart(STEPS, [(0, 2.2), (30, 1.4), (60, 1.6)], form),
    "loss without numbers": lambda form: charts.loss_chart([(0, math.nan), (1, 2.0)], [(1, math.nan)], form),
    "no loss": lambda form: charts.loss_chart([], [], form),
    "evaluation": lambda form: charts.evaluation_chart(GOOD, form),
    "evaluation of three": lambda form: charts.evaluation_chart(replace(GOOD, names=LONG_NAMES), form),
    "evaluation without numbers": lambda form: charts.evaluation_chart(held_out(loss=measure(1, math.nan)), form),
    "no evaluation": lambda form: charts.evaluation_chart(replace(GOOD, suites={}), form),
    "votes": lambda form: charts.votes_chart(DAYS, form),
    "one day": lambda form: charts.votes_chart(DAYS[1:2], form),
    "no votes": lambda form: charts.votes_chart([], form),
    "canary": lambda form: charts.canary_chart(CANARY, 80, "thumbs down", form),
    "no canary": lambda form: charts.canary_chart([], 80, "thumbs down", form),
    "endless evidence": lambda form: charts.canary_chart([CanaryPoint(5, 0, 1, math.inf)], 80, "errors", form),
}


def texts_of(figure: Figure) -> list[Text]:
    """Collect the texts that are drawn; an axis also holds labels beyond its ends, which are not."""
    axis_of_all = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    made = {id(tick.label1) for axis in axis_of_all for tick in [*axis.majorTicks, *axis.minorTicks]}
    drawn = {id(tick.label1) for axis in axis_of_all for tick in axis._update_ticks()}  # type: ignore[attr-defined]
    found = [one for one in figure.findobj(Text) if isinstance(one, Text)]
    return [
        one
        for one in found
        if one.get_text().strip() and one.get_visible() and (id(one) in drawn or id(one) not in made)
    ]


@pytest.mark.parametrize("name", CHARTS)
def test_no_text_overlaps_or_is_cut_off(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: (figures.append(figure), save(figure, *a, **k))[1])
    picture = CHARTS[name]("png")
    (figure,) = figures
    boxes = [(one.get_text(), one.get_window_extent()) for one in texts_of(figure)]
    assert boxes
    width, height = figure.bbox.width, figure.bbox.height
    outside = [text for text, box in boxes if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1]
    assert not outside
    over = [
        (text, other)
        for (text, box), (other, second) in itertools.combinations(boxes, 2)
        if box.padded(-1).overlaps(second.padded(-1))
    ]
    assert not over
    assert picture.startswith(b"\x89PNG")
    assert struct.unpack(">II", picture[16:24])[0] == charts.WIDTH_INCHES * charts.DOTS_PER_INCH


@pytest.mark.parametrize("name", ["loss", "evaluation", "votes", "canary"])
def test_charts_are_reproducible(name: str) -> None:
    svg = CHARTS[name]("svg")
    assert svg.startswith(b"<?xml") and b"</svg>" in svg
    assert CHARTS[name]("svg") == svg


def test_smoothing_is_unbiased_and_skips_nan() -> None:
    assert charts.smoothed([3.0, 3.0, 3.0]) == pytest.approx([3.0, 3.0, 3.0])
    assert charts.smoothed([2.0, math.nan, 2.0]) == pytest.approx([2.0, 2.0, 2.0])
    assert math.isnan(charts.smoothed([math.nan])[0])
    falling = charts.smoothed([2.0, 1.0, 1.0])
    assert pytest.approx(falling[0]) == 2.0 and 2.0 > falling[1] > falling[2] > 1.0
