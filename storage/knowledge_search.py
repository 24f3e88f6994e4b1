"""Retrieve candidate passages by full text and by nearest vectors.

Only published articles for the asker's audiences are seen. Both databases return the same passages.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.dialects.postgresql import TSQUERY

from storage.knowledge import index, is_current, version
from storage.knowledge_schema import FULL_TEXT, article, passage
from storage.knowledge_values import AUDIENCES, Audience, Candidates, Index, StoredPassage
from storage.transaction import Transaction, scoped, scoped_for_each

# Candidates by words, and as many by vectors.
MOST_OF_EACH = 60
# Words are looked up from the rarest on until they have this many matches: frequent words match nearly everything.
MOST_MATCHES = 800

_full_text = sa.Table(
    FULL_TEXT,
    sa.MetaData(),
    sa.Column("rowid", sa.Integer),
    sa.Column("workspace_id", sa.Text),
    sa.Column("words", sa.Text),
)
_in_articles = passage.join(article, article.c.id == passage.c.article_id)
_is_seen = sa.and_(is_current, article.c.audience.in_(bindparam("audiences", expanding=True)))
_of_word = sa.func.array_to_tsvector(sa.func.string_to_array(passage.c.words, sa.literal_column("' '")))
_word: sa.BindParameter[str] = bindparam("word", type_=sa.Text)


def _quoted(mark: str) -> sa.ColumnElement[str]:
    """Quote the word, so that neither query language reads it as an operator. A word contains no quotes."""
    return sa.literal(mark) + _word + sa.literal(mark)


_WITH_WORD = scoped_for_each(
    {
        "sqlite": sa.select(passage.c.id)
        .select_from(_in_articles.join(_full_text, _full_text.c.rowid == passage.c.id))
        .where(_is_seen, _full_text.c.words.op("MATCH")(_quoted('"'))),
        "postgresql": sa.select(passage.c.id)
        .select_from(_in_articles)
        .where(_is_seen, _of_word.op("@@")(sa.cast(_quoted("'"), TSQUERY))),
    }
)
_NEAREST = scoped(
    sa.select(passage.c.id)
    .select_from(_in_articles)
    .where(_is_seen)
    .order_by(passage.c.vector.cosine_distance(bindparam("near", type_=passage.c.vector.type)), passage.c.id)
    .limit(bindparam("most", type_=sa.Integer))
)
_VECTORS = scoped(
    sa.select(passage.c.id, passage.c.vector, article.c.audience)
    .select_from(_in_articles)
    .where(is_current)
    .order_by(passage.c.id)
)
_ids: sa.BindParameter[int] = bindparam("ids", expanding=True)
_PASSAGES = scoped(
    sa.select(*(getattr(passage.c if name in passage.c else article.c, name) for name in StoredPassage.__slots__))
    .select_from(_in_articles)
    .where(_is_seen, passage.c.id.in_(_ids))
    .order_by(passage.c.id)
)
_BEGINNINGS = scoped(
    sa.select(passage.c.article_id, passage.c.vector).where(
        passage.c.article_id.in_(bindparam("articles", expanding=True)), passage.c.number == 0
    )
)


class VectorTable:
    """All vectors of one version of the index in memory, for SQLite, which can't compare vectors itself.

    `ids` holds the ids of the passages, ascending; the vectors have shape `(number of passages, dimensions)`, float32.
    """

    def __init__(self, at_version: int, rows: Sequence[Any]) -> None:
        self.version = at_version
        self.ids = np.array([row.id for row in rows], np.int64)
        self._numbers = {each: np.flatnonzero([row.audience == each for row in rows]) for each in AUDIENCES}
        self._vectors: npt.NDArray[np.float32] = (
            np.stack([row.vector for row in rows]) if rows else np.zeros((0, 1), np.float32)
        )

    def nearest(self, vector: npt.NDArray[np.float32], audiences: Sequence[Audience], most: int) -> list[int]:
        """Return the ids of the passages nearest to a vector, among those for these audiences, nearest first."""
        seen = np.concatenate([self._numbers[audience] for audience in audiences])
        if not len(seen):
            return []
        likeness = (self._vectors @ vector)[seen]
        if len(seen) > most:
            best = np.argpartition(-likeness, most)[:most]
            seen, likeness = seen[best], likeness[best]
        return [int(passage_id) for passage_id in self.ids[seen][np.lexsort((seen, -likeness))]]


def vectors(tx: Transaction) -> VectorTable:
    """Load the vectors of the published version."""
    at_version = version(tx)
    return VectorTable(at_version, tx.execute(_VECTORS, at_version=at_version).all())


def candidates(
    tx: Transaction,
    words: Mapping[str, float],
    vector: npt.NDArray[np.float32],
    audiences: Sequence[Audience],
    known: Index,
    table: VectorTable | None,
) -> Candidates | None:
    """Return the candidate passages; None if `known` is no longer the published index, or `table` has another version.

    `words` maps the question's words to their weights. `table` is for SQLite; PostgreSQL compares vectors itself.
    """
    if version(tx) != known.version or (table is not None and table.version != known.version):
        return None
    seen: dict[str, Any] = {"at_version": known.version, "audiences": list(audiences)}
    ids = set(_with_rare_words(tx, words, seen))
    if table is not None:
        ids |= set(table.nearest(vector, audiences, MOST_OF_EACH))
    else:
        ids |= set(tx.execute(_NEAREST, near=vector, most=MOST_OF_EACH, **seen).scalars())
    rows = tx.execute(_PASSAGES, ids=sorted(ids), **seen) if ids else ()
    found = [StoredPassage(**{**row._mapping, "headings": tuple(row.headings)}) for row in rows]
    article_ids = sorted({each.article_id for each in found})
    rows = tx.execute(_BEGINNINGS, articles=article_ids) if article_ids else ()
    beginnings = {row.article_id: row.vector for row in rows}
    return Candidates(known, found, beginnings)


def _with_rare_words(tx: Transaction, words: Mapping[str, float], seen: Mapping[str, Any]) -> list[int]:
    """Return the ids of the passages with the highest sum of word weights, looking up the rarest words first."""
    weights: dict[int, float] = defaultdict(float)
    left = MOST_MATCHES
    for word, weight in sorted(words.items(), key=lambda item: (-item[1], item[0])):
        if left <= 0:
            break
        matches = tx.execute(_WITH_WORD, word=word, **seen).scalars().all()
        left -= len(matches)
        for passage_id in matches:
            weights[passage_id] += weight
    return sorted(weights, key=lambda passage_id: (-weights[passage_id], passage_id))[:MOST_OF_EACH]


def load_index(tx: Transaction, is_sqlite: bool) -> tuple[Index | None, VectorTable | None]:
    """Return the published index, and for SQLite its vectors."""
    return index(tx), vectors(tx) if is_sqlite else None
