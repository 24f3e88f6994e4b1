"""Evaluations of versions, and the held-out examples they are judged on.

The figures of an evaluation never change; its verdict changes when people judge, its answers when a person is erased.
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
    """An evaluation without its report, which may have megabytes. `champion_id` is its rival, None for the base."""

    id: str
    version_id: str
    champion_id: str | None
    passed: bool
    created_at: int


_COLUMNS = [getattr(evaluation.c, name) for name in Evaluation.__slots__]
_INSERT = scoped(sa.insert(evaluation).values(created_at=now_ms()))
_verdicts = sa.select(*(getattr(evaluation.c, name) for name in GivenVerdict.__slots__))
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
    """Store an evaluation and return its id; None if the version or the champion no longer exists."""
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
    """Return an evaluation by its id. `to_change` locks its row until this transaction ends."""
    row = tx.execute(_FIND_TO_CHANGE if to_change else _FIND, which=evaluation_id).first()
    return None if row is None else _evaluation(row)


_LATEST = scoped(
    sa.select(*_COLUMNS)
    .where(evaluation.c.version_id == bindparam("of_version"))
    .order_by(evaluation.c.id.desc())
    .limit(1)
)


def latest_of_version(tx: Transaction, version_id: str) -> Evaluation | None:
    """Return a version's newest evaluation, which alone counts."""
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
    """Return the newest evaluations before an id, newest first."""
    return [_evaluation(row) for row in tx.execute(_PAGE, before=before, most=most)]


_VERDICTS = scoped(_verdicts.order_by(evaluation.c.id.desc()).limit(bindparam("most", type_=sa.Integer)))


def verdicts(tx: Transaction, most: int = 50) -> list[GivenVerdict]:
    """Return the newest evaluations without their reports, newest first."""
    return [GivenVerdict(**row._mapping) for row in tx.execute(_VERDICTS, most=most)]


_ALL_VERDICTS = scoped(_verdicts.order_by(evaluation.c.id))


def newest_verdicts(tx: Transaction) -> dict[str, GivenVerdict]:
    """Return the newest verdict on each evaluated version, by version id."""
    return {row.version_id: GivenVerdict(**row._mapping) for row in tx.execute(_ALL_VERDICTS)}


_HELD_OUT = scoped(
    sa.select(dataset_example.c.conversation_id, dataset_example.c.message_id, dataset_example.c.person_id)
    .add_columns(dataset_example.c.kind, dataset_example.c.source, dataset_example.c.split, dataset_example.c.content)
    .add_columns(dataset_example.c.number)
    .where(dataset_example.c.dataset_id == bindparam("which"), dataset_example.c.split == "held_out")
    .where(dataset_example.c.kind.in_(["answer", "pair"]))
    .order_by(dataset_example.c.sha256, dataset_example.c.number)
)


def held_out(tx: Transaction, dataset_id: str) -> list[tuple[int, Example]]:
    """Return a dataset's held-out answers and pairs with their numbers, in the order of their hashes.

    Erased examples are left out.
    """
    rows = tx.execute(_HELD_OUT, which=dataset_id)
    return [(row.number, Example.of_row(row)) for row in rows if row.content is not None]


_SET_VERDICT = scoped(
    sa.update(evaluation)
    .where(evaluation.c.id == bindparam("which"))
    .values(passed=bindparam("now_passed"), reasons=bindparam("new_reasons"))
)


def set_verdict(tx: Transaction, evaluation_id: str, *, passed: bool, reasons: Sequence[str]) -> bool:
    """Replace the gate's verdict after people have judged; False if there is no such evaluation."""
    return tx.execute(_SET_VERDICT, which=evaluation_id, now_passed=passed, new_reasons=list(reasons)).rowcount > 0


# Reports are large: read only those that name the person, or belong to a dataset that held the person's words.
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
    """Empty the answers to a person's prompts in all reports and return their number. Figures stay.

    Reports of versions trained on `touched_datasets` lose all answers: other prompts may quote the person.
    """
    forgotten = 0
    for row in tx.execute(_THAT_MAY_HOLD, who=person_id, touched=sorted(touched_datasets)).all():
        report = tx.execute(_REPORT, which=row.id).scalar_one()
        if row.dataset_id in touched_datasets:
            kept, gone = _without(report, lambda _: True)
        else:
            kept, gone = _without(report, lambda answer: answer.get("person_id") == person_id)
        if gone:
            forgotten += gone
            tx.execute(_SET_REPORT, which=row.id, new_report=kept)
    return forgotten


_PERSON = scoped(sa.select(person.c.id).where(person.c.id == bindparam("who")))


def without_erased(tx: Transaction, report: Mapping[str, Any], *, of_all: bool) -> dict[str, Any]:
    """Empty a report that was begun before an erasure, as `forget_person` would have done.

    `of_all`: the dataset of its version held the person's words.
    """
    named = {answer.get("person_id") for answer in report.get("answers", [])} - {None}
    known = {person_id for person_id in named if tx.execute(_PERSON, who=person_id).first() is not None}
    return _without(report, lambda answer: of_all or answer.get("person_id") in named - known)[0]


def _without(report: Mapping[str, Any], is_gone: Callable[[Mapping[str, Any]], bool]) -> tuple[dict[str, Any], int]:
    """Return the report with some of its answers emptied, and their number."""
    answers = report.get("answers", [])
    gone = [bool(answer.get("messages")) and is_gone(answer) for answer in answers]
    kept = [_emptied(answer) if goes else answer for goes, answer in zip(gone, answers, strict=True)]
    return {**report, "answers": kept}, sum(gone)


def _emptied(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return an answer without its texts. It stays in the list, so that its neighbours keep their numbers."""
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
