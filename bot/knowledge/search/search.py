"""The search: a question to the passages that answer it, best first.

Knows: in which order words, vectors, database and ranking come. Does not know: what each does, who asks. The model that
makes vectors is loaded at the first search, in a thread.
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

T = TypeVar("T")

# A person's question; what is longer says the same again.
MAX_QUESTION_CHARS = 2000
MAX_TRIES = 5
# Where there are no articles, every reply would ask the database for them.
LOOK_AGAIN_SECONDS = 1.0


def _compute_alone() -> None:
    """Have this thread compute without helpers: for one question they save 2 ms, and then spin where others work."""
    import torch

    torch.set_num_threads(1)


@dataclass(frozen=True, slots=True)
class Found:
    """What came of a question: passages, best first, and how sure it is that they answer it (0 to 1)."""

    question: Question
    hits: list[Hit]
    confidence: float


def _judge(found: Candidates, question: Question, before: Question | None = None) -> Found:
    hits = rank(question, found, before)
    sure = confidence(question, hits)
    if before is not None and is_dependent(question, found.index):
        sure = max(sure, confidence(before, rank(before, found)))
    return Found(question, hits, sure)


def make_search(scope: Scope, embedder: str, data: Path, say: Callable[[str], None]) -> Search:
    """A search with the embedder of that name, folder or id, fetched into `data` if need be."""

    def make_embedder() -> Embedder:
        return Embedder(resolve_embedder(embedder, data, say), name=embedder)

    return Search(scope, make_embedder)


class Search:
    """Searches the knowledge of one workspace. `make_embedder` takes seconds; it is called in a thread, once."""

    def __init__(self, scope: Scope, make_embedder: Callable[[], Embedder]) -> None:
        self._scope = scope
        self._make_embedder = make_embedder
        self._embedder: Embedder | None = None
        # One thread: the model lets in one at a time anyhow, and a torch thread pool belongs to each thread that calls.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embedder")
        self._index: Index | None = None
        self._vectors: VectorTable | None = None
        self._loading = asyncio.Lock()
        self._look_again = 0.0

    async def search(self, question: str, audiences: Sequence[Audience], most: int = 10) -> list[Hit]:
        """The best passages for people of these audiences. Empty if there is no knowledge, or nothing at all fits.

        Raises `Conflict` if the index was made with another embedder.
        """
        found = await self.find(question, audiences)
        return found.hits[:most] if found else []

    async def find(self, question: str, audiences: Sequence[Audience], before: str = "") -> Found | None:
        """As `search`, with what is known of the question; `before` is what was said before it, for what depends on it.

        None if there are no articles at all, or no question. Raises `Conflict` if the index was made with another
        embedder, or is published anew faster than it is searched.
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
            questions = [ask(one, vector, index) for one, vector in zip((text, context), vectors, strict=False)]
            looked = [await self._candidates(one, audiences, index, table) for one in questions]
            found = [one for one in looked if one is not None]
            if len(found) == len(looked):
                return await asyncio.to_thread(_judge, merged(found), *questions)
            self._index, self._look_again = None, 0.0  # a sync has been published in between
        raise Conflict("The articles change all the time, so that no search comes to its end. Try again.")

    async def _candidates(
        self, asked: Question, audiences: Sequence[Audience], index: Index, table: VectorTable | None
    ) -> Candidates | None:
        return await self._scope.read(knowledge_search.candidates, asked.words, asked.vector, audiences, index, table)

    def _check_embedder(self, index: Index) -> None:
        if self._embedder is not None and self._embedder.name != index.embedder:
            raise Conflict(
                f"The articles were read with the embedder {index.embedder}, and {self._embedder.name} is set. "
                "They must be read again.",
                hint="sync_articles",
            )

    async def place_of(self, question: str, names: Sequence[str], audiences: Sequence[Audience]) -> int | None:
        """The place of the first of these articles (by name or id) among those found, from 0 on; None if not found."""
        hits = best_of_articles(await self.search(question, audiences, most=1000))
        right = set(names)
        places = (n for n, hit in enumerate(hits) if hit.passage.name in right or hit.passage.article_id in right)
        return next(places, None)

    async def warm(self) -> bool:
        """Load the model and the index before somebody waits for them. False if there are no articles."""
        await self._load_index()
        if self._index is None or not self._index.num_passages:
            return False
        await self.embed(["warm"])
        return True

    async def close(self) -> None:
        """Let go of the thread."""
        await asyncio.to_thread(self._thread.shutdown, wait=True, cancel_futures=True)

    async def _load_index(self) -> None:
        """Read the index, unless a filled one is here already: a search finds out by itself if that is too old."""
        async with self._loading:
            is_filled = self._index is not None and self._index.num_passages > 0
            if not is_filled and time.monotonic() >= self._look_again:
                self._index, self._vectors = await self._scope.read(
                    knowledge_search.load_index, not self._scope.database.many_processes
                )
                # Only now: whoever waits behind one that failed may not take it that there are no articles.
                self._look_again = time.monotonic() + LOOK_AGAIN_SECONDS

    async def with_embedder(self, work: Callable[[Embedder], T]) -> T:
        """Something else to be done with the model, in its thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(self._loaded()))

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of texts, by the same model."""
        return await self.with_embedder(lambda embedder: embedder.embed(texts))

    def _loaded(self) -> Embedder:
        if self._embedder is None:
            self._embedder = self._make_embedder()
            _compute_alone()
        return self._embedder
