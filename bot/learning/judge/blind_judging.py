"""Blind judging: people compare two answers without knowing which version wrote them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from bot.access.roles import Actor
from bot.errors import Conflict, InvalidInput, NotFound
from bot.learning.judge.evaluation_report import JudgedAnswer, Judgements, report_from_json
from bot.learning.judge.gate import judge
from storage import audit, evaluations, judgements
from storage.judgements import Better
from storage.learning_values import Evaluation
from storage.scope import Scope
from storage.transaction import Transaction

PairChoice = Literal["left", "right", "same"]


@dataclass(frozen=True, slots=True)
class BlindPair:
    """Two answers to the same `messages`, without their authors. The person has judged `judged` of `pairs` pairs."""

    evaluation_id: str
    number: int
    messages: tuple[Mapping[str, str], ...]
    left: str
    right: str
    judged: int
    pairs: int


class BlindJudging:
    """Blind pairs from the evaluations of one workspace. Judging needs the role agent."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def next_pair(self, actor: Actor, evaluation_id: str) -> BlindPair | None:
        """Return a pair that this person has not judged yet; None if none is left. Raises `NotFound`."""
        actor.check("agent")
        return await self._scope.read(_next_pair, actor, evaluation_id)

    async def vote(self, actor: Actor, evaluation_id: str, number: int, choice: PairChoice) -> None:
        """Record a vote, and let the gate judge again.

        Raises `NotFound`, `InvalidInput`, and `Conflict` if this person has judged that pair.
        """
        actor.check("agent")
        if choice not in ("left", "right", "same"):
            raise InvalidInput("Say left, right or same.", field="choice")
        await self._scope.write(_vote, actor, evaluation_id, number, choice)

    async def tally(self, evaluation_id: str) -> Judgements:
        """Count the votes so far on its version beside its champion. Raises `NotFound`."""
        return await self._scope.read(_tally, evaluation_id)

    async def tallies(self) -> dict[tuple[str, str | None], Judgements]:
        """Return every tally, by the ids of version and champion."""
        found = await self._scope.read(judgements.tallies)
        return {sides: Judgements(**counts) for sides, counts in found.items()}


def _next_pair(tx: Transaction, actor: Actor, evaluation_id: str) -> BlindPair | None:
    pairs = _pairs(_evaluation(tx, evaluation_id))
    done = judgements.judged_by(tx, evaluation_id, actor.name)
    # Each judge gets an order of their own, so that the last pairs are not judged by few.
    open_numbers = sorted(pairs.keys() - done, key=lambda number: _digest(evaluation_id, number, actor.name))
    if not open_numbers:
        return None
    number = open_numbers[0]
    answers = pairs[number].answers
    left, right = answers["candidate"], answers["champion"]
    if not _candidate_is_left(evaluation_id, number, actor.name):
        left, right = right, left
    return BlindPair(evaluation_id, number, pairs[number].messages, left, right, len(pairs.keys() & done), len(pairs))


def _vote(tx: Transaction, actor: Actor, evaluation_id: str, number: int, choice: PairChoice) -> None:
    # The row lock puts two simultaneous votes in order, so that the second verdict counts both.
    found = _evaluation(tx, evaluation_id, to_change=True)
    if number not in _pairs(found):
        raise NotFound(f"This evaluation has no pair {number} to judge.")
    better: Better = "same"
    if choice != "same":
        left = choice == "left"
        better = "candidate" if left == _candidate_is_left(evaluation_id, number, actor.name) else "champion"
    if not judgements.add(tx, evaluation_id, number, actor.name, better):
        raise Conflict("You have judged this pair already.")
    verdict = judge(report_from_json(found.report), judgements=tally_of(tx, found.version_id, found.champion_id))
    evaluations.set_verdict(tx, evaluation_id, passed=verdict.passed, reasons=verdict.reasons)
    if verdict.passed != found.passed:
        audit.record(tx, actor.name, "evaluation.judged", evaluation_id, {"passed": verdict.passed})


def _tally(tx: Transaction, evaluation_id: str) -> Judgements:
    found = _evaluation(tx, evaluation_id)
    return tally_of(tx, found.version_id, found.champion_id)


def tally_of(tx: Transaction, version_id: str, champion_id: str | None) -> Judgements:
    """Count the votes on a version beside a champion (None is the base), over all its evaluations."""
    return Judgements(**judgements.tally(tx, version_id, champion_id))


def _evaluation(tx: Transaction, evaluation_id: str, *, to_change: bool = False) -> Evaluation:
    found = evaluations.find(tx, evaluation_id, to_change=to_change)
    if found is None:
        raise NotFound(f'There is no evaluation "{evaluation_id}".')
    return found


def _pairs(evaluation: Evaluation) -> dict[int, JudgedAnswer]:
    """Return the answers in which candidate and champion differ, by their numbers."""
    answers = report_from_json(evaluation.report).answers
    return {
        number: pair for number, pair in enumerate(answers) if pair.answers["candidate"] != pair.answers["champion"]
    }


def _candidate_is_left(evaluation_id: str, number: int, judge_name: str) -> bool:
    return _digest(evaluation_id, number, judge_name)[-1] % 2 == 0


def _digest(evaluation_id: str, number: int, judge_name: str) -> bytes:
    return hashlib.sha256(f"{evaluation_id}/{number}/{judge_name}".encode()).digest()
