"""Values of the knowledge as they are stored and found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

Audience = Literal["public", "customers", "staff"]
SourceKind = Literal["folder", "file", "url", "upload"]

AUDIENCES: tuple[Audience, ...] = get_args(Audience)


def audiences_of(audience: Audience) -> tuple[Audience, ...]:
    """What somebody may see: staff see what customers see, and those what everybody sees."""
    return AUDIENCES[: AUDIENCES.index(audience) + 1]


@dataclass(frozen=True, slots=True)
class Source:
    """Where articles come from. An `upload` has its content in the database, and is not read again."""

    id: str
    kind: SourceKind
    location: str
    audience: Audience
    added_by: str
    added_at: int
    read_at: int | None
    removed_at: int | None = None


@dataclass(frozen=True, slots=True)
class Article:
    """An article as it stands in the newest version of the index."""

    id: str
    source_id: str
    name: str
    location: str
    title: str
    url: str | None
    language: str | None
    audience: Audience
    sha256: str
    added_at: int


@dataclass(frozen=True, slots=True)
class NewPassage:
    """A passage to be stored. `words` as `bot.knowledge.search.tokens` makes them, `vector` of length 1."""

    headings: tuple[str, ...]
    text: str
    words: str
    vector: Any


@dataclass(frozen=True, slots=True)
class StoredPassage:
    """A passage with what is known of its article; what a search weighs."""

    id: int
    article_id: str
    number: int
    headings: tuple[str, ...]
    text: str
    words: str
    vector: Any
    name: str
    title: str
    url: str | None
    audience: Audience


@dataclass(frozen=True, slots=True)
class Index:
    """What is known of a version of the index as a whole. `word_counts`: in how many articles each word stands."""

    version: int
    embedder: str
    num_articles: int
    num_passages: int
    average_words: float
    word_counts: Mapping[str, int]
    updated_at: int


@dataclass(frozen=True, slots=True)
class Candidates:
    """What a search looks at more closely: passages, and the vectors of their articles' beginnings."""

    index: Index
    passages: Sequence[StoredPassage]
    beginnings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Threshold:
    """From how sure on (0 to 1) a question counts as answered, and what was measured with that."""

    value: float
    report: Mapping[str, Any]
    set_by: str
    set_at: int


@dataclass(frozen=True, slots=True)
class AnsweringRules:
    """The threshold in force (None: the default) and the versions of intents and curated answers.

    A version is 0 where there is nothing, and never comes back after a change.
    """

    threshold: float | None
    intents_version: int
    curated_version: int


@dataclass(frozen=True, slots=True)
class IntentSet:
    """What messages may be about: phrases with their intents, what is said to an intent, and what was computed."""

    version: int
    embedder: str
    phrases: tuple[tuple[str, str], ...]
    replies: Mapping[str, str]
    computed: bytes
    threshold: float
    report: Mapping[str, Any]
    trained_by: str
    trained_at: int


@dataclass(frozen=True, slots=True)
class CuratedAnswer:
    """An answer that is given word for word."""

    id: str
    question: str
    answer: str
    audience: Audience
    created_by: str
    created_at: int


@dataclass(frozen=True, slots=True)
class Correction:
    """What staff wrote in place of a reply."""

    reply_id: str
    question: str
    better: str
    channel: str
    reviewer: str
    created_at: int


@dataclass(frozen=True, slots=True)
class UnansweredQuestion:
    """A question that nothing was found for; `better` is what staff wrote instead, if anything."""

    reply_id: str
    question: str
    channel: str
    asked_at: int
    better: str | None
