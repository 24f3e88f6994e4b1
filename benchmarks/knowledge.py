"""How well the knowledge is searched: articles read by the real job, questions asked by the real search.

    python -m benchmarks.knowledge DATA

Prints recall for each kind of question, how fast articles are read, and how fast a search is among 10,000 passages. The
questions are split by their first right article: one half ("development") chose the weights, the other did not.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bot.commands.knowledge import share
from bot.installation import migrate_database
from bot.knowledge.embedder import Embedder
from bot.knowledge.library import Library
from bot.knowledge.search import Search
from bot.learning.roles import Actor
from bot.models.sources import resolve_embedder
from bot.settings import Settings
from bot.training.job_context import Services
from bot.training.tasks import all_tasks
from bot.training.worker import Worker
from storage.database import Database
from storage.schema import DEFAULT_WORKSPACE

ADMIN = Actor("benchmark", "admin")
WARM_SEARCHES = 20


def is_development(question: dict[str, Any]) -> bool:
    """Whether a question is of the half that chose the weights: all about one article are on one side."""
    return hashlib.sha256(question["gold"][0].encode()).digest()[0] % 2 == 0


def read_rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


class Knowledge:
    """An installation of its own with some articles in it."""

    def __init__(self, data: Path) -> None:
        self.settings = Settings(data=data)
        (data / "models").mkdir(parents=True, exist_ok=True)
        migrate_database(self.settings, lambda _: None)
        self.database = Database(self.settings.resolved_database_url)
        self.library = Library(self.database, DEFAULT_WORKSPACE)
        # Fetched once a checkout, and not for each measurement.
        cache = Path(".cache")
        folder = resolve_embedder(self.settings.embedder, cache, print)
        if not (data / "models" / folder.name).exists():
            (data / "models" / folder.name).symlink_to(folder.resolve())
        self.embedder = Embedder(folder, name=self.settings.embedder)
        self.search = Search(self.database, DEFAULT_WORKSPACE, lambda: self.embedder)

    async def read(self, folder: Path) -> dict[str, Any]:
        """Add a folder and have it read; what came of that, with `seconds`."""
        _, job = await self.library.add(ADMIN, str(folder))
        started = time.perf_counter()
        await Worker(Services(self.settings, self.database, 2), all_tasks(), lease_seconds=30.0).work(once=True)
        seconds = time.perf_counter() - started
        from bot.learning.jobs import Jobs

        done = await Jobs(self.database, DEFAULT_WORKSPACE).find(ADMIN, job.id)
        assert done.state == "done", done
        return dict(done.result or {}) | {"seconds": seconds}

    async def ranks(self, questions: Sequence[dict[str, Any]]) -> list[int | None]:
        """For each question the place of the first right article, from 0 on; None if it is not found."""
        return [await self.search.place_of(one["question"], one["gold"], ["public"]) for one in questions]

    async def close(self) -> None:
        await self.search.close()
        await self.database.close()


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
    """A folder of Markdown files. Of `faq_zh` it has the answers without their questions, each under its section."""
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
    """Searches one after the other among 10,000 passages: the English articles three times, under other names."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with kb_en and faq_zh")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        asyncio.run(measure(arguments.data, Path(work)))


if __name__ == "__main__":
    main()
