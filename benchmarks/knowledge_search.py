"""Recall and latency of the search for articles, read by the real job and asked by the real search.

Part of `python -m benchmarks.knowledge DATA`, on the articles and questions of kb_en and faq_zh. The questions are
split by their first right article: one half ("development") chose the weights, the other did not.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from adapters.cli.article_commands import share
from benchmarks.knowledge_installation import Knowledge, read_rows

WARM_SEARCHES = 20


def is_development(question: dict[str, Any]) -> bool:
    """Return True for a question of the half that chose the weights; an article's questions are on one side."""
    return hashlib.sha256(question["gold"][0].encode()).digest()[0] % 2 == 0


async def report(name: str, knowledge: Knowledge, questions: list[dict[str, Any]]) -> None:
    ranks = await knowledge.ranks(questions)
    groups: dict[tuple[str, str], list[int | None]] = defaultdict(list)
    for one, place in zip(questions, ranks, strict=True):
        kind = one.get("type", "all")
        for half in ("all", "development" if is_development(one) else "other half"):
            groups[kind, half].append(place)
    for (kind, half), places in sorted(groups.items()):
        print(f"{name} {kind:18} {half:12} {len(places):5}  {share(places, 1):.3f} / {share(places, 5):.3f}")


def prepare_articles(data: Path, name: str, folder: Path) -> Path:
    """Write a folder of Markdown files; of `faq_zh`, the answers without their questions, each under its section."""
    if name != "faq_zh":
        return data / name / "articles"
    folder.mkdir(parents=True)
    for one in read_rows(data / name / "articles.jsonl"):
        text = f"---\nid: {one['id']}\ntitle: {json.dumps(one['section'], ensure_ascii=False)}\n---\n\n{one['text']}\n"
        (folder / f"{one['id']}.md").write_text(text, encoding="utf-8")
    return folder


async def measure(data: Path, work: Path) -> None:
    for name in ("kb_en", "faq_zh"):
        knowledge = Knowledge(work / name)
        result = await knowledge.read(prepare_articles(data, name, work / f"articles-{name}"))
        speed = result["articles"] / result["seconds"]
        print(f"{name}: {result['articles']} articles, {result['passages']} passages, {speed:.1f} articles a second")
        questions = read_rows(data / name / "questions.jsonl")
        await report(name, knowledge, questions)
        await knowledge.close()
    await time_searches(data, work)


async def time_searches(data: Path, work: Path) -> None:
    """Time searches one after the other in 10,000 passages: the English articles three times, under other names."""
    folder = work / "three-times"
    folder.mkdir()
    for number in range(3):
        for file in sorted((data / "kb_en" / "articles").glob("*.md")):
            text = file.read_text(encoding="utf-8").replace("\nid: ", "\nformer_id: ", 1)
            (folder / f"{number}-{file.name}").write_text(text, encoding="utf-8")
    knowledge = Knowledge(work / "many")
    result = await knowledge.read(folder)
    questions = read_rows(data / "kb_en" / "questions.jsonl")[::3]
    times = []
    for number, one in enumerate(questions):
        started = time.perf_counter()
        await knowledge.search.search(one["question"], ["public"])
        if number >= WARM_SEARCHES:
            times.append((time.perf_counter() - started) * 1000)
    p95 = statistics.quantiles(times, n=20)[18]
    print(f"{result['passages']} passages: a search takes {statistics.median(times):.1f} ms, p95 {p95:.1f} ms")
    await knowledge.close()
