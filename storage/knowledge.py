"""Knowledge sources, articles, the index's versions and the threshold.

A sync adds articles under the next version of the index, which nobody sees, and publishes them all at once. Rows of a
version above the index's own are therefore unfinished. Every function is a unit of work.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from storage import audit
from storage.jobs import JobLease, hold
from storage.knowledge_schema import (
    article,
    curated_answer,
    intent_set,
    knowledge_index,
    knowledge_source,
    knowledge_threshold,
    passage,
)
from storage.knowledge_values import AnsweringRules, Article, Audience, Index, NewPassage, Source, SourceKind, Threshold
from storage.transaction import Transaction, now_ms, scoped
from storage.values import new_id, storable

_source_columns = [getattr(knowledge_source.c, name) for name in Source.__slots__]
_article_columns = [getattr(article.c, name) for name in Article.__slots__]
_which: sa.BindParameter[str] = bindparam("which")
_version: sa.BindParameter[int] = bindparam("at_version", type_=sa.BigInteger)
_ids: sa.BindParameter[str] = bindparam("ids", expanding=True)

is_current = sa.and_(
    article.c.from_version <= _version, sa.or_(article.c.until_version.is_(None), article.c.until_version > _version)
)


# --- sources ---


def _put_source_clause(insert: Any) -> sa.Executable:
    new = insert(knowledge_source).values(added_at=now_ms())
    clause: sa.Executable = new.on_conflict_do_update(
        index_elements=["workspace_id", "location"],
        set_={name: new.excluded[name] for name in ("kind", "audience", "content", "added_by")} | {"removed_at": None},
    )
    return clause


_PUT_SOURCE = scoped(_put_source_clause)
_SOURCE_AT = scoped(sa.select(*_source_columns).where(knowledge_source.c.location == bindparam("where")))


def put_source(
    tx: Transaction, actor: str, kind: SourceKind, location: str, audience: Audience, content: bytes | None = None
) -> Source:
    """Add a source, or change the source at that location. The next sync reads it."""
    tx.execute(
        _PUT_SOURCE, id=new_id(), kind=kind, location=location, audience=audience, content=content, added_by=actor
    )
    audit.record(tx, actor, "knowledge.add", location, {"kind": kind, "audience": audience})
    return Source(**tx.execute(_SOURCE_AT, where=location).one()._mapping)


_SOURCES = scoped(sa.select(*_source_columns).order_by(knowledge_source.c.location))


def sources(tx: Transaction) -> list[Source]:
    """Return all sources, by location."""
    return [Source(**row._mapping) for row in tx.execute(_SOURCES)]


_REMOVE_SOURCE = scoped(
    sa.update(knowledge_source)
    .where(knowledge_source.c.location == bindparam("where"), knowledge_source.c.removed_at.is_(None))
    .values(removed_at=now_ms())
    .returning(knowledge_source.c.id)
)


def remove_source(tx: Transaction, actor: str, location: str) -> bool:
    """Mark a source for the next sync to take out of the index; False if there is no such source."""
    if tx.execute(_REMOVE_SOURCE, where=location).first() is None:
        return False
    audit.record(tx, actor, "knowledge.remove", location)
    return True


_CONTENT = scoped(
    sa.select(knowledge_source.c.content).where(
        knowledge_source.c.id == _which, knowledge_source.c.audience == bindparam("audience")
    )
)


def content(tx: Transaction, source_id: str, audience: Audience) -> bytes | None:
    """Return an upload's content; None if the source is no upload, has another audience now, or does not exist."""
    found: bytes | None = tx.execute(_CONTENT, which=source_id, audience=audience).scalar()
    return found


# --- articles ---

_VERSION = scoped(sa.select(knowledge_index.c.version))


def version(tx: Transaction) -> int:
    """Return the published version of the index; 0 before the first sync."""
    return tx.execute(_VERSION).scalar() or 0


_INDEX = scoped(sa.select(*(column for column in knowledge_index.c if column.name != "workspace_id")))


def index(tx: Transaction) -> Index | None:
    """Return the published index; None before the first sync."""
    row = tx.execute(_INDEX).first()
    if row is None:
        return None
    values = dict(row._mapping)
    return Index(**values | {"word_counts": json.loads(zlib.decompress(values["word_counts"]))})


_CURRENT = scoped(sa.select(*_article_columns).where(is_current).order_by(article.c.name, article.c.id))


def articles(tx: Transaction) -> list[Article]:
    """Return the articles of the published version, by name."""
    return [Article(**row._mapping) for row in tx.execute(_CURRENT, at_version=version(tx))]


_is_listed = sa.and_(
    is_current,
    article.c.audience.in_(bindparam("audiences", expanding=True)),
    sa.or_(
        *(
            column.ilike(bindparam(pattern, type_=sa.Text), escape="/")
            for column in (article.c.title, article.c.name)
            for pattern in ("pattern", "other_pattern")
        )
    ),
)
_LISTED = scoped(
    sa.select(*_article_columns)
    .where(_is_listed)
    .order_by(sa.func.lower(article.c.title), article.c.name, article.c.id)
    .limit(bindparam("most", type_=sa.Integer))
)
_COUNT_LISTED = scoped(sa.select(sa.func.count()).select_from(article).where(_is_listed))


def articles_with(tx: Transaction, text: str, audiences: Sequence[Audience], most: int) -> tuple[list[Article], int]:
    """Return the first articles with a text in title or name (ignoring case), by title, and the number of all."""
    # SQLite ignores case only for ASCII. The second pattern finds a title that begins with an umlaut either way.
    wanted = {
        "pattern": _pattern(text),
        "other_pattern": _pattern(text[:1].swapcase() + text[1:]),
        "audiences": list(audiences),
        "at_version": version(tx),
    }
    rows = tx.execute(_LISTED, **wanted, most=most)
    return [Article(**row._mapping) for row in rows], tx.execute(_COUNT_LISTED, **wanted).scalar() or 0


def _pattern(text: str) -> str:
    """Return the LIKE pattern that finds a text anywhere, escaped by `/`."""
    for sign in "/%_":
        text = text.replace(sign, f"/{sign}")
    return f"%{text}%"


_NAMED = scoped(
    sa.select(*_article_columns)
    .where(is_current, sa.or_(article.c.name == _which, article.c.id == _which))
    .order_by(article.c.id)
)


def find_articles(tx: Transaction, name: str) -> list[Article]:
    """Return the articles of that name or id: several, if files in two folders have the same name."""
    return [Article(**row._mapping) for row in tx.execute(_NAMED, at_version=version(tx), which=storable(name))]


_TEXTS = scoped(
    sa.select(passage.c.headings, passage.c.text).where(passage.c.article_id == _which).order_by(passage.c.number)
)


def texts(tx: Transaction, article_id: str) -> list[tuple[tuple[str, ...], str]]:
    """Return the passages of an article in order, as `(headings above it, text)`."""
    return [(tuple(row.headings), row.text) for row in tx.execute(_TEXTS, which=article_id)]


# --- a sync: everything it adds belongs to the next version, until that is published ---

_UNFINISHED = scoped(sa.select(article.c.id).where(article.c.from_version > _version))


def begin(tx: Transaction, lease: JobLease, most: int = 200) -> bool:
    """Delete up to `most` unfinished articles of an earlier sync; True if there are more. Raise `LeaseLost`."""
    hold(tx, lease)
    found = list(tx.execute(_UNFINISHED, at_version=version(tx)).scalars())
    _delete_articles(tx, found[:most])
    return len(found) > most


_INSERT_ARTICLE = scoped(sa.insert(article).values(added_at=now_ms()))
_INSERT_PASSAGE = scoped(sa.insert(passage))


def add_article(
    tx: Transaction, lease: JobLease, about: Article, passages: Sequence[NewPassage], from_version: int
) -> None:
    """Store an article under a version that is not published yet. Raise `LeaseLost`."""
    hold(tx, lease)
    values = {name: getattr(about, name) for name in Article.__slots__ if name != "added_at"}
    tx.execute(_INSERT_ARTICLE, **values, from_version=from_version)
    for number, new in enumerate(passages):
        tx.insert(
            _INSERT_PASSAGE,
            article_id=about.id,
            number=number,
            headings=list(new.headings),
            text=new.text,
            words=new.words,
            vector=new.vector,
        )


_WORDS = scoped(
    sa.select(passage.c.id, passage.c.article_id, passage.c.words)
    .select_from(passage.join(article, article.c.id == passage.c.article_id))
    .where(is_current, passage.c.id > bindparam("after", type_=sa.Integer))
    .order_by(passage.c.id)
    .limit(2000)
)


def words_of(tx: Transaction, at_version: int, after: int = 0) -> list[tuple[int, str, str]]:
    """Return `(passage id, article id, words)` of a version, published or not.

    At most 2,000 rows, by id; pass the last id as `after` for the next page.
    """
    rows = tx.execute(_WORDS, at_version=at_version, after=after)
    return [(row.id, row.article_id, row.words) for row in rows]


_READ_SOURCES = scoped(sa.update(knowledge_source).where(knowledge_source.c.id.in_(_ids)).values(read_at=now_ms()))
_END_ARTICLES = scoped(sa.update(article).where(article.c.id.in_(_ids)).values(until_version=_version))


def _put_index_clause(insert: Any) -> sa.Executable:
    new = insert(knowledge_index).values(updated_at=now_ms())
    changed = [column.name for column in knowledge_index.c if column.name != "workspace_id"]
    clause: sa.Executable = new.on_conflict_do_update(
        index_elements=["workspace_id"], set_={name: new.excluded[name] for name in changed}
    )
    return clause


_PUT_INDEX = scoped(_put_index_clause)


def publish(tx: Transaction, lease: JobLease, new: Index, ended: Sequence[str], read: Sequence[str]) -> None:
    """Publish a version of the index, without the `ended` articles; `read` are the ids of sources that were read.

    Raise `LeaseLost`.
    """
    hold(tx, lease)
    for some in _pages(ended):
        tx.execute(_END_ARTICLES, ids=some, at_version=new.version)
    packed = zlib.compress(json.dumps(dict(new.word_counts), ensure_ascii=False).encode())
    tx.execute(
        _PUT_INDEX,
        version=new.version,
        embedder=new.embedder,
        num_articles=new.num_articles,
        num_passages=new.num_passages,
        average_words=new.average_words,
        word_counts=packed,
    )
    for some in _pages(read):
        tx.execute(_READ_SOURCES, ids=some)


_REMOVED = scoped(sa.select(knowledge_source.c.id).where(knowledge_source.c.removed_at.is_not(None)))
_STILL_USED = scoped(sa.select(article.c.source_id).distinct().where(article.c.source_id.in_(_ids)))
_DELETE_SOURCES = scoped(sa.delete(knowledge_source).where(knowledge_source.c.id.in_(_ids)))
_PAST = scoped(sa.select(article.c.id).where(article.c.until_version < _version))


def clear_past(tx: Transaction, lease: JobLease, most: int = 200) -> bool:
    """Delete up to `most` articles that ended before the published version; True if there are more.

    The version just before it stays, as a search may still be reading it. Raise `LeaseLost`.
    """
    hold(tx, lease)
    found = list(tx.execute(_PAST, at_version=version(tx)).scalars())
    _delete_articles(tx, found[:most])
    if removed := set(tx.execute(_REMOVED).scalars()):
        unused = removed - set(tx.execute(_STILL_USED, ids=sorted(removed)).scalars())
        tx.execute(_DELETE_SOURCES, ids=sorted(unused))
    return len(found) > most


_DELETE_ARTICLES = scoped(sa.delete(article).where(article.c.id.in_(_ids)))


def _delete_articles(tx: Transaction, ids: Sequence[str]) -> None:
    if ids:
        tx.execute(_DELETE_ARTICLES, ids=list(ids))


def _pages(ids: Sequence[str], size: int = 5000) -> Iterator[list[str]]:
    for start in range(0, len(ids), size):
        yield list(ids[start : start + size])


# --- the threshold, and the rules that decide how a message is answered ---

_THRESHOLD = scoped(sa.select(*(getattr(knowledge_threshold.c, name) for name in Threshold.__slots__)))


def threshold(tx: Transaction) -> Threshold | None:
    """Return the threshold that was set last; None where the default holds."""
    row = tx.execute(_THRESHOLD).first()
    return Threshold(**row._mapping) if row else None


def _set_threshold_clause(insert: Any) -> sa.Executable:
    new = insert(knowledge_threshold).values(set_at=now_ms())
    clause: sa.Executable = new.on_conflict_do_update(
        index_elements=["workspace_id"],
        set_={name: new.excluded[name] for name in ("value", "report", "set_by", "set_at")},
    )
    return clause


_SET_THRESHOLD = scoped(_set_threshold_clause)


def set_threshold(tx: Transaction, actor: str, value: float, report: Mapping[str, Any]) -> None:
    """Set the threshold, and keep the report of its calibration."""
    tx.execute(_SET_THRESHOLD, value=value, report=dict(report), set_by=actor)
    audit.record(tx, actor, "knowledge.threshold", f"{value:.3f}")


_FORGET_THRESHOLD = scoped(sa.delete(knowledge_threshold))


def forget_threshold(tx: Transaction, actor: str) -> None:
    """Go back to the default threshold."""
    if tx.execute(_FORGET_THRESHOLD).rowcount:
        audit.record(tx, actor, "knowledge.threshold", "default")


_THRESHOLD_VALUE = scoped(sa.select(knowledge_threshold.c.value))
# The moment of training and not the set's number: the number begins again at 1 after the set was removed.
_INTENTS_VERSION = scoped(sa.select(intent_set.c.trained_at))
# The sum and not the highest: two changes at once may get the same number, but each change gives another sum.
_CURATED_VERSION = scoped(sa.select(sa.func.sum(curated_answer.c.version)))


def answering_rules(tx: Transaction) -> AnsweringRules:
    """Read the rules in force. This runs for every message, so it reads three numbers and no more."""
    threshold_value = tx.execute(_THRESHOLD_VALUE).scalar()
    intents_version = tx.execute(_INTENTS_VERSION).scalar() or 0
    return AnsweringRules(threshold_value, intents_version, int(tx.execute(_CURATED_VERSION).scalar() or 0))
