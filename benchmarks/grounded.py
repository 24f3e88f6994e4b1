"""Grounded replies before and after a training on conversations of one's own, end to end.

    python -m benchmarks.grounded DATA

`DATA/dstc11_grounded` has articles about hotels and restaurants, and conversations that people ended with an answer
from them. The articles are added, four fifths of the conversations are imported without the notes that people had
(`myna import`) and trained on (`myna train`); the training looks up what the answers stand on as chats do. Of the
conversations of the other fifth, which share no beginning with them, the last question is asked of the starter model
and of the version: same passages, same prompt. Prints ROUGE-L against the human answer, and how many of the numbers
and names in the replies stand in the passages or the conversation. Works in a data folder of its own; `--data FOLDER`
keeps it, and goes on with what is there.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import re
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.learning import myna
from benchmarks.table import print_rows
from bot.generation.engine.local import LocalGenerator
from bot.generation.models.sources import resolve_model
from bot.generation.port import ChatMessage, Piece, Prompt, Sampling
from bot.generation.prompt import with_passages
from bot.knowledge.grounding import CONTEXT_MESSAGES, worth_reading
from bot.knowledge.search.search import Search, make_search
from bot.knowledge.setup import words_of_articles
from bot.learning.judge.measures import rouge_l
from bot.learning.versions import folder_of
from bot.settings import Settings
from storage.database import Database
from storage.schema import DEFAULT_WORKSPACE
from storage.scope import Scope
from storage.values import Quotation

HELD_OUT = 5
LEARNT, QUESTIONS = 500, 120
MOST_TOKENS = 160
# Numbers, and words with a capital that do not begin a sentence.
_FACT = re.compile(r"\d+(?:[.,:]\d+)*|(?<=[a-z,;] )[A-Z][a-z]{2,}")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question of the held-out fifth, with the passages retrieved for it and the human answer."""

    prompt: Prompt
    told: str
    wanted: str


def is_held_out(row: dict[str, Any]) -> bool:
    return hashlib.sha256(row["group"].encode()).digest()[0] % HELD_OUT == 0


def write_articles(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write one file for each place: questions with their answers, then the reviews of guests."""
    folder.mkdir(parents=True)
    for row in rows:
        reviews: dict[str, list[str]] = {}
        lines = [f"# {row['title']}"]
        for one in row["snippets"]:
            if one["type"] == "faq":
                lines.append(one["text"])
            else:
                reviews.setdefault(one["id"].rsplit("-", 1)[0], []).append(one["text"])
        if reviews:
            lines += ["## Reviews", *(" ".join(sentences) for sentences in reviews.values())]
        (folder / f"{row['id']}.md").write_text("\n\n".join(lines) + "\n", encoding="utf-8")


def as_talk(row: dict[str, Any]) -> list[dict[str, str]]:
    """Return the conversation without notes, all answers but the last marked as the bot's: only that one is learnt."""
    *before, answer = row["messages"][1:]
    return [*({**one, "author": "bot"} if one["role"] == "assistant" else one for one in before), answer]


def train(data: Path, source: Path, rows: Sequence[dict[str, Any]], count: int) -> str:
    """Read the articles, import the conversations and train, all by `myna`; return the version's name."""
    articles = [json.loads(line) for line in (source / "articles.jsonl").read_text(encoding="utf-8").splitlines()]
    if not (data / "articles").exists():
        write_articles(articles, data / "articles")
        print(myna(data, "kb", "add", str(data / "articles")))
    talks = data / "talks.jsonl"
    lines = [json.dumps({**row, "messages": as_talk(row)}) for row in rows if not is_held_out(row)]
    talks.write_text("\n".join(lines), encoding="utf-8")
    myna(data, "import", str(talks))
    code, job = myna(data, "train", "--rows", str(count), "--wait")
    if code not in (0, 3) or not job or not job.get("result"):
        raise SystemExit(f"the training ended with {code}: {job}")
    return str(job["result"]["version"])


async def prepare(
    rows: Sequence[dict[str, Any]], search: Search, generator: LocalGenerator, settings: Settings
) -> list[Asked]:
    prompts = []
    for row in rows:
        talk = [ChatMessage(one["role"], one["content"]) for one in row["messages"][1:]]
        *before, asked, answer = talk
        context = "\n".join(one.content for one in before[-CONTEXT_MESSAGES:])
        found = await search.find(asked.content, ("public",), context)
        assert found is not None
        chosen = [one.passage for one in worth_reading(found, words_of_articles(settings))]
        quoted = [Quotation(one.title, one.headings, one.text) for one in chosen]
        messages = [ChatMessage("system", settings.system_prompt), *with_passages([*before, asked], quoted)]
        told = "\n".join(one.content for one in messages)
        prompts.append(Asked(await generator.encode(messages), told, answer.content))
    return prompts


async def reply(generator: LocalGenerator, asked: Asked, version: str | None) -> str:
    sampling = Sampling(max_tokens=MOST_TOKENS, temperature=0.0)
    async with aclosing(generator.stream(asked.prompt, sampling, version)) as stream:
        return "".join([event.text async for event in stream if isinstance(event, Piece)])


def facts(text: str, told: str) -> tuple[int, int]:
    """Count the numbers and names in a text, and those of them found in the given texts."""
    found = _FACT.findall(text)
    there = told.lower()
    return len(found), sum(one.lower() in there for one in found)


async def measure(data: Path, version: str, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    settings = Settings(data=data)
    database = Database(settings.resolved_database_url)
    search = make_search(Scope(database, DEFAULT_WORKSPACE), settings.embedder, data, print)
    folder = resolve_model(settings.model, data, print)
    generator = LocalGenerator(folder, name=settings.model, device="cpu", context_tokens=settings.context_tokens)
    await generator.start()
    try:
        await generator.load_version(version, folder_of(data, version))
        questions = await prepare(rows, search, generator, settings)
        found = []
        for name, which in (("starter model", None), (version, version)):
            replies = [await reply(generator, one, which) for one in questions]
            counted = [facts(text, one.told) for text, one in zip(replies, questions, strict=True)]
            scores = [rouge_l(text, one.wanted) for text, one in zip(replies, questions, strict=True)]
            total, there = (sum(one[place] for one in counted) for place in (0, 1))
            found.append(
                {
                    "replies by": name,
                    "questions": len(replies),
                    "ROUGE-L": round(statistics.mean(scores), 3),
                    "numbers and names": total,
                    "told": round(there / max(total, 1), 3),
                    "words": round(statistics.mean(len(one.split()) for one in replies), 1),
                    "example": replies[0][:160],
                }
            )
        return found
    finally:
        await generator.close()
        await search.close()
        await database.close()


def run(data: Path, source: Path, learnt: int, count: int) -> None:
    data.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in (source / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    known = data / "version.txt"
    if not known.exists():
        known.write_text(train(data, source, rows, learnt))
    held_out = [row for row in rows if is_held_out(row)]
    found = asyncio.run(measure(data, known.read_text(), held_out[:count]))
    print_rows(found, as_json=False)
    print(f"ROUGE-L, ours / starter model: {found[1]['ROUGE-L'] / found[0]['ROUGE-L']:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="DATA")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rows", type=int, default=LEARNT, help="so many answers are learnt from")
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="at most so many are asked")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(arguments.data or Path(folder), arguments.source / "dstc11_grounded", arguments.rows, arguments.questions)


if __name__ == "__main__":
    main()
