"""Search contract: both databases return equal hits, scores and order."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest

from bot.knowledge.search.embedder import Vectors
from bot.knowledge.search.search import Search
from bot.knowledge.search.tokens import words
from storage import jobs, knowledge
from storage.database import Database
from storage.knowledge_values import Article, Index, NewPassage
from storage.schema import DEFAULT_WORKSPACE
from storage.scope import Scope
from storage.values import new_id
from tests.conftest import new_postgres_database

NOUNS = """parcel refund invoice rose tulip delivery norway payment card address size colour return voucher gift account
password phone shop hour sunday warranty repair battery screen cable charger adapter letter stamp weight""".split()
AUDIENCES = ("public", "customers", "staff")


class CountingEmbedder:
    """Embedder that counts nouns: similar texts are near, without a model."""

    name = "counting"

    def embed(self, texts: Sequence[str]) -> Vectors:
        rows = np.array([[text.lower().count(noun) + 0.01 for noun in NOUNS] for text in texts], np.float32)
        found: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return found


class Hit(NamedTuple):
    name: str
    number: int
    score: float


class Both:
    """Same articles in SQLite and in PostgreSQL."""

    def __init__(self, databases: Sequence[Database]) -> None:
        embedder: Any = CountingEmbedder()
        self.databases = databases
        self.searches = [Search(Scope(one, DEFAULT_WORKSPACE), lambda: embedder) for one in databases]

    async def search(self, question: str, audiences: Sequence[Any], most: int) -> list[list[Hit]]:
        results = []
        for one in self.searches:
            hits = await one.search(question, audiences, most)
            results.append([Hit(hit.passage.name, hit.passage.number, round(hit.score, 4)) for hit in hits])
        return results


async def fill(database: Database) -> None:
    """Store sixty articles of random sentences: some current, some ended, some not published yet."""
    chance, embedder = random.Random(7), CountingEmbedder()
    await database.write(jobs.create, DEFAULT_WORKSPACE, "test", "sync", {}, device=jobs.KNOWLEDGE_DEVICE)
    lease = await database.write(jobs.claim, None, "test", 60_000, jobs.KNOWLEDGE_DEVICE)
    assert lease is not None
    source = await database.write(knowledge.put_source, DEFAULT_WORKSPACE, "test", "upload", "upload:a", "public", b"")
    counts: Counter[str] = Counter()
    ended = []
    lengths = []
    for number in range(60):
        texts = [" ".join(chance.choices(NOUNS, k=12)) + "." for _ in range(chance.randint(1, 8))]
        vectors = embedder.embed(texts)
        passages = [
            NewPassage(("Part",), text, " ".join(words(text)), vector)
            for text, vector in zip(texts, vectors, strict=True)
        ]
        about = Article(
            new_id(),
            source.id,
            f"article-{number:02}",
            "upload:a",
            f"Title {number}",
            None,
            None,
            AUDIENCES[number % 3],
            "hash",
            0,
        )
        await database.write(knowledge.add_article, DEFAULT_WORKSPACE, lease, about, passages, 2 if number < 3 else 1)
        if 3 <= number < 6:
            ended.append(about.id)
        if number >= 3:
            counts.update({word for one in passages for word in one.words.split()})
            lengths += [len(one.words.split()) for one in passages]
    index = Index(1, CountingEmbedder.name, 57, len(lengths), sum(lengths) / len(lengths), counts, 0)
    await database.write(knowledge.publish, DEFAULT_WORKSPACE, lease, index, ended, [source.id])


@pytest.fixture
async def both(sqlite_url: str, postgres: Any, migrated_postgres: str) -> AsyncIterator[Both]:
    databases = [Database(sqlite_url), Database(new_postgres_database(postgres, migrated_postgres))]
    for one in databases:
        await fill(one)
    made = Both(databases)
    yield made
    for search in made.searches:
        await search.close()
    for one in databases:
        await one.close()


async def test_both_databases_return_equal_hits_in_equal_order(both: Both) -> None:
    chance = random.Random(3)
    for number in range(40):
        question = "What about " + " ".join(chance.choices(NOUNS, k=1 + number % 5)) + "?"
        # Far down, among those as near as the last that is looked at, databases may choose differently.
        first, second = await both.search(question, AUDIENCES[: 1 + number % 3], most=10)
        assert first == second, question
        assert first, question


async def test_other_audiences_and_versions_stay_hidden(both: Both) -> None:
    for audiences in (("public",), ("customers",), ("staff",), AUDIENCES):
        allowed = {f"article-{number:02}" for number in range(6, 60) if AUDIENCES[number % 3] in audiences}
        for found in await both.search(" ".join(NOUNS), audiences, most=50):
            assert {hit.name for hit in found} <= allowed
            assert len(found) == 50
