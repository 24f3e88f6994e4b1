"""Few-shot intent classifier with out-of-scope detection.

The intent comes from multinomial logistic regression (softmax) on embeddings. Out-of-scope messages are found by a
local outlier score (after Breunig et al., "LOF: Identifying Density-Based Local Outliers", 2000): the nearness of the
nearest phrases, minus the nearness of these to their own neighbours. Letter n-grams count beside meaning, as people
misspell, and embedders do not know that "trackng" is "tracking".
"""

from __future__ import annotations

import io
import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bot.knowledge.search.embedder import Vectors

# Fitted on half of the real messages of HINT3 and CLINC150 (`benchmarks/intents.py`).
NEAREST, NEAREST_LETTERS, OWN_SHARE, LETTERS, SURENESS = 5, 3, 0.5, 1.0, 0.08
# Share of held-out phrases that may count as out of scope.
MOST_LOST = 0.03
LETTER_GROUPS = (3, 4)
WEIGHT_DECAY, MOST_STEPS, SCALE = 1e-4, 60, 10.0
FOLDS, MOST_TESTED = 3, 700
ROWS_AT_ONCE = 1024

_NOT_LETTERS = re.compile(r"[^\w ]")

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Guess:
    """Most likely intent of a message with its `probability`; `fit` is the in-scope score over all intents."""

    intent: str
    probability: float
    fit: float


class Letters:
    """TF-IDF index of letter n-grams: cosines of a text with all phrases."""

    def __init__(self, phrases: Sequence[str]) -> None:
        groups = [_groups(phrase) for phrase in phrases]
        counts = Counter(group for of_phrase in groups for group in of_phrase)
        self._size = len(phrases)
        self._rarity = {group: math.log((1 + self._size) / (1 + count)) + 1 for group, count in counts.items()}
        self._unknown = math.log(1 + self._size) + 1
        found: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for place, of_phrase in enumerate(groups):
            for group, weight in self._weights(of_phrase).items():
                found[group].append((place, weight))
        self._places = {group: np.array([place for place, _ in rows], np.int32) for group, rows in found.items()}
        self._values = {group: np.array([value for _, value in rows], np.float32) for group, rows in found.items()}

    def cosines(self, text: str) -> Floats:
        """Return the cosines of a text with each phrase, shape `(phrases,)`."""
        weights = {group: weight for group, weight in self._weights(_groups(text)).items() if group in self._places}
        if not weights:
            return np.zeros(self._size, np.float32)
        places = np.concatenate([self._places[group] for group in weights])
        values = np.concatenate([self._values[group] * weight for group, weight in weights.items()])
        return np.bincount(places, values, self._size).astype(np.float32)

    def _weights(self, groups: Counter[str]) -> dict[str, float]:
        raw = {group: (1 + math.log(count)) * self._rarity.get(group, self._unknown) for group, count in groups.items()}
        length = math.sqrt(sum(value * value for value in raw.values())) or 1.0
        return {group: value / length for group, value in raw.items()}


def _groups(text: str) -> Counter[str]:
    plain = f" {' '.join(_NOT_LETTERS.sub('', text.lower()).split())} "
    return Counter(plain[place : place + size] for size in LETTER_GROUPS for place in range(len(plain) - size + 1))


class IntentModel:
    """Trained classifier. `places` are the indices of the phrases' intents; `vectors` are unit vectors of phrases."""

    def __init__(
        self,
        intents: Sequence[str],
        phrases: Sequence[str],
        places: Sequence[int],
        vectors: Vectors,
        weights: Floats,
        threshold: float,
    ) -> None:
        self.intents, self.phrases, self.places = tuple(intents), tuple(phrases), tuple(places)
        self.vectors, self.weights, self.threshold = np.asarray(vectors, np.float32), weights, threshold
        self._letters = Letters(phrases)
        self._own = _own_nearness(self.vectors)

    def guess(self, text: str, vector: npt.NDArray[np.float32]) -> Guess:
        """Classify a text; its vector must be of the same embedder as those of the phrases."""
        logits = self.weights[:, :-1] @ vector + self.weights[:, -1]
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        best = int(shares.argmax())
        probability = float(shares[best])
        cosines, by_letters = self.vectors @ vector, self._letters.cosines(text)
        nearest = np.argpartition(cosines, -min(NEAREST, len(cosines)))[-NEAREST:]
        meaning = float((cosines[nearest] - OWN_SHARE * self._own[nearest]).mean())
        letters = float(np.partition(by_letters, -min(NEAREST_LETTERS, len(by_letters)))[-NEAREST_LETTERS:].mean())
        fit = meaning + LETTERS * letters + SURENESS * math.log(max(probability, 1e-9))
        return Guess(self.intents[best], probability, fit)

    def fits(self, guess: Guess) -> bool:
        """Return True if a message is in scope."""
        return guess.fit >= self.threshold

    def to_bytes(self) -> bytes:
        """Serialise the vectors and weights; the phrases are stored elsewhere."""
        file = io.BytesIO()
        np.savez_compressed(file, vectors=self.vectors.astype(np.float16), weights=self.weights)
        return file.getvalue()

    @classmethod
    def from_bytes(
        cls, content: bytes, intents: Sequence[str], phrases: Sequence[str], places: Sequence[int], threshold: float
    ) -> IntentModel:
        """Restore the model that `to_bytes` wrote."""
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return cls(intents, phrases, places, arrays["vectors"].astype(np.float32), arrays["weights"], threshold)


@dataclass(frozen=True, slots=True)
class Trained:
    """Trained model with its macro-F1 (0 to 1) from cross-validation."""

    model: IntentModel
    macro_f1: float


def train(phrases: Sequence[str], labels: Sequence[str], vectors: Vectors) -> Trained:
    """Train on phrases with their labels; takes seconds. Needs at least two intents with two phrases each."""
    intents = sorted(set(labels))
    numbers = {intent: number for number, intent in enumerate(intents)}
    places = np.array([numbers[label] for label in labels])
    fits: list[float] = []
    right, told = list[int](), list[int]()
    folds = _folds(places)
    for fold in range(FOLDS):
        learnt = np.flatnonzero(folds != fold)
        part = _fit(intents, [phrases[int(n)] for n in learnt], places[learnt], vectors[learnt])
        tested = np.flatnonzero(folds == fold)
        for n in map(int, tested[:: max(1, math.ceil(len(tested) / MOST_TESTED))]):
            guess = part.guess(phrases[n], vectors[n])
            fits.append(guess.fit)
            right.append(int(places[n]))
            told.append(numbers[guess.intent])
    model = _fit(intents, phrases, places, vectors)
    model.threshold = float(np.quantile(fits, MOST_LOST))
    return Trained(model, macro_f1(np.array(right), np.array(told)))


def macro_f1(right: npt.NDArray[np.int_], told: npt.NDArray[np.int_]) -> float:
    """Return the mean F1 over the intents in `right`."""
    scores = []
    for intent in np.unique(right):
        hits = int(((told == intent) & (right == intent)).sum())
        scores.append(2 * hits / max(int((told == intent).sum() + (right == intent).sum()), 1))
    return sum(scores) / max(len(scores), 1)


def _folds(places: npt.NDArray[np.int_]) -> npt.NDArray[np.int_]:
    """Return the fold of each phrase, stratified by intent."""
    folds = np.zeros(len(places), int)
    for intent in np.unique(places):
        rows = np.flatnonzero(places == intent)
        folds[rows] = np.arange(len(rows)) % FOLDS
    return folds


def _fit(intents: Sequence[str], phrases: Sequence[str], places: npt.NDArray[np.int_], vectors: Vectors) -> IntentModel:
    weights = _softmax_weights(vectors, places, len(intents))
    return IntentModel(intents, phrases, [int(place) for place in places], vectors, weights, 0.0)


def _softmax_weights(vectors: Vectors, places: npt.NDArray[np.int_], count: int) -> Floats:
    """Fit multinomial logistic regression by L-BFGS. Returns one row an intent, with the bias in the last column."""
    import torch

    inputs = torch.cat([torch.from_numpy(np.asarray(vectors, np.float32)) * SCALE, torch.ones(len(places), 1)], 1)
    wanted = torch.from_numpy(places)
    weights = torch.zeros(count, inputs.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=MOST_STEPS, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(inputs @ weights.T, wanted)
        value = value + WEIGHT_DECAY * weights[:, :-1].square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    found = weights.detach().numpy().copy()
    found[:, :-1] *= SCALE
    return np.asarray(found, np.float32)


def _own_nearness(vectors: Floats) -> Floats:
    """Return each phrase's mean cosine with its nearest neighbours, in parts that fit into memory."""
    own = np.zeros(len(vectors), np.float32)
    count = min(NEAREST, len(vectors) - 1)
    for start in range(0, len(vectors) if count > 0 else 0, ROWS_AT_ONCE):
        part = vectors[start : start + ROWS_AT_ONCE] @ vectors.T
        part[np.arange(len(part)), np.arange(start, start + len(part))] = -1.0
        own[start : start + len(part)] = np.partition(part, -count, axis=1)[:, -count:].mean(1)
    return own
