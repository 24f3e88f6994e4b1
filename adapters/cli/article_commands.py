"""Knowledge articles: `myna kb add`, `list`, `show`, `remove`, `sync`, `search` and `evaluate`.

Commands that read articles end with exit code 1 if a file could not be read.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from adapters.cli import job_commands, job_display
from adapters.cli.terminal import (
    Commands,
    add,
    add_group,
    print_value,
    progress_bar,
    reason_of,
    say,
    shell_actor,
    with_database,
)
from bot.errors import InvalidInput
from bot.settings import Settings
from storage.knowledge_values import AUDIENCES, audiences_of

if TYPE_CHECKING:
    from bot.knowledge.library import Library
    from bot.knowledge.search.search import Search
    from storage.learning_values import Job
    from storage.scope import Scope

T = TypeVar("T")

SHOWN_CHARS = 160
MAX_QUESTIONS = 100_000


def add_to(commands: Commands) -> Commands:
    """Add `kb ...`, and return its parsers, for more actions."""
    kb = add_group(commands, "kb", "manage the knowledge base: the articles that answers are based on")
    new = add(
        kb, "add", "add articles from a folder, a file, a web page (URL) or standard input (-)", _add, reports=True
    )
    new.add_argument("target", metavar="PATH|URL|-", help="Markdown, HTML, text, PDF, DOCX, or CSV (question,answer)")
    new.add_argument(
        "--audience", choices=AUDIENCES, default="public", help="who may see the articles; default: public"
    )
    new.add_argument("--name", help="with -: the file name, whose ending names the format, such as returns.md")
    _add_no_wait(new)
    listed = add(kb, "list", "list the articles and their sources", _list, reports=True)
    listed.add_argument("--sources", action="store_true", help="list the sources only")
    show = add(kb, "show", "show an article, divided into its passages", _show, reports=True)
    show.add_argument("article", help="the article's name or id")
    remove = add(kb, "remove", "remove a folder, a file, a web page or an article", _remove, reports=True)
    remove.add_argument("which", help="the source as it was added, or the name of its article")
    _add_no_wait(remove)
    sync = add(kb, "sync", "read all folders, files and web pages again", _sync, reports=True)
    _add_no_wait(sync)
    search = add(kb, "search", "show the passages that the search finds for a question", _search, reports=True)
    search.add_argument("question", help="the question, as people ask it")
    search.add_argument(
        "--audience", choices=AUDIENCES, default="public", help="search what this audience may see; default: public"
    )
    search.add_argument("--most", type=int, default=5, metavar="N", help="show at most N passages; default: 5")
    evaluate = add(
        kb, "evaluate", "measure how often the search finds the right article (recall, MRR)", _evaluate, reports=True
    )
    evaluate.add_argument(
        "file", type=Path, help='JSON lines like {"question": "...", "gold": ["name or id of an article"]}'
    )
    evaluate.add_argument(
        "--misses",
        type=int,
        default=20,
        metavar="N",
        help="show at most N questions whose article is not in first place; default: 20",
    )
    return kb


def _add_no_wait(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-wait", action="store_true", help="queue the job that reads the articles, and don't wait for it"
    )


def _with_library(settings: Settings, work: Callable[[Library], Awaitable[T]]) -> T:
    from bot.knowledge.library import Library

    return with_database(settings, lambda scope: work(Library(scope)))


def _add(settings: Settings, arguments: argparse.Namespace) -> int:
    actor, audience = shell_actor(), arguments.audience
    if arguments.target == "-":
        if not arguments.name:
            raise InvalidInput("With -, name the file: --name returns.md, for example.", field="name")
        content = sys.stdin.buffer.read()
        _, job = _with_library(settings, lambda library: library.upload(actor, arguments.name, content, audience))
    else:
        _, job = _with_library(settings, lambda library: library.add(actor, arguments.target, audience))
    return _see_through(settings, arguments, job)


def _remove(settings: Settings, arguments: argparse.Namespace) -> int:
    _, job = _with_library(settings, lambda library: library.remove(shell_actor(), arguments.which))
    return _see_through(settings, arguments, job)


def _sync(settings: Settings, arguments: argparse.Namespace) -> int:
    return _see_through(settings, arguments, _with_library(settings, lambda library: library.sync(shell_actor())))


def _see_through(settings: Settings, arguments: argparse.Namespace, job: Job) -> int:
    """Wait for the job that reads the changes, and print its result."""
    if arguments.no_wait:
        print_value(job_display.job_row(job) if arguments.json else job.id)
        return 0
    with job_display.display(as_json=arguments.json) as show:
        done = asyncio.run(job_commands.follow(settings, job.id, show))
    result = done.result or {}
    if done.state != "done":
        say(f"The job is {done.state}. {done.error or ''}".strip())
        return 1
    if not arguments.json:
        for unreadable in result.get("unreadable", ()):
            say(f"  left out: {unreadable['file']}: {unreadable['why']}")
        if (more := result["num_unreadable"] - len(result["unreadable"])) > 0:
            say(f"  and {more} more")
        print_value(summary(result))
    return 1 if result["num_unreadable"] else 0


def summary(result: Mapping[str, Any]) -> str:
    """Return the result of a sync as one line."""
    parts = [f"{result[name]} {name}" for name in ("added", "changed", "removed", "unchanged") if result[name]]
    articles, passages = result["articles"], result["passages"]
    left_out = f" {result['num_unreadable']} could not be read." if result["num_unreadable"] else ""
    return (
        f"{articles} article{'s' * (articles != 1)} in {passages} passage{'s' * (passages != 1)}"
        + (f" ({', '.join(parts)})" if parts else "")
        + f".{left_out}"
    )


def _list(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot.knowledge.calibration import Thresholds
    from bot.knowledge.grounding import DEFAULT_THRESHOLD
    from bot.knowledge.library import Library

    async def look(scope: Scope) -> Any:
        actor, library = shell_actor(), Library(scope)
        articles = () if arguments.sources else await library.articles(actor)
        return await library.sources(actor), articles, await Thresholds(scope).current(actor)

    sources, articles, threshold = with_database(settings, look)
    if arguments.json:
        rows: dict[str, Any] = {"sources": [dataclasses.asdict(source) for source in sources]}
        rows["threshold"] = dataclasses.asdict(threshold) if threshold else {"value": DEFAULT_THRESHOLD}
        if not arguments.sources:
            rows["articles"] = [dataclasses.asdict(article) for article in articles]
        print_value(rows)
        return 0
    if not sources:
        print_value("No articles yet. `myna kb add FOLDER` adds some.")
    for source in sources:
        read = job_display.moment_words(source.read_at) if source.read_at else "not read yet"
        print_value(f"{source.kind:7} {source.location}  {source.audience}  {read}")
    if sources:
        set_by = f"set by {threshold.set_by}, {job_display.moment_words(threshold.set_at)}" if threshold else "default"
        value = threshold.value if threshold else DEFAULT_THRESHOLD
        print_value(f"threshold {value:.2f} ({set_by}): the confidence above which a question is answered")
    for article in articles:
        print_value(f"  {article.name}  {article.title}  {article.audience}")
    return 0


def _show(settings: Settings, arguments: argparse.Namespace) -> int:
    shown = _with_library(settings, lambda library: library.show(shell_actor(), arguments.article))
    if arguments.json:
        passages = [{"headings": headings, "text": text} for headings, text in shown.passages]
        print_value(dataclasses.asdict(shown.article) | {"passages": passages})
        return 0
    about = shown.article
    for line in (about.title, f"{about.location}  {about.audience}  {about.url or ''}".rstrip()):
        print_value(line)
    for number, (headings, text) in enumerate(shown.passages, 1):
        print_value(f"\n[{number}] {' > '.join(headings)}".rstrip() + f"\n{text}")
    return 0


@contextlib.asynccontextmanager
async def searching(settings: Settings, scope: Scope) -> AsyncIterator[Search]:
    """Yield a search over the articles, and close it at the end."""
    from bot.knowledge.search.search import make_search

    search = make_search(scope, settings.embedder, settings.data, say)
    try:
        yield search
    finally:
        await search.close()


def _search(settings: Settings, arguments: argparse.Namespace) -> int:
    if arguments.most < 1:
        raise InvalidInput("--most must be 1 or more.", field="most")

    async def look(scope: Scope) -> Any:
        async with searching(settings, scope) as search:
            return await search.find(arguments.question, audiences_of(arguments.audience))

    found = with_database(settings, look)
    hits = found.hits[: arguments.most] if found else []
    if arguments.json:
        print_value(
            [
                {
                    "score": round(hit.score, 4),
                    "article": hit.passage.name,
                    "title": hit.passage.title,
                    "headings": hit.passage.headings,
                    "text": hit.passage.text,
                    "url": hit.passage.url,
                }
                for hit in hits
            ]
        )
        return 0
    if not hits:
        print_value("Nothing was found. `myna kb list` lists the articles.")
    else:
        print_value(f"confidence {found.confidence:.0%} that these passages answer the question")
    for hit in hits:
        path = " > ".join((hit.passage.title, *hit.passage.headings))
        text = " ".join(hit.passage.text.split())
        print_value(f"{hit.score:.2f}  {hit.passage.name}  {path}\n      {text[:SHOWN_CHARS]}")
    return 0


def _evaluate(settings: Settings, arguments: argparse.Namespace) -> int:
    questions = read_questions(arguments.file)

    async def look(scope: Scope) -> list[int | None]:
        places: list[int | None] = []
        async with searching(settings, scope) as search:
            with progress_bar("questions", len(questions)) as bar:
                for row in questions:
                    places.append(await search.place_of(row["question"], row["gold"], AUDIENCES))
                    bar.advance(1)
        return places

    places = with_database(settings, look)
    misses = [
        {"question": row["question"], "gold": row["gold"], "place": None if place is None else place + 1}
        for row, place in zip(questions, places, strict=True)
        if place != 0
    ]
    figures = {
        "questions": len(questions),
        "recall@1": share(places, 1),
        "recall@5": share(places, 5),
        "mrr": round(sum(1 / (place + 1) for place in places if place is not None) / len(places), 4),
    }
    if arguments.json:
        print_value(figures | {"misses": misses})
        return 0
    print_value("  ".join(f"{name} {value}" for name, value in figures.items()))
    for miss in misses[: max(arguments.misses, 0)]:
        where = f"place {miss['place']}" if miss["place"] else "not found"
        print_value(f"  {where}: {miss['question']}  (right: {', '.join(miss['gold'])})")
    return 0


def share(places: Sequence[int | None], most: int) -> float:
    """Return recall@`most`: the share of questions with a right article among the first `most` found."""
    return round(sum(place is not None and place < most for place in places) / len(places), 4)


def read_questions(file: Path, *, may_have_no_answer: bool = False) -> list[dict[str, Any]]:
    """Read questions with the articles that answer them. Raises `InvalidInput` that names a bad line."""
    rows = []
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{file} can't be read: {reason_of(error)}.", field="file") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            gold = [row["gold"]] if isinstance(row["gold"], str) else list(row["gold"])
            if not (isinstance(row["question"], str) and row["question"].strip() and (gold or may_have_no_answer)):
                raise ValueError("question and gold may not be empty")
            rows.append({"question": row["question"], "gold": [Path(str(article)).name for article in gold]})
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            wanted = '{"question": "...", "gold": ["article"]}'
            raise InvalidInput(f"{file}, line {number}: not like {wanted} ({error}).", field="file") from error
    if not rows:
        raise InvalidInput(f"{file} holds no questions.", field="file")
    if len(rows) > MAX_QUESTIONS:
        raise InvalidInput(
            f"{file} holds {len(rows):,} questions; at most {MAX_QUESTIONS:,} are allowed.", field="file"
        )
    return rows
