"""What answers now: champion, previous and challenger of a workspace, and the canary that tries the challenger.

Knows: that a change is made under the row's lock and gives it a new number. Does not know: who may change what, and
when that is wise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from storage.learning_schema import canary, evaluation, model_version, release
from storage.learning_values import Canary, CanaryOutcome, Release, Version
from storage.transaction import Transaction, now_ms, scoped
from storage.values import new_id
from storage.versions import get


@dataclass(frozen=True, slots=True)
class LastVerdict:
    """What the gate said of a version. `champion_id` is what it was compared with, None for the base."""

    passed: bool
    champion_id: str | None


canary_columns = tuple(column for column in canary.c if column.name != "workspace_id")
_aliases: dict[str, sa.FromClause] = {
    "champion": model_version.alias("champion"),
    "previous": model_version.alias("previous"),
    "challenger": model_version.alias("challenger"),
}


def _released() -> sa.Select[Any]:
    """One row with all that is named: `champion_name`, `challenger_weights_sha256`, `canary_share` ..."""
    source: sa.FromClause = release.outerjoin(
        canary, sa.and_(canary.c.workspace_id == release.c.workspace_id, canary.c.id == release.c.canary_id)
    )
    keys = {"champion": release.c.champion_id, "previous": release.c.previous_id, "challenger": canary.c.challenger_id}
    for name, table in _aliases.items():
        source = source.outerjoin(
            table, sa.and_(table.c.workspace_id == release.c.workspace_id, table.c.id == keys[name])
        )
    columns = [column.label(f"canary_{column.name}") for column in canary_columns]
    columns += [column.label(f"{name}_{column.name}") for name, table in _aliases.items() for column in table.c]
    return sa.select(release.c.number, *columns).select_from(source)


_CURRENT = scoped(_released())


def current(tx: Transaction) -> Release:
    """What answers now. Without a release yet the base does, and the number is 0."""
    row = tx.execute(_CURRENT).first()
    if row is None:
        return Release()
    values = dict(row._mapping)
    trying = _part(values, "canary")
    return Release(
        number=row.number,
        champion=_version(values, "champion"),
        previous=_version(values, "previous"),
        challenger=_version(values, "challenger"),
        canary=Canary(**trying) if trying else None,
    )


def _part(values: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """The columns that begin with a name, None if the outer join found nothing."""
    start = f"{name}_"
    found = {key.removeprefix(start): value for key, value in values.items() if key.startswith(start)}
    return found if found["id"] is not None else None


def _version(values: Mapping[str, Any], name: str) -> Version | None:
    found = _part(values, name)
    if found is None:
        return None
    del found["workspace_id"]
    return Version(**found)


def _begin(insert: Any) -> sa.Executable:
    """Takes the row's lock, so that two who change the release at once do it one after the other."""
    fresh = insert(release).values(number=1, champion_id=None, previous_id=None, canary_id=None, updated_at=now_ms())
    clause: sa.Executable = fresh.on_conflict_do_update(
        index_elements=[release.c.workspace_id], set_={"number": release.c.number + 1, "updated_at": now_ms()}
    )
    return clause


_BEGIN = scoped(_begin)


def begin_change(tx: Transaction) -> Release:
    """What answers now, under a new number; nobody else changes it before this transaction ends."""
    tx.execute(_BEGIN)
    return current(tx)


_SET = scoped(
    sa.update(release).values(
        champion_id=bindparam("champion"), previous_id=bindparam("previous"), canary_id=bindparam("trying")
    )
)


def set_aliases(tx: Transaction, champion_id: str | None, previous_id: str | None, canary_id: str | None) -> Release:
    """Name what is to answer, after `begin_change` in the same transaction."""
    tx.execute(_SET, champion=champion_id, previous=previous_id, trying=canary_id)
    return current(tx)


_INSERT_CANARY = scoped(
    sa.insert(canary).values(created_at=now_ms(), ended_at=None, outcome=None, report=None).returning(*canary_columns)
)


def start_canary(
    tx: Transaction,
    challenger_id: str,
    champion_id: str | None,
    share: float,
    salt: str,
    settings: Mapping[str, Any],
    created_by: str,
) -> Canary | None:
    """Write down a canary; `set_aliases` makes it the one that runs. None if one of the versions isn't there."""
    if any(one is not None and get(tx, one) is None for one in (challenger_id, champion_id)):
        return None
    row = tx.execute(
        _INSERT_CANARY,
        id=new_id(),
        challenger_id=challenger_id,
        champion_id=champion_id,
        share=share,
        salt=salt,
        settings=dict(settings),
        created_by=created_by,
    ).one()
    return Canary(**row._mapping)


_END_CANARY = scoped(
    sa.update(canary)
    .where(canary.c.id == bindparam("which"), canary.c.outcome.is_(None))
    .values(ended_at=now_ms(), outcome=bindparam("how"), report=bindparam("told"))
)


def end_canary(tx: Transaction, canary_id: str, outcome: CanaryOutcome, report: Mapping[str, Any] | None) -> bool:
    """Write down how a canary ended. False if it has ended before."""
    return (
        tx.execute(_END_CANARY, which=canary_id, how=outcome, told=None if report is None else dict(report)).rowcount
        > 0
    )


_CANARIES = scoped(sa.select(*canary_columns).order_by(canary.c.id.desc()).limit(bindparam("most", type_=sa.Integer)))


def canaries(tx: Transaction, most: int = 20) -> list[Canary]:
    """The newest canaries, newest first."""
    return [Canary(**row._mapping) for row in tx.execute(_CANARIES, most=most)]


_LAST_VERDICT = scoped(
    sa.select(evaluation.c.passed, evaluation.c.champion_id)
    .where(evaluation.c.version_id == bindparam("version"))
    .order_by(evaluation.c.id.desc())
    .limit(1)
)


def last_verdict(tx: Transaction, version_id: str) -> LastVerdict | None:
    """What the gate said of a version when it was last evaluated; None if it never was."""
    row = tx.execute(_LAST_VERDICT, version=version_id).first()
    return LastVerdict(row.passed, row.champion_id) if row is not None else None
