"""Candidates to an order: words, meaning, phrases and the beginning of the article, each with its weight.

Knows: the formulas and the weights. Does not know: where candidates come from, models, databases. Every feature lies
between 0 and about 1 whatever the size of the knowledge, so that a score says how good a hit is, and not only which is
better.

BM25 as in Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), divided by what a
passage could reach that repeated all words of the question for ever.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bot.knowledge.search.tokens import is_mostly_unspaced, neighbours, words
from storage.knowledge_values import Candidates, Index, StoredPassage

K1, B = 2.2, 0.7
MOST_READ = 40
# The weight of two neighbours of which neither says anything by itself, as in "how do".
STOP_PAIR = 0.3


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each feature counts. `passage` and `beginning` are cosines, `words` is BM25, `phrases` neighbours."""

    passage: float
    beginning: float
    words: float
    phrases: float


# Fitted by `benchmarks/knowledge_weights.py` on the development half of the questions it names.
WEIGHTS = Weights(passage=0.30, beginning=0.65, words=0.70, phrases=0.30)
# For questions in a script that the embedder hardly knows.
WORD_WEIGHTS = Weights(passage=0.34, beginning=0.0, words=2.46, phrases=0.0)
# A logistic regression on score and cosine, fitted on half of the questions about an English and a Chinese collection
# against messages about other things, and moved so that 95 in 100 of these questions come out above 0.5.
SURE, UNSPACED_SURE, NUM_SURE = (5.5, 7.9, -8.0), (10.3, 0.0, -4.0), 3
# How much what was said before counts: little where the question itself tells articles apart, and most where several
# articles fit it alike, as "do they have a pool" does.
LEAST_CONTEXT, MOST_CONTEXT, ALIKE, NUM_ALIKE = 0.2, 1.5, 0.15, 5
MOST_DEPENDENT, MOST_DEPENDENT_UNSPACED = 3, 6


@dataclass(frozen=True, slots=True)
class Question:
    """A question as it is searched for: text, vector of length 1, words with their weights (their rarity)."""

    text: str
    vector: npt.NDArray[np.float32]
    words: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found. `score` orders those of one question; `cosine` is of its vector alone."""

    passage: StoredPassage
    score: float
    cosine: float


def ask(text: str, vector: npt.NDArray[np.float32], index: Index) -> Question:
    """A question for this index."""
    return Question(text, vector, {word: rarity(word, index) for word in dict.fromkeys(words(text))})


def rarity(word: str, index: Index) -> float:
    """The weight of a word: its inverse document frequency, of articles."""
    count = index.word_counts.get(word, 0)
    return math.log(1 + (index.num_articles - count + 0.5) / (count + 0.5))


def features(question: Question, found: Candidates) -> npt.NDArray[np.float64]:
    """Of each candidate, in the order of the fields of `Weights`. Shape `(len(found.passages), 4)`."""
    values = np.zeros((len(found.passages), 4))
    for row, one in zip(values, found.passages, strict=True):
        beginning = found.beginnings.get(one.article_id, one.vector)
        row[:3] = (
            one.vector @ question.vector,
            beginning @ question.vector,
            bm25(question.words, one.words, found.index),
        )
    pairs = neighbours(question.text)
    weights = {pair: max((rarity(one, found.index) for one in _as_words(pair)), default=STOP_PAIR) for pair in pairs}
    total = sum(weights.values()) or 1.0
    # Reading texts for phrases takes longest, and what is far behind does not come to the front by one.
    for number in np.argsort(-values[:, :3].sum(1), kind="stable")[:MOST_READ]:
        own = neighbours(_whole_text(found.passages[number]))
        values[number, 3] = sum(weight for pair, weight in weights.items() if pair in own) / total
    return values


def rank(question: Question, found: Candidates, before: Question | None = None) -> list[Hit]:
    """Candidates by score, best first; equal ones in the order of their articles' names.

    `before` is what was said before the question. It changes the order, and the score, which stays one of the question
    alone.
    """
    values = features(question, found)
    alone = values @ _weights_for(question)
    order = alone
    if before is not None and len(alone):
        order = alone + _share_of_context(alone, found) * (features(before, found) @ _weights_for(before))
    hits = [
        Hit(one, float(score), float(row[0])) for one, score, row in zip(found.passages, alone, values, strict=True)
    ]
    places = sorted(
        range(len(hits)), key=lambda n: (-round(float(order[n]), 6), hits[n].passage.name, hits[n].passage.number)
    )
    return [hits[n] for n in places]


def _weights_for(question: Question) -> npt.NDArray[np.float64]:
    chosen = WORD_WEIGHTS if is_mostly_unspaced(question.text) else WEIGHTS
    return np.array([chosen.passage, chosen.beginning, chosen.words, chosen.phrases])


def _share_of_context(scores: npt.NDArray[np.float64], found: Candidates) -> float:
    best: dict[str, float] = {}
    for one, score in zip(found.passages, scores, strict=True):
        best[one.article_id] = max(best.get(one.article_id, 0.0), float(score))
    ranked = sorted(best.values(), reverse=True)
    lead = ranked[0] - (ranked[NUM_ALIKE] if len(ranked) > NUM_ALIKE else 0.0)
    return LEAST_CONTEXT + (MOST_CONTEXT - LEAST_CONTEXT) * math.exp(-((lead / ALIKE) ** 2))


def confidence(question: Question, hits: Sequence[Hit]) -> float:
    """How sure it is that the articles answer a question, from 0 to 1; half is where the default threshold lies."""
    score = max((hit.score for hit in hits), default=0.0)
    cosine = max((hit.cosine for hit in hits[:NUM_SURE]), default=0.0)
    by_score, by_cosine, bias = UNSPACED_SURE if is_mostly_unspaced(question.text) else SURE
    return 1 / (1 + math.exp(-(by_score * score + by_cosine * cosine + bias)))


def bm25(asked: Mapping[str, float], written: str, index: Index) -> float:
    """How well the words of a passage match, between 0 and 1."""
    there = written.split()
    counts = Counter(there)
    norm = K1 * (1 - B + B * len(there) / max(index.average_words, 1.0))
    total = sum(asked.values())
    if not total:
        return 0.0
    return (
        sum(weight * counts[word] / (counts[word] + norm) for word, weight in asked.items() if word in counts) / total
    )


def is_dependent(question: Question, index: Index) -> bool:
    """Whether a question means little by itself, as "and how long does that take?": few words, and none of its own."""
    most = MOST_DEPENDENT_UNSPACED if is_mostly_unspaced(question.text) else MOST_DEPENDENT
    return len(question.words) <= most and all(word in index.word_counts for word in question.words)


def merged(found: Sequence[Candidates]) -> Candidates:
    """The candidates of several questions to one index, each once."""
    passages = {one.id: one for each in found for one in each.passages}
    beginnings = {article: vector for each in found for article, vector in each.beginnings.items()}
    return Candidates(found[0].index, [passages[one] for one in sorted(passages)], beginnings)


def best_of_articles(hits: Sequence[Hit]) -> list[Hit]:
    """The best passage of each article, best first."""
    best: dict[str, Hit] = {}
    for one in hits:
        best.setdefault(one.passage.article_id, one)
    return list(best.values())


def _as_words(pair: tuple[str, str]) -> list[str]:
    return [*words(pair[0]), *words(pair[1])]


def _whole_text(one: StoredPassage) -> str:
    return " . ".join((one.title, *one.headings, one.text))
