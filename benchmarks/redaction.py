"""Precision, recall and F1 of the personal-data finder, for each kind on labelled sentences.

    python -m benchmarks.redaction [FILE] [--misses] [--json]

FILE has a sentence a line, `{"text", "spans": [{"start", "end", "kind"}], "language", "split"}`. The rules were
made with an eye on the split `develop`; `measure` was only measured. What is counted are spans: one is
found if something of its kind was found that covers it, and at most a title, a bracket or the like more.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.table import print_rows
from bot.privacy.redaction.personal_data import KINDS, STRUCTURED, PersonalDataFinder

FILE = Path(__file__).parent.parent / "tests" / "data" / "personal_data.jsonl"
SPLITS = ("develop", "measure")
# How many characters more or less a span may have: a full stop, a title, an extension.
SLACK = 8


@dataclass(frozen=True)
class Score:
    """Counts of spans: true positives, false positives and false negatives."""

    right: int
    wrong: int
    missed: int

    @property
    def precision(self) -> float:
        return self.right / (self.right + self.wrong) if self.right + self.wrong else 1.0

    @property
    def recall(self) -> float:
        return self.right / (self.right + self.missed) if self.right + self.missed else 1.0

    @property
    def f1(self) -> float:
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


@dataclass(frozen=True)
class Mistake:
    """A false negative or a false positive span."""

    what: str
    kind: str
    value: str
    text: str


def load(path: Path = FILE) -> list[dict[str, Any]]:
    """Read the labelled sentences."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def judge(rows: Iterable[dict[str, Any]]) -> tuple[dict[str, Score], list[Mistake]]:
    """Return the score of each kind, and all mistakes."""
    finder = PersonalDataFinder()
    right: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    mistakes = []
    for row in rows:
        text = row["text"]
        found = [(one.start, one.end, one.kind) for one in finder.find(text)]
        for span in row["spans"]:
            start, end, kind = span["start"], span["end"], span["kind"]
            match = next((one for one in found if one[2] == kind and _is_same(one, start, end)), None)
            if match is None:
                missed[kind] += 1
                mistakes.append(Mistake("missed", kind, text[start:end], text))
            else:
                right[kind] += 1
                found.remove(match)
        for start, end, kind in found:
            wrong[kind] += 1
            mistakes.append(Mistake("wrong", kind, text[start:end], text))
    return {kind: Score(right[kind], wrong[kind], missed[kind]) for kind in KINDS}, mistakes


def _is_same(found: tuple[int, int, str], start: int, end: int) -> bool:
    is_covered = found[0] <= start and end <= found[1]
    return is_covered and start - found[0] + found[1] - end <= SLACK


def together(scores: dict[str, Score], kinds: Iterable[str]) -> Score:
    """Return one score over several kinds."""
    chosen = [scores[kind] for kind in kinds]
    return Score(sum(one.right for one in chosen), sum(one.wrong for one in chosen), sum(one.missed for one in chosen))


def table(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield a row for each half and kind, for all structured kinds together, and for all kinds."""
    for split in SPLITS:
        scores, _ = judge([row for row in rows if row["split"] == split])
        scores |= {"structured": together(scores, STRUCTURED), "all": together(scores, KINDS)}
        for kind, score in scores.items():
            yield {
                "half": split,
                "kind": kind,
                "spans": score.right + score.missed,
                "precision": f"{score.precision:.3f}",
                "recall": f"{score.recall:.3f}",
                "f1": f"{score.f1:.3f}",
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("file", nargs="?", type=Path, default=FILE)
    parser.add_argument("--misses", action="store_true", help="print what went wrong in the half `develop`")
    parser.add_argument("--json", action="store_true", help="a line of JSON a row")
    arguments = parser.parse_args()
    rows = load(arguments.file)
    print_rows(table(rows), as_json=arguments.json)
    if arguments.misses:
        for one in judge([row for row in rows if row["split"] == "develop"])[1]:
            print(f"{one.what} {one.kind}: {one.value!r} in {one.text!r}")


if __name__ == "__main__":
    main()
