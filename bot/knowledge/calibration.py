"""The threshold of "I don't know", set by questions whose answers are known to stand in the articles.

Knows: how a threshold keeps a share of these, what it does to others. Does not know: how sure a search is of itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bot.access.roles import Actor
from bot.errors import InvalidInput
from bot.knowledge.grounding import DEFAULT_THRESHOLD
from bot.knowledge.search.search import Search
from storage import knowledge
from storage.knowledge_values import AUDIENCES, Threshold
from storage.scope import Scope

# With fewer, a threshold says more about these questions than about those of people.
MIN_QUESTIONS = 20
KEEP = 0.95
# A threshold may not promise what no search can.
LEAST, MOST = 0.02, 0.98

Report = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a threshold does: the share of answerable questions that are answered, of others that are not (None of no
    others), with it and with the default."""

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


async def calibrate(search: Search, questions: Sequence[Mapping[str, Any]], keep: float, report: Report) -> Calibration:
    """Ask all `questions`; those with an empty `gold` have no answer in the articles. Raises `InvalidInput`."""
    if not 0.5 <= keep <= 1:
        raise InvalidInput("The share to keep must lie between 0.5 and 1.", field="keep")
    answerable = sum(bool(one["gold"]) for one in questions)
    if answerable < MIN_QUESTIONS:
        raise InvalidInput(
            f"There are {answerable} questions with an article, and at least {MIN_QUESTIONS} are needed.", field="file"
        )
    sure: dict[bool, list[float]] = {True: [], False: []}
    for done, one in enumerate(questions, 1):
        found = await search.find(one["question"], AUDIENCES)
        sure[bool(one["gold"])].append(0.0 if found is None else found.confidence)
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
    """The threshold of one workspace, and who may set it."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def current(self, actor: Actor) -> Threshold | None:
        """What somebody has set; None where `DEFAULT_THRESHOLD` holds."""
        actor.check("viewer")
        return await self._scope.read(knowledge.threshold)

    async def set(self, actor: Actor, measured: Calibration) -> None:
        """Have a measured threshold hold from now on."""
        actor.check("trainer")
        await self._scope.write(knowledge.set_threshold, actor.name, measured.threshold, measured.as_json)

    async def reset(self, actor: Actor) -> None:
        """Go back to the default."""
        actor.check("trainer")
        await self._scope.write(knowledge.forget_threshold, actor.name)
