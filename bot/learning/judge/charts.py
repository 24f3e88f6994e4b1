"""Charts of the learning loop, as PNG or SVG: as wide as a phone, safe for colour-blind eyes.

Drawing blocks for some tenths of a second: call it in a thread. One chart is drawn at a time in a process.
"""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, Literal

from bot.learning.judge.evaluation_report import EvaluationReport, Interval, Label, MeasureName

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Format = Literal["png", "svg"]
ChartPoint = tuple[float, float]

# Okabe and Ito (2008); the marks differ, too, so that no chart depends on colour alone.
BLUE, ORANGE, GREEN, GREY, INK, FAINT = "#0072B2", "#D55E00", "#009E73", "#767676", "#222222", "#D9D9D9"
COLOURS: Mapping[Label, str] = {"base": GREY, "champion": BLUE, "candidate": ORANGE}
MARKS: Mapping[Label, str] = {"base": "s", "champion": "o", "candidate": "D"}
WIDTH_INCHES = 4.5
DOTS_PER_INCH = 180
SMOOTHING = 0.85

# matplotlib's styles are global while a chart is drawn.
_drawing = threading.Lock()
# `Any`: matplotlib lists the names of all its settings as types.
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.fonttype": "path",
    "svg.hashsalt": "myna",
    "axes.axisbelow": True,
}


@dataclass(frozen=True, slots=True)
class DayOfVotes:
    """Numbers of thumbs up and down on one day."""

    day: date
    up: int
    down: int


@dataclass(frozen=True, slots=True)
class CanaryPoint:
    """A canary after `conversations` conversations: both rates from 0 to 1, and the evidence of harm as an e-value."""

    conversations: int
    champion_rate: float
    challenger_rate: float
    e_value: float


def loss_chart(training: Sequence[ChartPoint], held_out: Sequence[ChartPoint], format: Format = "png") -> bytes:
    """Draw the loss over steps from points `(step, nats a token)`, with the best held-out point marked.

    NaN and infinity leave a gap.
    """

    def draw(axes: Axes) -> None:
        if training:
            steps, values = zip(*training, strict=True)
            axes.plot(steps, values, color=BLUE, alpha=0.25, linewidth=0.8)
            axes.plot(steps, smoothed(values), color=BLUE, linewidth=1.6, label="training, smoothed")
        if held_out:
            steps, values = zip(*held_out, strict=True)
            axes.plot(steps, values, color=ORANGE, linewidth=1.6, marker="o", markersize=4, label="held out")
            _mark_best(axes, held_out)
        _say_if_empty(axes, bool(training or held_out))
        axes.set(title="Loss while training", xlabel="step", ylabel="loss (nats per token)")

    return _chart(draw, 3.1, format)


def smoothed(values: Sequence[float]) -> list[float]:
    """Return the exponential moving average, bias-corrected as in Adam; NaN and infinity are skipped."""
    total = weight = 0.0
    found = []
    for value in values:
        if math.isfinite(value):
            total, weight = SMOOTHING * total + (1 - SMOOTHING) * value, SMOOTHING * weight + 1 - SMOOTHING
        found.append(total / weight if weight else math.nan)
    return found


def _mark_best(axes: Axes, held_out: Sequence[ChartPoint]) -> None:
    finite = [point for point in held_out if math.isfinite(point[1])]
    if not finite:
        return
    step, value = min(finite, key=lambda point: point[1])
    label = f"best: {value:.3f} at step {step:g}"
    axes.plot([step], [value], marker="*", markersize=13, color=GREEN, linestyle="none", label=label, zorder=5)


# The suite, figure and title of each axis.
_SHOWN: Sequence[tuple[str, MeasureName, str]] = (
    ("held_out", "loss", "Held-out loss (nats per token), lower is better"),
    ("general", "loss", "General loss (nats per token), lower is better"),
    ("held_out", "rouge_l", "ROUGE-L (F1, 0 to 1), higher is better"),
    ("held_out", "chrf", "chrF (0 to 1), higher is better"),
    ("held_out", "repetition", "Repeated 4-grams (share), lower is better"),
    ("held_out", "stopped", "Stopped by itself (share), higher is better"),
    ("safety", "broken_rules", "Safety rules broken (share), lower is better"),
)


def evaluation_chart(report: EvaluationReport, format: Format = "png") -> bytes:
    """Draw each figure of base, champion and candidate with its 95 % interval, one axis a figure."""
    labels: list[Label] = ["base", "champion", "candidate"]
    if report.names["base"] == report.names["champion"]:
        labels.remove("champion")
    shown = []
    for suite, measure, title in _SHOWN:
        found = report.suites[suite].measures.get(measure) if suite in report.suites else None
        if found is not None:
            shown.append((title, [(label, found.values[label]) for label in labels]))

    def draw(figure: Figure) -> None:
        rows = max(len(shown), 1)
        all_axes = figure.subplots(rows, 1, squeeze=False)[:, 0]
        if not shown:
            _say_if_empty(all_axes[0], False)
        for axes, (title, values) in zip(all_axes, shown, strict=False):
            _draw_intervals(axes, title, [(_short(report.names[label]), label, found) for label, found in values])

    return _figure(draw, 0.45 + (0.62 + 0.24 * len(labels)) * max(len(shown), 1), format)


def _draw_intervals(axes: Axes, title: str, rows: Sequence[tuple[str, Label, Interval]]) -> None:
    finite = [(place, *row) for place, row in enumerate(rows) if row[2].is_finite]
    for place, _, label, found in finite:
        axes.plot([found.low, found.high], [place, place], color=COLOURS[label], linewidth=2.2, solid_capstyle="butt")
        axes.plot([found.mean], [place], color=COLOURS[label], marker=MARKS[label], markersize=6, linestyle="none")
        axes.annotate(
            f"{found.mean:.3g}", (found.mean, place), xytext=(0, 5), textcoords="offset points", ha="center", fontsize=8
        )
    low, high = min((row[3].low for row in finite), default=0.0), max((row[3].high for row in finite), default=1.0)
    margin = max((high - low) * 0.15, abs(high) * 0.02, 1e-3)
    axes.set_xlim(low - margin, high + margin)
    axes.set_ylim(len(rows) - 0.5, -0.9)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axes.tick_params(axis="x", labelsize=8)
    axes.locator_params(axis="x", nbins=5)
    axes.grid(visible=False, axis="y")
    axes.set_title(title, fontsize=8.5)


def votes_chart(days: Sequence[DayOfVotes], format: Format = "png") -> bytes:
    """Draw votes a day: good ones upwards, bad ones downwards."""

    def draw(axes: Axes) -> None:
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        places = date2num([votes.day for votes in days])  # type: ignore[no-untyped-call]
        axes.bar(places, [votes.up for votes in days], color=BLUE, width=0.8, label="good")
        axes.bar(
            places,
            [-votes.down for votes in days],
            color=ORANGE,
            width=0.8,
            hatch="///",
            edgecolor="white",
            linewidth=0,
            label="bad",
        )
        axes.axhline(0, color=INK, linewidth=0.8)
        if days:
            locator = AutoDateLocator(minticks=2, maxticks=6)  # type: ignore[no-untyped-call]
            axes.xaxis.set_major_locator(locator)
            axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
            axes.set_xlim(min(places) - 1, max(places) + 1)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{abs(value):g}"))
        axes.grid(visible=False, axis="x")
        _say_if_empty(axes, any(votes.up or votes.down for votes in days))
        axes.set(title="Votes on replies", xlabel="day (UTC)", ylabel="votes per day")

    return _chart(draw, 3.1, format)


def canary_chart(points: Sequence[CanaryPoint], threshold: float, metric: str, format: Format = "png") -> bytes:
    """Draw both arms' rates of `metric` (such as "thumbs down") above the evidence of harm on a logarithmic axis.

    A canary ends once its e-value reaches `threshold`.
    """

    def draw(figure: Figure) -> None:
        from matplotlib.ticker import PercentFormatter

        rates, evidence = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        places = [point.conversations for point in points]
        rates.plot(places, [point.champion_rate for point in points], color=BLUE, linewidth=1.6, label="champion")
        rates.plot(
            places,
            [point.challenger_rate for point in points],
            color=ORANGE,
            linewidth=1.6,
            linestyle=(0, (5, 1.5)),
            label="challenger",
        )
        rates.set_ylim(bottom=0)
        rates.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        rates.set(title=f"Canary: {metric}", ylabel="rate")
        _say_if_empty(rates, bool(points))
        e_values = [point.e_value for point in points]
        shown = [value if value > 0 and math.isfinite(value) else math.nan for value in e_values]
        evidence.plot(places, shown, color=GREEN, linewidth=1.6, label="evidence of harm")
        evidence.axhline(threshold, color=INK, linewidth=1.0, linestyle=":", label=f"rolled back at {threshold:g}")
        evidence.set_yscale("log")
        finite = [value for value in shown if math.isfinite(value)]
        evidence.set_ylim(min([0.1, *finite]) / 2, max([threshold, *finite]) * 5)
        evidence.set_xlim(0, max([10, *places]) * 1.02)
        evidence.set(xlabel="conversations", ylabel="e-value")

    return _figure(draw, 4.4, format)


def _legend(figure: Figure) -> None:
    """Put one legend below all axes, where it hides no line."""
    handles = [handle for axes in figure.axes for handle in axes.get_legend_handles_labels()[0]]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=2, columnspacing=1.2, handlelength=1.8)


def _say_if_empty(axes: Axes, has_content: bool) -> None:
    if not has_content:
        axes.text(0.5, 0.5, "nothing yet", transform=axes.transAxes, ha="center", va="center", color=GREY, fontsize=11)


def _short(name: str, most: int = 18) -> str:
    return name if len(name) <= most else f"{name[: most - 3]}..."


def _chart(draw: Callable[[Axes], None], height: float, format: Format) -> bytes:
    return _figure(lambda figure: draw(figure.subplots()), height, format)


def _figure(draw: Callable[[Figure], None], height: float, format: Format) -> bytes:
    """Draw and render a figure without pyplot, whose global registry of figures is not thread-safe."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with _drawing, mpl.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DOTS_PER_INCH, facecolor="white")
        FigureCanvasAgg(figure)
        figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.06)
        draw(figure)
        _legend(figure)
        written = io.BytesIO()
        metadata = {"Date": None} if format == "svg" else {"Software": None}
        figure.savefig(written, format=format, facecolor="white", transparent=False, metadata=metadata)
    return written.getvalue()
