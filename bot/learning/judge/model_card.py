"""Model card of a version: lineage, figures, verdict, limits and the way back, as Markdown and JSON."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bot.learning.judge.evaluation_report import (
    LABELS,
    MEASURES,
    EvaluationReport,
    Interval,
    SuiteReport,
    report_as_json,
)
from bot.learning.judge.gate import GateVerdict
from bot.learning.versions import CARD_FILE, FACTS_FILE
from storage.learning_values import Dataset, Version

SUITE_TITLES = {
    "held_out": "Held-out rows",
    "general": "General questions",
    "safety": "Safety questions",
    "golden": "Golden questions",
}


@dataclass(frozen=True, slots=True)
class ModelCard:
    """The contents of a card; without a `report` it says that the version has not been evaluated."""

    version: Version
    dataset: Dataset | None = None
    report: EvaluationReport | None = None
    verdict: GateVerdict | None = None


def write_model_card(folder: Path, card: ModelCard) -> None:
    """Write `README.md` and `myna-version.json` beside the weights; each replaces its older file atomically."""
    _replace(folder / FACTS_FILE, json.dumps(card_as_json(card), ensure_ascii=False, indent=2) + "\n")
    _replace(folder / CARD_FILE, "\n".join(card_lines(card)) + "\n")


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def card_as_json(card: ModelCard) -> dict[str, Any]:
    """Return the card as data, without anybody's words: answers stay in the database, where they can be erased."""
    report = report_as_json(card.report) if card.report is not None else None
    if report is not None:
        report["answers"] = []
    return {
        "version": asdict(card.version),
        "dataset": None if card.dataset is None else asdict(card.dataset),
        "evaluation": report,
        "passed": None if card.verdict is None else card.verdict.passed,
        "reasons": [] if card.verdict is None else list(card.verdict.reasons),
    }


def card_lines(card: ModelCard) -> Iterator[str]:
    """Yield the lines of the card in Markdown."""
    version = card.version
    yield f"# {version.name}"
    yield ""
    yield f"LoRA weights over `{version.base}`, trained by Myna {version.code_version} on {_day(version.created_at)}."
    yield from _lineage(version, card.dataset)
    yield from _evaluation(card.report)
    yield from _verdict(card.verdict)
    yield from _limits(version)
    yield from _way_back(version)


def _lineage(version: Version, dataset: Dataset | None) -> Iterator[str]:
    yield from ("", "## Lineage", "", "| what | which |", "| --- | --- |")
    yield f"| base | `{version.base}`, SHA-256 `{version.base_sha256}` |"
    yield f"| weights | SHA-256 `{version.weights_sha256}` |"
    sha256 = f", SHA-256 `{dataset.sha256}`" if dataset is not None else ""
    yield f"| dataset | `{version.dataset_id}`{sha256} |"
    yield f"| job | `{version.job_id}` |"
    yield f"| asked for by | {_cell(version.created_by)} |"
    yield f"| code | {_cell(version.code_version)} |"
    if dataset is not None and dataset.counts:
        yield from ("", "What it was trained on:", "", "| what | how many |", "| --- | --- |")
        yield from (f"| {_cell(name)} | {_cell(value)} |" for name, value in _flat(dataset.counts))
    if version.settings:
        yield from ("", "Settings:", "", "| setting | value |", "| --- | --- |")
        yield from (f"| {_cell(name)} | {_cell(value)} |" for name, value in _flat(version.settings))


def _evaluation(report: EvaluationReport | None) -> Iterator[str]:
    yield from ("", "## Evaluation", "")
    if report is None:
        yield "This version has not been evaluated."
        return
    yield (
        "The same prompts for each, answered with the likeliest words. In brackets: 95 % bootstrap intervals over "
        "rows; the last column is paired."
    )
    for name, suite in report.suites.items():
        yield from ("", f"### {SUITE_TITLES.get(name, name)} ({suite.rows})", "")
        yield from _table(report, suite)


def _table(report: EvaluationReport, suite: SuiteReport) -> Iterator[str]:
    heads = [f"{report.names[label]} ({label})" for label in LABELS]
    yield f"| figure | {' | '.join(_cell(head) for head in heads)} | candidate minus champion |"
    yield "| --- | --- | --- | --- | --- |"
    for measure, (title, unit) in MEASURES.items():
        found = suite.measures.get(measure)
        if found is not None:
            cells = [*(_figure(found.values[label]) for label in LABELS), _figure(found.difference, "+")]
            yield f"| {title} ({unit}) | {' | '.join(cells)} |"


def _verdict(verdict: GateVerdict | None) -> Iterator[str]:
    yield from ("", "## Gate", "")
    if verdict is None:
        yield "The gate has not judged this version."
        return
    yield f"**{'Passed' if verdict.passed else 'Refused'}**"
    yield ""
    yield from (f"- {reason}" for reason in verdict.reasons)


def _limits(version: Version) -> Iterator[str]:
    yield from ("", "## Limits", "")
    yield f"- It only works with the base whose SHA-256 is above; on another `{version.base}` it is refused or wrong."
    yield "- It learnt how to answer, and no facts that change: keep prices, stock and opening hours in articles."
    yield "- Figures hold for rows like those that were held out; other topics and languages were not measured."
    yield "- A base of few parameters makes things up, trained or not. Let people read what matters."


def _way_back(version: Version) -> Iterator[str]:
    yield from ("", "## Going back", "")
    yield "If this version answers people and should not, the one before it takes over with the next reply:"
    yield from ("", "```sh", "myna rollback", "```", "")
    yield "To retire it, so that it never answers again:"
    yield from ("", "```sh", f"myna retire {version.name}", "```")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name} / ")
        else:
            yield f"{prefix}{name}", value


def _cell(value: object) -> str:
    """Escape a value, so that it can't break out of its cell or be rendered as a tag or link."""
    text = " ".join(str(value).split())
    for character in "\\|<>[]`*_":
        text = text.replace(character, f"\\{character}")
    return text


def _figure(interval: Interval, sign: str = "") -> str:
    if not interval.is_finite:
        return "not a number"
    mean, low, high = (f"{value:{sign}.3f}" for value in (interval.mean, interval.low, interval.high))
    return f"{mean} ({low} to {high})"


def _day(created_at: int) -> str:
    return datetime.fromtimestamp(created_at / 1000, UTC).strftime("%Y-%m-%d")
