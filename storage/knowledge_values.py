"""Value classes of the knowledge base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

Audience = Literal["public", "customers", "staff"]
SourceKind = Literal["folder", "file", "url", "upload"]

AUDIENCES: tuple[Audience, ...] = get_args(Audience)


def audiences_of(audience: Audience) -> tuple[Audience, ...]:
    """Return the audiences whose articles this audience may see: staff see all, customers also see public ones."""
    return AUDIENCES[: AUDIENCES.index(audience) + 1]


@dataclass(frozen=True, slots=True)
class Source:
    """A source of articles. An `upload` has its content in the database, as there is no file to read again."""

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
    """An article, in one state of its text."""

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
    """A passage to be stored. `words` are those of `bot.knowledge.search.tokens`; `vector` has length 1."""

    headings: tuple[str, ...]
    text: str
    words: str
    vector: Any


@dataclass(frozen=True, slots=True)
class StoredPassage:
    """A passage with the name, title, URL and audience of its article."""

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
    """Figures of one version of the index. `word_counts` is the number of articles with each word."""

    version: int
    embedder: str
    num_articles: int
    num_passages: int
    average_words: float
    word_counts: Mapping[str, int]
    updated_at: int


@dataclass(frozen=True, slots=True)
class Candidates:
    """Candidates of a search, with the vectors of the first passage of each of their articles."""

    index: Index
    passages: Sequence[StoredPassage]
    beginnings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Threshold:
    """The confidence (0 to 1) above which a question counts as answered, with the report of its calibration."""

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
    """A trained set of intents: `phrases` are `(phrase, intent)`, `computed` is the classifier (NumPy's npz)."""

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
    """An answer by people, given word for word."""

    id: str
    question: str
    answer: str
    audience: Audience
    created_by: str
    created_at: int


@dataclass(frozen=True, slots=True)
class Correction:
    """Staff's better answer to the question of a reply."""

    reply_id: str
    question: str
    better: str
    channel: str
    reviewer: str
    created_at: int


@dataclass(frozen=True, slots=True)
class UnansweredQuestion:
    """A question for which no article was found; `better` is staff's correction, if there is one."""

    reply_id: str
    question: str
    channel: str
    asked_at: int
    better: str | None
