"""Blind judging and golden questions, and their effect on the gate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bot.access.roles import Actor
from bot.errors import Conflict, InvalidInput, NotAllowed, NotFound
from bot.learning.judge.answer_rules import AnswerRules
from bot.learning.judge.blind_judging import BlindJudging
from bot.learning.judge.evaluation_report import JudgedAnswer, Judgements, report_as_json
from bot.learning.judge.gate import judge
from bot.learning.judge.golden_questions import GoldenQuestions, NewQuestion
from storage import audit, evaluations
from storage.database import Database
from storage.schema import DEFAULT_WORKSPACE
from storage.scope import Scope
from storage.transaction import Transaction
from tests.builders.reports import GOOD
from tests.builders.versions import add_version

pytestmark = pytest.mark.both_databases("drawn by hash in SQL")

ADA, VIEWER, TRAINER = Actor("web:ada", "agent"), Actor("web:eve", "viewer"), Actor("web:tom", "trainer")
NO_RULES = {"base": (), "champion": (), "candidate": ()}


def answer(number: int, champion: str, candidate: str) -> JudgedAnswer:
    asked = ({"role": "user", "content": f"question {number}"},)
    said = {"base": "x", "champion": champion, "candidate": candidate}
    return JudgedAnswer("held_out", str(number), asked, None, said, NO_RULES, f"p{number % 2}")  # type: ignore[arg-type]


REPORT = replace(
    GOOD, answers=tuple(answer(number, f"champion {number}", f"candidate {number}") for number in range(11))
)
REPORT = replace(REPORT, answers=(answer(99, "the same", "the same"), *REPORT.answers))


def save(tx: Transaction) -> str:
    version_id, _ = add_version(tx, "bot-v2", 2)
    verdict = judge(REPORT)
    saved = evaluations.save(
        tx,
        version_id,
        None,
        passed=verdict.passed,
        reasons=verdict.reasons,
        report=report_as_json(REPORT),
        created_by="web:tom",
    )
    assert saved is not None
    return saved


async def read(database: Database, unit: Any, *args: Any) -> Any:
    return await database.read(unit, DEFAULT_WORKSPACE, *args)


async def test_pairs_are_blind_and_each_is_judged_once(database: Database) -> None:
    evaluation_id = await database.write(save, DEFAULT_WORKSPACE)
    judging = BlindJudging(Scope(database, DEFAULT_WORKSPACE))
    sides, order = set(), []
    while pair := await judging.next_pair(ADA, evaluation_id):
        assert pair == await judging.next_pair(ADA, evaluation_id), "nothing changes until there is a vote"
        assert pair.left != pair.right and pair.pairs == 11 and pair.judged == len(order)
        left_is_candidate = pair.left.startswith("candidate")
        sides.add(left_is_candidate)
        order.append(pair.number)
        await judging.vote(ADA, evaluation_id, pair.number, "left" if left_is_candidate else "right")
    assert sides == {True, False}
    assert sorted(order) == list(range(1, 12)) and order != sorted(order)
    assert await judging.tally(evaluation_id) == Judgements(11, 0, 0)
    with pytest.raises(Conflict):
        await judging.vote(ADA, evaluation_id, 3, "same")
    await judging.vote(replace(ADA, name="web:bob"), evaluation_id, 3, "same")
    assert await judging.tally(evaluation_id) == Judgements(11, 0, 1)


async def test_enough_votes_against_a_version_revoke_its_verdict(database: Database) -> None:
    evaluation_id = await database.write(save, DEFAULT_WORKSPACE)
    judging = BlindJudging(Scope(database, DEFAULT_WORKSPACE))
    assert (await read(database, evaluations.find, evaluation_id)).passed
    while pair := await judging.next_pair(ADA, evaluation_id):
        await judging.vote(ADA, evaluation_id, pair.number, "left" if pair.left.startswith("champion") else "right")
    found = await read(database, evaluations.find, evaluation_id)
    assert not found.passed and "0 to 11" in found.reasons[-1]
    recorded = [row for row in await read(database, audit.page) if row.action == "evaluation.judged"]
    assert [(row.target, row.details) for row in recorded] == [(evaluation_id, {"passed": False})]


async def test_missing_roles_and_unknown_pairs_are_refused(database: Database) -> None:
    evaluation_id = await database.write(save, DEFAULT_WORKSPACE)
    judging = BlindJudging(Scope(database, DEFAULT_WORKSPACE))
    for refused in (judging.next_pair(VIEWER, evaluation_id), judging.vote(VIEWER, evaluation_id, 1, "left")):
        with pytest.raises(NotAllowed):
            await refused
    with pytest.raises(NotFound):
        await judging.next_pair(ADA, "no such id")
    for number in (0, 12, -1):
        with pytest.raises(NotFound, match="no pair"):
            await judging.vote(ADA, evaluation_id, number, "left")
    with pytest.raises(InvalidInput, match="left, right or same"):
        await judging.vote(ADA, evaluation_id, 1, "both")  # type: ignore[arg-type]


async def test_erasing_a_person_keeps_the_figures(database: Database) -> None:
    evaluation_id = await database.write(save, DEFAULT_WORKSPACE)
    judging = BlindJudging(Scope(database, DEFAULT_WORKSPACE))
    assert await database.write(evaluations.forget_person, DEFAULT_WORKSPACE, "p1") == 6
    assert await database.write(evaluations.forget_person, DEFAULT_WORKSPACE, "p1") == 0
    found = await read(database, evaluations.find, evaluation_id)
    assert "question 3" not in repr(found) and "candidate 3" not in repr(found) and "question 4" in repr(found)
    pair = await judging.next_pair(ADA, evaluation_id)
    assert pair is not None and pair.pairs == 6
    await judging.vote(ADA, evaluation_id, pair.number, "same")
    assert (await read(database, evaluations.find, evaluation_id)).passed


async def test_golden_questions_are_added_and_removed(database: Database) -> None:
    golden = GoldenQuestions(Scope(database, DEFAULT_WORKSPACE))
    questions = [NewQuestion(({"role": "user", "content": text},), AnswerRules(("x",))) for text in ("one", "two")]
    with pytest.raises(NotAllowed):
        await golden.add(ADA, questions)
    first, second = await golden.add(TRAINER, questions)
    assert [one.messages[0]["content"] for one in await golden.list_all(VIEWER)] == ["one", "two"]
    await golden.remove(TRAINER, first)
    assert [one.id for one in await golden.list_all(VIEWER)] == [second]
    with pytest.raises(NotFound):
        await golden.remove(TRAINER, first)
    assert [row.action for row in await read(database, audit.page)] == [
        "golden.removed",
        "golden.added",
        "golden.added",
    ]
