"""Calibration of the "I don't know" threshold on labelled questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bot.access.roles import Actor
from bot.errors import InvalidInput
from bot.knowledge.grounding import DEFAULT_THRESHOLD
from bot.knowledge.search.search import OnProgress, Search
from storage import knowledge
from storage.knowledge_values import AUDIENCES, Threshold
from storage.scope import Scope

# With fewer, a threshold fits these questions rather than those that people will ask.
MIN_QUESTIONS = 20
# Beyond these limits, a threshold would answer every question or none.
LEAST, MOST = 0.02, 0.98


@dataclass(frozen=True, slots=True)
class Calibration:
    """Effect of a threshold beside that of the default one.

    `answered` is the share of answerable questions that are answered, `refused` the share of the others that are not;
    None if there are no others.
    """

    threshold: float
    questions: int
    others: int
    answered: float
    refused: float | None
    answered_by_default: float
    refused_by_default: float | None

    @property
    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


async def calibrate(
    search: Search, questions: Sequence[Mapping[str, Any]], keep: float, report: OnProgress
) -> Calibration:
    """Choose the threshold that answers a share of `keep` of the answerable questions.

    A question with an empty `gold` has no answer in the articles. Raises `InvalidInput` for too few questions or a bad
    `keep`.
    """
    if not 0.5 <= keep <= 1:
        raise InvalidInput("The share to keep must be between 0.5 and 1.", field="keep")
    answerable = sum(bool(question["gold"]) for question in questions)
    if answerable < MIN_QUESTIONS:
        raise InvalidInput(
            f"There are {answerable} questions with an article; at least {MIN_QUESTIONS} are needed.", field="file"
        )
    sure: dict[bool, list[float]] = {True: [], False: []}
    for done, question in enumerate(questions, 1):
        found = await search.find(question["question"], AUDIENCES)
        sure[bool(question["gold"])].append(0.0 if found is None else found.confidence)
        report(done, len(questions))
    threshold = min(max(float(np.quantile(sure[True], 1 - keep)), LEAST), MOST)
    return Calibration(
        round(threshold, 4),
        answerable,
        len(sure[False]),
        *(_shares(sure, threshold)),
        *(_shares(sure, DEFAULT_THRESHOLD)),
    )


def _shares(sure: Mapping[bool, Sequence[float]], threshold: float) -> tuple[float, float | None]:
    answered = float(np.mean(np.array(sure[True]) >= threshold))
    refused = float(np.mean(np.array(sure[False]) < threshold)) if sure[False] else None
    return round(answered, 4), None if refused is None else round(refused, 4)


class Thresholds:
    """Confidence threshold of one workspace."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def current(self, actor: Actor) -> Threshold | None:
        """Return the calibrated threshold; None while `DEFAULT_THRESHOLD` holds."""
        actor.check("viewer")
        return await self._scope.read(knowledge.threshold)

    async def set(self, actor: Actor, measured: Calibration) -> None:
        """Apply a calibrated threshold from now on."""
        actor.check("trainer")
        await self._scope.write(knowledge.set_threshold, actor.name, measured.threshold, measured.as_json)

    async def reset(self, actor: Actor) -> None:
        """Go back to the default."""
        actor.check("trainer")
        await self._scope.write(knowledge.forget_threshold, actor.name)
