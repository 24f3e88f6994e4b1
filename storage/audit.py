"""Audit log: append-only rows in a hash chain.

Each row holds the SHA-256 of the row before it. Triggers in both databases refuse to change or delete a row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from storage.learning_schema import audit
from storage.learning_values import AuditRow
from storage.transaction import Transaction, across_workspaces, now_ms, scoped
from storage.values import new_id

_columns = (
    audit.c.number,
    audit.c.actor,
    audit.c.action,
    audit.c.target,
    audit.c.details,
    audit.c.sha256,
    audit.c.created_at,
)
_HEAD = scoped(sa.select(audit.c.number, audit.c.sha256).order_by(audit.c.number.desc()).limit(1))
_INSERT = scoped(sa.insert(audit))
_NOW = across_workspaces(sa.select(now_ms()))


def record(
    tx: Transaction, actor: str, action: str, target: str | None = None, details: Mapping[str, Any] | None = None
) -> None:
    """Add a row in the transaction of the change that it records. Pass no personal text: the row outlives erasures.

    Of two transactions that add a row at the same time, the database refuses the second, which then runs again.
    """
    head = tx.execute(_HEAD).first()
    number, previous = (head.number + 1, head.sha256) if head else (1, "")
    now = int(tx.execute(_NOW).scalar_one())
    digest = _digest(previous, number, now, actor, action, target, details or {})
    tx.execute(
        _INSERT,
        id=new_id(),
        number=number,
        actor=actor,
        action=action,
        target=target,
        details=dict(details or {}),
        previous_sha256=previous,
        sha256=digest,
        created_at=now,
    )


_PAGE = scoped(
    sa.select(*_columns)
    .where(audit.c.number < bindparam("before"))
    .order_by(audit.c.number.desc())
    .limit(bindparam("most", type_=sa.Integer))
)
_NEWEST = 2**62


def page(tx: Transaction, before: int = _NEWEST, most: int = 100) -> list[AuditRow]:
    """Return the newest rows before a number, newest first."""
    return [AuditRow(**row._mapping) for row in tx.execute(_PAGE, before=before, most=most)]


_OF_ACTIONS = scoped(
    sa.select(*_columns).where(audit.c.action.in_(bindparam("actions", expanding=True))).order_by(audit.c.number)
)


def of_actions(tx: Transaction, actions: Sequence[str]) -> list[AuditRow]:
    """Return all rows of these actions, oldest first."""
    return [AuditRow(**row._mapping) for row in tx.execute(_OF_ACTIONS, actions=list(actions))]


_ALL = scoped(sa.select(*_columns, audit.c.previous_sha256).order_by(audit.c.number))


def first_broken(tx: Transaction) -> int | None:
    """Return the number of the first row that was altered or follows a missing row; None if the chain is intact."""
    expected, previous = 1, ""
    for row in tx.execute(_ALL):
        digest = _digest(previous, row.number, row.created_at, row.actor, row.action, row.target, row.details)
        if (row.number, row.previous_sha256, row.sha256) != (expected, previous, digest):
            return int(row.number)
        expected, previous = expected + 1, row.sha256
    return None


def _digest(
    previous: str, number: int, at: int, actor: str, action: str, target: str | None, details: Mapping[str, Any]
) -> str:
    content = json.dumps([previous, number, at, actor, action, target, details], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()
