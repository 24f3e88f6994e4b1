"""False alarms and recall of the fact check, on human answers as they are and with one fact changed.

Part of `python -m benchmarks.knowledge DATA`, on the human answers of dstc11 and the notes they were written from. An
unchanged answer should pass, unless the human knew more than the notes; an answer with another number, or the name of
another place, should be stopped.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.knowledge_installation import read_rows
from bot.knowledge.fact_check import CitedText, FactCheck, Invented
from storage.values import SeenPassage

_NUMBER = re.compile(r"\d+")


async def measure(data: Path, _work: Path) -> None:
    """Print all figures."""
    rows = read_rows(data / "dstc11_grounded" / "questions.jsonl")
    titles = sorted({one["title"] for one in read_rows(data / "dstc11_grounded" / "articles.jsonl")})
    answers = [(told(one), one["messages"][-1]["content"]) for one in rows]
    stopped = [bool(FactCheck(before).invented(answer)) for before, answer in answers]
    print(f"human answers that the check would stop: {statistics.mean(stopped):.3f} of {len(answers)}")
    for name, change in (("number", _other_number), ("name", lambda text: _other_name(text, titles))):
        changed = [(before, new) for before, answer in answers if (new := change(answer)) is not None]
        caught = [bool(FactCheck(before).invented(answer)) for before, answer in changed]
        print(f"answers with another {name} that it stops: {statistics.mean(caught):.3f} of {len(changed)}")
    times = [_milliseconds(before, answer) for before, answer in answers]
    p95 = statistics.quantiles(times, n=20)[18]
    print(f"time for a whole reply: median {statistics.median(times):.2f} ms, p95 {p95:.2f} ms")


def told(row: dict[str, Any]) -> list[str]:
    """Return the notes and the conversation as one text."""
    return [one["content"] for one in row["messages"][:-1]]


def _other_number(text: str) -> str | None:
    found = _NUMBER.search(text)
    return text[: found.start()] + str(int(found[0]) + 37) + text[found.end() :] if found else None


def _other_name(text: str, titles: Sequence[str]) -> str | None:
    """Replace the name of a place within a sentence with that of another place."""
    for place, title in enumerate(titles):
        at = text.find(title)
        if at > 0 and text[at - 1] == " " and text[at - 2].islower():
            return text.replace(title, titles[(place + 7) % len(titles)], 1)
    return None


def _milliseconds(before: Sequence[str], answer: str) -> float:
    note = SeenPassage(1, "id", "name", "Notes", (), None, "public", before[0], 1.0)
    started = time.perf_counter()
    text = CitedText([note], FactCheck(before))
    try:
        for word in re.findall(r"\s*\S+", answer):
            text.add(word)
        text.end()
    except Invented:
        pass
    return (time.perf_counter() - started) * 1000
