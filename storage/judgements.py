"""Blind judgements of answer pairs, one a judge and pair."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import bindparam

from storage.learning_schema import evaluation, judgement
from storage.transaction import Transaction, now_ms, scoped
from storage.values import new_id

Better = Literal["candidate", "champion", "same"]


def _insert(insert: Any) -> sa.Executable:
    clause: sa.Executable = (
        insert(judgement)
        .values(created_at=now_ms())
        .on_conflict_do_nothing(index_elements=["evaluation_id", "number", "judge"])
        .returning(judgement.c.id)
    )
    return clause


_INSERT = scoped(_insert)
_OWN = scoped(sa.select(evaluation.c.id).where(evaluation.c.id == bindparam("which")))


def add(tx: Transaction, evaluation_id: str, number: int, judge: str, better: Better) -> bool:
    """Add a judgement; False if that judge has judged that pair before, or there is no such evaluation."""
    if tx.execute(_OWN, which=evaluation_id).first() is None:
        return False
    added = tx.execute(_INSERT, id=new_id(), evaluation_id=evaluation_id, number=number, judge=judge, better=better)
    return added.first() is not None


_JUDGED = scoped(
    sa.select(judgement.c.number).where(
        judgement.c.evaluation_id == bindparam("which"), judgement.c.judge == bindparam("by")
    )
)


def judged_by(tx: Transaction, evaluation_id: str, judge: str) -> set[int]:
    """Return the numbers of the pairs that a judge has judged."""
    return {row.number for row in tx.execute(_JUDGED, which=evaluation_id, by=judge)}


_TALLY = scoped(
    sa.select(judgement.c.better, sa.func.count().label("votes"))
    .join(evaluation, evaluation.c.id == judgement.c.evaluation_id)
    .where(
        evaluation.c.version_id == bindparam("candidate"),
        evaluation.c.champion_id.is_not_distinct_from(bindparam("champion")),
    )
    .group_by(judgement.c.better)
)


def tally(tx: Transaction, version_id: str, champion_id: str | None) -> Mapping[str, int]:
    """Count the judgements for `candidate`, `champion` and `same`; a value without judgements is left out.

    All evaluations of a version beside one champion (None: the base) count, so that a new evaluation loses none.
    """
    found = tx.execute(_TALLY, candidate=version_id, champion=champion_id)
    return {row.better: int(row.votes) for row in found}


_TALLIES = scoped(
    sa.select(evaluation.c.version_id, evaluation.c.champion_id, judgement.c.better, sa.func.count().label("votes"))
    .join(evaluation, evaluation.c.id == judgement.c.evaluation_id)
    .group_by(evaluation.c.version_id, evaluation.c.champion_id, judgement.c.better)
)


def tallies(tx: Transaction) -> dict[tuple[str, str | None], Mapping[str, int]]:
    """Return the `tally` of every judged pair of version and champion, by the two ids."""
    found: dict[tuple[str, str | None], dict[str, int]] = defaultdict(dict)
    for row in tx.execute(_TALLIES):
        found[row.version_id, row.champion_id][row.better] = int(row.votes)
    return dict(found)
