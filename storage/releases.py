"""The release in force: champion, previous version and canary.

A change locks the release's row and gives it a new number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from storage.learning_schema import canary, model_version, release
from storage.learning_values import Canary, CanaryOutcome, Release, Version
from storage.transaction import Transaction, now_ms, scoped
from storage.values import new_id
from storage.versions import get

canary_columns = tuple(column for column in canary.c if column.name != "workspace_id")
_aliases: dict[str, sa.FromClause] = {
    "champion": model_version.alias("champion"),
    "previous": model_version.alias("previous"),
    "challenger": model_version.alias("challenger"),
}


def _released() -> sa.Select[Any]:
    """Select one row with prefixed columns: `champion_name`, `challenger_weights_sha256`, `canary_share` ..."""
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
    """Return the release in force. Before the first change it is the base, with number 0."""
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
    """Return the columns with a prefix, without it; None if the outer join found no row."""
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
    """Lock the row and raise its number, so that simultaneous changes of the release happen one after the other."""
    fresh = insert(release).values(number=1, champion_id=None, previous_id=None, canary_id=None, updated_at=now_ms())
    clause: sa.Executable = fresh.on_conflict_do_update(
        index_elements=[release.c.workspace_id], set_={"number": release.c.number + 1, "updated_at": now_ms()}
    )
    return clause


_BEGIN = scoped(_begin)


def begin_change(tx: Transaction) -> Release:
    """Lock the release until this transaction ends, give it a new number and return it."""
    tx.execute(_BEGIN)
    return current(tx)


_SET = scoped(
    sa.update(release).values(
        champion_id=bindparam("champion"), previous_id=bindparam("previous"), canary_id=bindparam("trying")
    )
)


def set_aliases(tx: Transaction, champion_id: str | None, previous_id: str | None, canary_id: str | None) -> Release:
    """Set champion, previous version and canary, after `begin_change` in the same transaction."""
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
    """Store a canary, which `set_aliases` then starts. None if one of the versions does not exist."""
    if any(version_id is not None and get(tx, version_id) is None for version_id in (challenger_id, champion_id)):
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
    """Store a canary's outcome; False if it has ended before."""
    return (
        tx.execute(_END_CANARY, which=canary_id, how=outcome, told=None if report is None else dict(report)).rowcount
        > 0
    )


_CANARIES = scoped(sa.select(*canary_columns).order_by(canary.c.id.desc()).limit(bindparam("most", type_=sa.Integer)))


def canaries(tx: Transaction, most: int = 20) -> list[Canary]:
    """Return the newest canaries, newest first."""
    return [Canary(**row._mapping) for row in tx.execute(_CANARIES, most=most)]
