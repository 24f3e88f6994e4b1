"""Hybrid ranking: BM25, cosines of passage and article, and phrases.

Every feature lies between 0 and about 1 for any number of articles, so that a score is comparable between questions and
gives a confidence.

BM25 as in Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), divided by its upper
bound: the score of a passage that repeats all words of the question without end.
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
# Weight of a pair of stop words, such as "how do".
STOP_PAIR = 0.3


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of the features: `passage` and `beginning` are cosines, `words` is BM25, `phrases` are word pairs."""

    passage: float
    beginning: float
    words: float
    phrases: float


# Fitted by `benchmarks/knowledge_weights.py` on the development half of the questions it names.
WEIGHTS = Weights(passage=0.30, beginning=0.65, words=0.70, phrases=0.30)
# For questions in a script that the embedder hardly knows (Chinese, for example).
WORD_WEIGHTS = Weights(passage=0.34, beginning=0.0, words=2.46, phrases=0.0)
# Logistic regression on score and cosine, fitted on half of the questions about an English and a Chinese collection
# against messages on other topics; the bias is shifted so that 95 in 100 of these questions come out above 0.5.
SURE, UNSPACED_SURE, NUM_SURE = (5.5, 7.9, -8.0), (10.3, 0.0, -4.0), 3
# Weight of the conversation before the question: small if the question itself separates the articles, large if several
# articles fit it equally well, as for "do they have a pool".
LEAST_CONTEXT, MOST_CONTEXT, ALIKE, NUM_ALIKE = 0.2, 1.5, 0.15, 5
MOST_DEPENDENT, MOST_DEPENDENT_UNSPACED = 3, 6


@dataclass(frozen=True, slots=True)
class Question:
    """Search query: text, unit vector, and words with their weights (inverse document frequency)."""

    text: str
    vector: npt.NDArray[np.float32]
    words: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Hit:
    """Passage found by a search. `score` combines all features; `cosine` is that of the passage's vector alone."""

    passage: StoredPassage
    score: float
    cosine: float


def ask(text: str, vector: npt.NDArray[np.float32], index: Index) -> Question:
    """Build a question with the word weights of this index."""
    return Question(text, vector, {word: rarity(word, index) for word in dict.fromkeys(words(text))})


def rarity(word: str, index: Index) -> float:
    """Return a word's inverse document frequency over articles."""
    count = index.word_counts.get(word, 0)
    return math.log(1 + (index.num_articles - count + 0.5) / (count + 0.5))


def features(question: Question, found: Candidates) -> npt.NDArray[np.float64]:
    """Return the features of each candidate in the order of `Weights`, shape `(len(found.passages), 4)`."""
    values = np.zeros((len(found.passages), 4))
    for row, passage in zip(values, found.passages, strict=True):
        beginning = found.beginnings.get(passage.article_id, passage.vector)
        row[:3] = (
            passage.vector @ question.vector,
            beginning @ question.vector,
            bm25(question.words, passage.words, found.index),
        )
    pairs = neighbours(question.text)
    weights = {pair: max((rarity(word, found.index) for word in _as_words(pair)), default=STOP_PAIR) for pair in pairs}
    total = sum(weights.values()) or 1.0
    # Phrases are the most expensive feature, and can't lift a passage that is far behind to the front.
    for number in np.argsort(-values[:, :3].sum(1), kind="stable")[:MOST_READ]:
        own = neighbours(_whole_text(found.passages[number]))
        values[number, 3] = sum(weight for pair, weight in weights.items() if pair in own) / total
    return values


def rank(question: Question, found: Candidates, before: Question | None = None) -> list[Hit]:
    """Sort candidates, best first; equal ones by the name of their article.

    `before`, the conversation before the question, changes the order only: the scores are of the question alone.
    """
    values = features(question, found)
    alone = values @ _weights_for(question)
    order = alone
    if before is not None and len(alone):
        order = alone + _share_of_context(alone, found) * (features(before, found) @ _weights_for(before))
    hits = [
        Hit(passage, float(score), float(row[0]))
        for passage, score, row in zip(found.passages, alone, values, strict=True)
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
    for passage, score in zip(found.passages, scores, strict=True):
        best[passage.article_id] = max(best.get(passage.article_id, 0.0), float(score))
    ranked = sorted(best.values(), reverse=True)
    lead = ranked[0] - (ranked[NUM_ALIKE] if len(ranked) > NUM_ALIKE else 0.0)
    return LEAST_CONTEXT + (MOST_CONTEXT - LEAST_CONTEXT) * math.exp(-((lead / ALIKE) ** 2))


def confidence(question: Question, hits: Sequence[Hit]) -> float:
    """Return the probability, from 0 to 1, that the articles answer a question. The default threshold is 0.5."""
    score = max((hit.score for hit in hits), default=0.0)
    cosine = max((hit.cosine for hit in hits[:NUM_SURE]), default=0.0)
    by_score, by_cosine, bias = UNSPACED_SURE if is_mostly_unspaced(question.text) else SURE
    return 1 / (1 + math.exp(-(by_score * score + by_cosine * cosine + bias)))


def bm25(asked: Mapping[str, float], written: str, index: Index) -> float:
    """Return the BM25 score of a passage's words, divided by its upper bound: from 0 to 1."""
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
    """Return True for a question that depends on its context: few words, all of them known to the index.

    An example is "and how long does that take?".
    """
    most = MOST_DEPENDENT_UNSPACED if is_mostly_unspaced(question.text) else MOST_DEPENDENT
    return len(question.words) <= most and all(word in index.word_counts for word in question.words)


def merged(found: Sequence[Candidates]) -> Candidates:
    """Merge the candidates of several questions to one index, without duplicates."""
    passages = {passage.id: passage for candidates in found for passage in candidates.passages}
    beginnings = {article: vector for candidates in found for article, vector in candidates.beginnings.items()}
    return Candidates(found[0].index, [passages[number] for number in sorted(passages)], beginnings)


def best_of_articles(hits: Sequence[Hit]) -> list[Hit]:
    """Return the best passage of each article, best first."""
    best: dict[str, Hit] = {}
    for hit in hits:
        best.setdefault(hit.passage.article_id, hit)
    return list(best.values())


def _as_words(pair: tuple[str, str]) -> list[str]:
    return [*words(pair[0]), *words(pair[1])]


def _whole_text(passage: StoredPassage) -> str:
    return " . ".join((passage.title, *passage.headings, passage.text))
