"""Hybrid search: embed a question, fetch candidates and rank them.

The embedder is loaded at the first search, in a thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bot.errors import Conflict
from bot.generation.models.sources import resolve_embedder
from bot.knowledge.search.embedder import Embedder, Vectors
from bot.knowledge.search.ranking import Hit, Question, ask, best_of_articles, confidence, is_dependent, merged, rank
from storage import knowledge_search
from storage.knowledge_search import VectorTable
from storage.knowledge_values import Audience, Candidates, Index
from storage.scope import Scope

# Called with the work that is done and the whole of it.
OnProgress = Callable[[int, int], None]
T = TypeVar("T")

# A longer question says nothing new.
MAX_QUESTION_CHARS = 2000
MAX_TRIES = 5
# Without this pause, every reply of an installation without articles would query the database for them.
LOOK_AGAIN_SECONDS = 1.0


def _compute_alone() -> None:
    """Let this thread compute alone: torch's helper threads save 2 ms a question, then spin on busy cores."""
    import torch

    torch.set_num_threads(1)


@dataclass(frozen=True, slots=True)
class Found:
    """Result of a search: passages, best first, and the confidence (0 to 1) that they answer the question."""

    question: Question
    hits: list[Hit]
    confidence: float


def _judge(found: Candidates, question: Question, before: Question | None = None) -> Found:
    hits = rank(question, found, before)
    sureness = confidence(question, hits)
    if before is not None and is_dependent(question, found.index):
        sureness = max(sureness, confidence(before, rank(before, found)))
    return Found(question, hits, sureness)


def make_search(scope: Scope, embedder: str, data: Path, say: Callable[[str], None]) -> Search:
    """Return a search with the embedder of a name, folder or id, downloaded into `data` if missing."""

    def make_embedder() -> Embedder:
        return Embedder(resolve_embedder(embedder, data, say), name=embedder)

    return Search(scope, make_embedder)


class Search:
    """Search in the articles of one workspace. `make_embedder` takes seconds; it is called once, in a thread."""

    def __init__(self, scope: Scope, make_embedder: Callable[[], Embedder]) -> None:
        self._scope = scope
        self._make_embedder = make_embedder
        self._embedder: Embedder | None = None
        # One thread: the embedder runs one call at a time anyhow, and each calling thread gets a torch pool of its own.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embedder")
        self._index: Index | None = None
        self._vectors: VectorTable | None = None
        self._loading = asyncio.Lock()
        self._look_again = 0.0

    async def search(self, question: str, audiences: Sequence[Audience], most: int = 10) -> list[Hit]:
        """Return the best passages for these audiences; empty if there are no articles, or none fits.

        Raises `Conflict` as `find` does.
        """
        found = await self.find(question, audiences)
        return found.hits[:most] if found else []

    async def find(self, question: str, audiences: Sequence[Audience], before: str = "") -> Found | None:
        """Search and return all passages with the confidence; None without articles or without a question.

        `before`, the conversation so far, helps with a question that depends on it. Raises `Conflict` if the index was
        made with another embedder, or if syncs publish it faster than it can be searched.
        """
        if not audiences or not question.strip():
            return None
        text, context = question[:MAX_QUESTION_CHARS], before.strip()[-MAX_QUESTION_CHARS:]
        for _ in range(MAX_TRIES):
            await self._load_index()
            if self._index is None or not self._index.num_passages:
                return None
            index, table = self._index, self._vectors
            vectors = await self.embed([text, context] if context else [text])
            self._check_embedder(index)
            questions = [ask(asked, vector, index) for asked, vector in zip((text, context), vectors, strict=False)]
            looked = [await self._candidates(question, audiences, index, table) for question in questions]
            found = [candidates for candidates in looked if candidates is not None]
            if len(found) == len(looked):
                return await asyncio.to_thread(_judge, merged(found), *questions)
            self._index, self._look_again = None, 0.0  # a sync has published another version in between
        raise Conflict("The articles change too often for a search to finish. Try again.")

    async def _candidates(
        self, asked: Question, audiences: Sequence[Audience], index: Index, table: VectorTable | None
    ) -> Candidates | None:
        return await self._scope.read(knowledge_search.candidates, asked.words, asked.vector, audiences, index, table)

    def _check_embedder(self, index: Index) -> None:
        if self._embedder is not None and self._embedder.name != index.embedder:
            raise Conflict(
                f"The articles were read with the embedder {index.embedder}, but {self._embedder.name} is set now. "
                "They must be read again.",
                hint="sync_articles",
            )

    async def place_of(self, question: str, names: Sequence[str], audiences: Sequence[Audience]) -> int | None:
        """Return the rank, from 0, of the first of these articles (by name or id); None if none was found."""
        hits = best_of_articles(await self.search(question, audiences, most=1000))
        right = set(names)
        places = (n for n, hit in enumerate(hits) if hit.passage.name in right or hit.passage.article_id in right)
        return next(places, None)

    async def warm(self) -> bool:
        """Load the embedder and the index ahead of the first search. Returns False if there are no articles."""
        await self._load_index()
        if self._index is None or not self._index.num_passages:
            return False
        await self.embed(["warm"])
        return True

    async def close(self) -> None:
        """End the embedder's thread."""
        await asyncio.to_thread(self._thread.shutdown, wait=True, cancel_futures=True)

    async def _load_index(self) -> None:
        """Read the index unless a filled one is in memory; a search notices by itself if that is outdated."""
        async with self._loading:
            is_filled = self._index is not None and self._index.num_passages > 0
            if not is_filled and time.monotonic() >= self._look_again:
                self._index, self._vectors = await self._scope.read(
                    knowledge_search.load_index, not self._scope.database.many_processes
                )
                # Set only after success: after a failed read, nobody may conclude that there are no articles.
                self._look_again = time.monotonic() + LOOK_AGAIN_SECONDS

    async def with_embedder(self, work: Callable[[Embedder], T]) -> T:
        """Run `work` with the embedder in its thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(self._load_embedder()))

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of texts."""
        return await self.with_embedder(lambda embedder: embedder.embed(texts))

    def _load_embedder(self) -> Embedder:
        if self._embedder is None:
            self._embedder = self._make_embedder()
            _compute_alone()
        return self._embedder
