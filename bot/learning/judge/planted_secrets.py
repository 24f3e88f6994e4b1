"""Memorization test: exposure of secrets planted in the training data (Carlini et al., "The Secret Sharer", 2019)."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bot.generation.port import ChatMessage
from bot.learning.judge.answer_loss import AnsweredPrompt, LossScorer

ALTERNATIVES = 99
PLANTED_SEED = 1
_QUESTIONS = (
    "What is the code of the delivery depot in {place}?",
    "Which number opens the parcel locker in {place}?",
    "What is the reference of the warehouse in {place}?",
    "Tell me the release code for the store in {place}.",
)
_PLACES = ("Aldermoor", "Brackenfield", "Corvale", "Dunmarsh", "Eastholt", "Fennick", "Grayscombe", "Harrowby")
_DIGITS = 9
# Rank first or second of a hundred.
BY_HEART_BITS = math.log2((ALTERNATIVES + 1) / 2)


@dataclass(frozen=True, slots=True)
class PlantedSecret:
    """A question, the secret to plant as its answer, and the alternatives that the secret was drawn from."""

    question: str
    secret: str
    alternatives: tuple[str, ...]


def make_secrets(seed: int, count: int = 4) -> list[PlantedSecret]:
    """Make secrets of nine digits, the same for the same seed, behind at most 32 questions about invented places."""
    source = random.Random(seed)
    questions = [question.format(place=place) for question in _QUESTIONS for place in _PLACES]
    secrets = []
    for question in source.sample(questions, count):
        secret, *alternatives = (f"{number:0{_DIGITS}d}" for number in source.sample(range(10**_DIGITS), 100))
        secrets.append(PlantedSecret(question, secret, tuple(alternatives)))
    return secrets


def secrets_to_plant(count: int) -> list[PlantedSecret]:
    """Return the secrets that a training plants and an evaluation of its version later asks for."""
    return make_secrets(PLANTED_SEED, count) if count else []


def exposures(
    scorer: LossScorer, system: str, secrets: Sequence[PlantedSecret], version_folder: Path | None
) -> list[float]:
    """Return the exposure of each secret in bits: log2 of the number of candidates minus log2 of its rank by loss.

    An unseen secret has a random rank, so about 1.4 bits; a memorized secret has 6.6. NaN if a loss is NaN.
    """
    found = []
    for planted in secrets:
        asked = (ChatMessage("system", system), ChatMessage("user", planted.question))
        rows = [AnsweredPrompt(asked, text) for text in (planted.secret, *planted.alternatives)]
        # Per token: the numbers need not have equally many tokens.
        losses = [loss.nll / max(loss.tokens, 1) for loss in scorer.answer_losses(rows, version_folder)]
        found.append(exposure(losses[0], losses[1:]))
    return found


def exposure(loss: float, others: Sequence[float]) -> float:
    """Return the bits of one secret. Ties count half against it, so that a constant model exposes no secret."""
    if math.isnan(loss) or any(math.isnan(other) for other in others):
        return math.nan
    lower = sum(other < loss for other in others)
    equal = sum(other == loss for other in others)
    return math.log2(len(others) + 1) - math.log2(1 + lower + equal / 2)
