"""Sync job: read all sources, index changes and publish them at once.

The job may be restarted at any time: the next run removes rows that were not published.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from bot.generation.models.sources import resolve_embedder
from bot.jobs.contract import JobContext, Services
from bot.knowledge.reading import passages
from bot.knowledge.reading.article_sources import fetch, files_of, read_file
from bot.knowledge.reading.documents import Document
from bot.knowledge.reading.formats import Unreadable, read_document
from bot.knowledge.reading.passages import Passage
from bot.knowledge.search.embedder import Embedder
from bot.knowledge.search.tokens import words
from storage import knowledge
from storage.knowledge_values import Article, Index, NewPassage, Source
from storage.values import new_id, storable

# Part of each digest: a change of these numbers cuts the same files differently, so that all are indexed anew.
FORM = f"1 {passages.MAX_WORDS}"
MAX_TOLD = 50
PASSAGES_AT_ONCE = 256


@dataclass(slots=True)
class _Found:
    """Results so far. `kept` are ids of unchanged articles, `read` ids of sources."""

    added: int = 0
    changed: int = 0
    removed: int = 0
    unreadable: list[dict[str, str]] = field(default_factory=list)
    kept: set[str] = field(default_factory=set)
    read: list[str] = field(default_factory=list)

    def cannot_read(self, what: str, why: str) -> None:
        self.unreadable.append({"file": what, "why": why})


def sync(context: JobContext, services: Services) -> Mapping[str, Any]:
    """Read every source and publish a new version of the index. Returns the counts for the job's report."""
    import torch

    torch.set_num_threads(services.threads)
    return _Sync(context, services).run()


def _new_passage(document: Document, passage: Passage, vector: Any) -> NewPassage:
    whole = " . ".join((document.title, *passage.headings, passage.text))
    headings = tuple(storable(heading) for heading in passage.headings)
    return NewPassage(headings, storable(passage.text), " ".join(words(whole)), vector)


class _Sync:
    def __init__(self, context: JobContext, services: Services) -> None:
        self._context, self._services = context, services
        self._embedder_name = services.settings.embedder
        self._embedder: Embedder | None = None
        self._found = _Found()
        self._waiting: list[tuple[Article, Document, list[Passage]]] = []

    def run(self) -> Mapping[str, Any]:
        self._progress("read")
        while self._write(knowledge.begin):
            self._context.check()
        while self._write(knowledge.clear_past):
            self._context.check()
        self._version = self._read(knowledge.version) + 1
        index = self._read(knowledge.index)
        # Vectors of two models can't be compared.
        self._may_keep = index is None or index.embedder == self._embedder_name
        self._current = {(article.source_id, article.location): article for article in self._read(knowledge.articles)}
        sources = [source for source in self._read(knowledge.sources) if source.removed_at is None]
        for source in sources:
            self._read_source(source)
        self._store_waiting()
        ended = [article.id for article in self._current.values() if article.id not in self._found.kept]
        self._found.removed = len(ended) - self._found.changed
        self._publish(ended)
        found = self._found
        return {
            "version": self._version,
            "articles": self._num_articles,
            "passages": self._num_passages,
            "added": found.added,
            "changed": found.changed,
            "removed": found.removed,
            "unchanged": len(found.kept),
            "unreadable": found.unreadable[:MAX_TOLD],
            "num_unreadable": len(found.unreadable),
        }

    def _read_source(self, source: Source) -> None:
        """Read one source. An article that can't be read now stays as it was."""
        try:
            for location, name, content in self._contents(source):
                self._context.check()
                self._progress("read", file=location)
                try:
                    self._take(source, location, name, content() if callable(content) else content)
                except Unreadable as error:
                    self._keep_as_it_was(source, location, str(error))
            self._found.read.append(source.id)
        except Unreadable as error:
            self._found.cannot_read(source.location, str(error))
            for owner, location in self._current:
                if owner == source.id:
                    self._keep(source, location)

    def _contents(self, source: Source) -> Iterator[tuple[str, str, Any]]:
        """Yield `(location, file name, content or a function that reads it)` for each file of a source."""
        if source.kind == "folder":
            root = Path(source.location)
            for location, file in files_of(root):
                yield storable(location), storable(file.name), lambda file=file: read_file(file, within=root)
        elif source.kind == "file":
            file = Path(source.location)
            yield source.location, file.name, lambda: read_file(file)
        elif source.kind == "url":
            name, content = self._context.run(fetch(source.location))
            yield source.location, name, content
        else:
            content = self._read(knowledge.content, source.id, source.audience)
            if content is None:
                raise Unreadable("its audience has just changed; the next sync reads it")
            yield source.location, source.location.removeprefix("upload:"), content

    def _keep_as_it_was(self, source: Source, location: str, why: str) -> None:
        self._found.cannot_read(location, why)
        self._keep(source, location)

    def _keep(self, source: Source, location: str) -> None:
        old = self._current.get((source.id, location))
        # An article whose audience has become smaller may not stay visible to the larger one.
        if old is not None and self._may_keep and old.audience == source.audience:
            self._found.kept.add(old.id)

    def _take(self, source: Source, location: str, name: str, content: bytes) -> None:
        digest = self._digest(source, name, content)
        old = self._current.get((source.id, location))
        if old is not None and old.sha256 == digest:
            self._found.kept.add(old.id)
            return
        document = read_document(name, content)
        self._waiting.append((self._about(source, location, name, digest, document), document, passages.cut(document)))
        self._found.changed += old is not None
        self._found.added += old is None
        if sum(len(pieces) for _, _, pieces in self._waiting) >= PASSAGES_AT_ONCE:
            self._store_waiting()

    def _about(self, source: Source, location: str, name: str, digest: str, document: Document) -> Article:
        return Article(
            new_id(),
            source.id,
            storable(document.id or PurePosixPath(name).stem)[:200],
            storable(location),
            storable(document.title)[:500],
            document.url or (source.location if source.kind == "url" else None),
            document.language or None,
            source.audience,
            digest,
            0,
        )

    def _digest(self, source: Source, name: str, content: bytes) -> str:
        """Return the SHA-256 of everything that an article's row and passages depend on."""
        digest = hashlib.sha256(f"{FORM}\n{self._embedder_name}\n{source.audience}\n{name}\n".encode())
        digest.update(content)
        return digest.hexdigest()

    def _store_waiting(self) -> None:
        """Embed and store the waiting passages: a large batch takes half the time of single texts."""
        texts = [
            f"{' > '.join((document.title, *piece.headings))}\n{piece.text}"
            for _, document, pieces in self._waiting
            for piece in pieces
        ]
        vectors = iter(self._load_embedder().embed(texts) if texts else ())
        for about, document, pieces in self._waiting:
            self._context.check()
            new = [_new_passage(document, piece, next(vectors)) for piece in pieces]
            self._write(knowledge.add_article, about, new, self._version)
        self._waiting.clear()

    def _publish(self, ended: list[str]) -> None:
        self._progress("publish")
        gone, after = set(ended), 0
        counts: Counter[str] = Counter()
        of_article: dict[str, set[str]] = {}
        num_words = self._num_passages = 0
        while page := self._read(knowledge.words_of, self._version, after):
            self._context.check()
            after = page[-1][0]
            for _, article_id, text in page:
                if article_id in gone:
                    continue
                there = text.split()
                self._num_passages += 1
                num_words += len(there)
                of_article.setdefault(article_id, set()).update(there)
        for there_once in of_article.values():
            counts.update(there_once)
        self._num_articles = len(of_article)
        average = num_words / self._num_passages if self._num_passages else 0.0
        index = Index(self._version, self._embedder_name, self._num_articles, self._num_passages, average, counts, 0)
        self._write(knowledge.publish, index, ended, self._found.read)

    def _load_embedder(self) -> Embedder:
        if self._embedder is None:
            self._progress("load")
            settings = self._services.settings
            folder = resolve_embedder(settings.embedder, settings.data, lambda line: self._progress("load", file=line))
            self._embedder = Embedder(folder, name=settings.embedder)
        return self._embedder

    def _progress(self, phase: str, **more: Any) -> None:
        done = self._found.added + self._found.changed + len(self._found.kept)
        self._context.progress(phase=phase, step=done, **more)

    def _read(self, unit: Any, *args: Any) -> Any:
        return self._context.run(self._services.database.read(unit, self._context.workspace_id, *args))

    def _write(self, unit: Any, *args: Any) -> Any:
        return self._context.run(
            self._services.database.write(unit, self._context.workspace_id, self._context.lease, *args)
        )
