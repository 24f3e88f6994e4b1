"""Evaluations of versions, and the held-out examples that they are judged on.

Knows: rows of `evaluation`, whose figures never change, though people may judge and be forgotten. Does not
know: what stands in a report, but for its `answers`; when an evaluation passes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from storage.learning_schema import dataset_example, evaluation, model_version
from storage.learning_values import Evaluation, Example
from storage.schema import person
from storage.transaction import Transaction, now_ms, scoped
from storage.values import new_id


@dataclass(frozen=True, slots=True)
class GivenVerdict:
    """An evaluation without its report, which may be of megabytes."""

    id: str
    version_id: str
    champion_id: str | None
    passed: bool
    created_at: int


_COLUMNS = [getattr(evaluation.c, name) for name in Evaluation.__slots__]
_INSERT = scoped(sa.insert(evaluation).values(created_at=now_ms()))
_OWN_VERSION = scoped(sa.select(model_version.c.id).where(model_version.c.id == bindparam("which")))


def save(
    tx: Transaction,
    version_id: str,
    champion_id: str | None,
    *,
    passed: bool,
    reasons: Sequence[str],
    report: Mapping[str, Any],
    created_by: str,
) -> str | None:
    """Keep an evaluation; returns its id, None if the version, or the champion, is not there any more."""
    for needed in [version_id, *([champion_id] if champion_id is not None else [])]:
        if tx.execute(_OWN_VERSION, which=needed).first() is None:
            return None
    evaluation_id = new_id()
    tx.execute(
        _INSERT,
        id=evaluation_id,
        version_id=version_id,
        champion_id=champion_id,
        passed=passed,
        reasons=list(reasons),
        report=dict(report),
        created_by=created_by,
    )
    return evaluation_id


_FIND = scoped(sa.select(*_COLUMNS).where(evaluation.c.id == bindparam("which")))
_FIND_TO_CHANGE = scoped(sa.select(*_COLUMNS).where(evaluation.c.id == bindparam("which")).with_for_update())


def find(tx: Transaction, evaluation_id: str, *, to_change: bool = False) -> Evaluation | None:
    """One evaluation by its id. `to_change`: nobody else changes it before this transaction ends."""
    row = tx.execute(_FIND_TO_CHANGE if to_change else _FIND, which=evaluation_id).first()
    return None if row is None else _evaluation(row)


_LATEST = scoped(
    sa.select(*_COLUMNS)
    .where(evaluation.c.version_id == bindparam("of_version"))
    .order_by(evaluation.c.id.desc())
    .limit(1)
)


def latest_of_version(tx: Transaction, version_id: str) -> Evaluation | None:
    """A version's newest evaluation: the one that counts."""
    row = tx.execute(_LATEST, of_version=version_id).first()
    return None if row is None else _evaluation(row)


_PAGE = scoped(
    sa.select(*_COLUMNS)
    .where(evaluation.c.id < bindparam("before"))
    .order_by(evaluation.c.id.desc())
    .limit(bindparam("most", type_=sa.Integer))
)
_NEWEST = "f" * 33


def page(tx: Transaction, before: str = _NEWEST, most: int = 50) -> list[Evaluation]:
    """The newest evaluations made before one of that id, newest first."""
    return [_evaluation(row) for row in tx.execute(_PAGE, before=before, most=most)]


_VERDICTS = scoped(
    sa.select(*(getattr(evaluation.c, name) for name in GivenVerdict.__slots__))
    .order_by(evaluation.c.id.desc())
    .limit(bindparam("most", type_=sa.Integer))
)


def verdicts(tx: Transaction, most: int = 50) -> list[GivenVerdict]:
    """The newest verdicts, newest first, for those who need no report."""
    return [GivenVerdict(**row._mapping) for row in tx.execute(_VERDICTS, most=most)]


_PASSED = scoped(sa.select(evaluation.c.version_id, evaluation.c.passed).order_by(evaluation.c.id))


def newest_verdicts(tx: Transaction) -> dict[str, bool]:
    """Whether each version that was evaluated passed when it was evaluated last, by the versions' ids."""
    return {row.version_id: row.passed for row in tx.execute(_PASSED)}


_HELD_OUT = scoped(
    sa.select(dataset_example.c.conversation_id, dataset_example.c.message_id, dataset_example.c.person_id)
    .add_columns(dataset_example.c.kind, dataset_example.c.source, dataset_example.c.split, dataset_example.c.content)
    .add_columns(dataset_example.c.number)
    .where(dataset_example.c.dataset_id == bindparam("which"), dataset_example.c.split == "held_out")
    .where(dataset_example.c.kind.in_(["answer", "pair"]))
    .order_by(dataset_example.c.sha256, dataset_example.c.number)
)


def held_out(tx: Transaction, dataset_id: str) -> list[tuple[int, Example]]:
    """A dataset's held-out answers with their numbers, in the order of their hashes, without those whose words have
    been erased."""
    rows = tx.execute(_HELD_OUT, which=dataset_id)
    return [(row.number, Example.of_row(row)) for row in rows if row.content is not None]


_SET_VERDICT = scoped(
    sa.update(evaluation)
    .where(evaluation.c.id == bindparam("which"))
    .values(passed=bindparam("now_passed"), reasons=bindparam("new_reasons"))
)


def set_verdict(tx: Transaction, evaluation_id: str, *, passed: bool, reasons: Sequence[str]) -> bool:
    """What the gate says once people have judged, too. False if there is no such evaluation."""
    return tx.execute(_SET_VERDICT, which=evaluation_id, now_passed=passed, new_reasons=list(reasons)).rowcount > 0


# Reports are large: only those are read that name the person, or are of a dataset that held their words.
_THAT_MAY_HOLD = scoped(
    sa.select(evaluation.c.id, model_version.c.dataset_id)
    .join(model_version, model_version.c.id == evaluation.c.version_id)
    .where(
        sa.or_(
            sa.cast(evaluation.c.report, sa.Text).contains(bindparam("who")),
            model_version.c.dataset_id.in_(bindparam("touched", expanding=True)),
        )
    )
    .order_by(evaluation.c.id)
)
_REPORT = scoped(sa.select(evaluation.c.report).where(evaluation.c.id == bindparam("which")))
_SET_REPORT = scoped(
    sa.update(evaluation).where(evaluation.c.id == bindparam("which")).values(report=bindparam("new_report"))
)


def forget_person(tx: Transaction, person_id: str, touched_datasets: Collection[str] = ()) -> int:
    """Empty the answers to a person's words in all reports, whose figures and numbers stay; returns how many.

    Of versions made of `touched_datasets` all answers go: other people's prompts may hold the person's words, too.
    """
    forgotten = 0
    for row in tx.execute(_THAT_MAY_HOLD, who=person_id, touched=sorted(touched_datasets)).all():
        report = tx.execute(_REPORT, which=row.id).scalar_one()
        if row.dataset_id in touched_datasets:
            kept, gone = _without(report, lambda _: True)
        else:
            kept, gone = _without(report, lambda one: one.get("person_id") == person_id)
        if gone:
            forgotten += gone
            tx.execute(_SET_REPORT, which=row.id, new_report=kept)
    return forgotten


_PERSON = scoped(sa.select(person.c.id).where(person.c.id == bindparam("who")))


def without_erased(tx: Transaction, report: Mapping[str, Any], *, of_all: bool) -> dict[str, Any]:
    """A report that was begun before somebody was erased, as `forget_person` would have left it.

    `of_all`: the dataset of its version held the person's words.
    """
    named = {one.get("person_id") for one in report.get("answers", [])} - {None}
    known = {one for one in named if tx.execute(_PERSON, who=one).first() is not None}
    return _without(report, lambda one: of_all or one.get("person_id") in named - known)[0]


def _without(report: Mapping[str, Any], is_gone: Callable[[Mapping[str, Any]], bool]) -> tuple[dict[str, Any], int]:
    """The report with some of its answers emptied, and how many these are."""
    answers = report.get("answers", [])
    gone = [bool(one.get("messages")) and is_gone(one) for one in answers]
    kept = [_emptied(one) if goes else one for goes, one in zip(gone, answers, strict=True)]
    return {**report, "answers": kept}, sum(gone)


def _emptied(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Without a word, so that there is nothing to compare, and its neighbours keep their numbers."""
    return {
        **answer,
        "messages": [],
        "reference": None,
        "person_id": None,
        "answers": dict.fromkeys(answer["answers"], ""),
        "broken": {label: [] for label in answer["broken"]},
    }


def _evaluation(row: Any) -> Evaluation:
    return Evaluation(**{**row._mapping, "reasons": tuple(row.reasons)})
