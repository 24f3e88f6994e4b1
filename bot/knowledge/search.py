"""The search: a question to the passages that answer it, best first.

Knows: in which order words, vectors, database and ranking come. Does not know: what each does, who asks. The model that
makes vectors is loaded at the first search, in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from bot.errors import Conflict
from bot.knowledge.embedder import Embedder, Vectors
from bot.knowledge.ranking import Hit, ask, best_of_articles, rank
from storage import knowledge_search
from storage.database import Database
from storage.knowledge_search import VectorTable
from storage.knowledge_values import Audience, Index

# A person's question; what is longer says the same again.
MAX_QUESTION_CHARS = 2000
MAX_TRIES = 5


def _compute_alone() -> None:
    """Have this thread compute without helpers: for one question they save 2 ms, and then spin where others work."""
    import torch

    torch.set_num_threads(1)


class Search:
    """Searches the knowledge of one workspace. `make_embedder` takes seconds; it is called in a thread, once."""

    def __init__(self, database: Database, workspace_id: str, make_embedder: Callable[[], Embedder]) -> None:
        self._database = database
        self._workspace_id = workspace_id
        self._make_embedder = make_embedder
        self._embedder: Embedder | None = None
        # One thread: the model lets in one at a time anyhow, and a torch thread pool belongs to each thread that calls.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embedder")
        self._index: Index | None = None
        self._vectors: VectorTable | None = None
        self._loading = asyncio.Lock()

    async def search(self, question: str, audiences: Sequence[Audience], most: int = 10) -> list[Hit]:
        """The best passages for people of these audiences. Empty if there is no knowledge, or nothing at all fits.

        Raises `Conflict` if the index was made with another embedder.
        """
        if not audiences or not question.strip():
            return []
        text = question[:MAX_QUESTION_CHARS]
        for _ in range(MAX_TRIES):
            await self._load_index()
            if self._index is None or not self._index.num_passages:
                return []
            index, table = self._index, self._vectors
            vector = (await self._embed([text]))[0]
            self._check_embedder(index)
            asked = ask(text, vector, index)
            found = await self._database.read(
                knowledge_search.candidates, self._workspace_id, asked.words, vector, audiences, index, table
            )
            if found is not None:
                hits = await asyncio.to_thread(rank, asked, found)
                return hits[:most]
            self._index = None  # a sync has been published in between
        return []

    def _check_embedder(self, index: Index) -> None:
        if self._embedder is not None and self._embedder.name != index.embedder:
            raise Conflict(
                f"The articles were read with the embedder {index.embedder}, and {self._embedder.name} is set. "
                "`myna kb sync` reads them again."
            )

    async def place_of(self, question: str, names: Sequence[str], audiences: Sequence[Audience]) -> int | None:
        """The place of the first of these articles (by name or id) among those found, from 0 on; None if not found."""
        hits = best_of_articles(await self.search(question, audiences, most=1000))
        right = set(names)
        places = (n for n, hit in enumerate(hits) if hit.passage.name in right or hit.passage.article_id in right)
        return next(places, None)

    async def warm(self) -> None:
        """Load the model and the index before somebody waits for them."""
        await self._load_index()
        if self._index is not None:
            await self._embed(["warm"])

    async def close(self) -> None:
        """Let go of the thread."""
        await asyncio.to_thread(self._thread.shutdown, wait=True, cancel_futures=True)

    async def _load_index(self) -> None:
        """Read the index, unless a filled one is here already: a search finds out by itself if that is too old."""
        async with self._loading:
            if self._index is None or not self._index.num_passages:
                self._index, self._vectors = await self._database.read(
                    knowledge_search.load_index, self._workspace_id, not self._database.many_processes
                )

    async def _embed(self, texts: Sequence[str]) -> Vectors:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._embed_now, texts)

    def _embed_now(self, texts: Sequence[str]) -> Vectors:
        if self._embedder is None:
            self._embedder = self._make_embedder()
            _compute_alone()
        return self._embedder.embed(texts)
