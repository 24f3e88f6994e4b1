"""From how sure on a question counts as answered by the articles, as a workspace has measured it.

Knows: one row a workspace, and who set it. Does not know: what is measured, or how. Every function is a unit of work.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from storage import audit
from storage.knowledge_schema import knowledge_threshold
from storage.knowledge_values import Threshold
from storage.transaction import Transaction, now_ms, scoped


def _set_clause(insert: Any) -> sa.Executable:
    new = insert(knowledge_threshold).values(set_at=now_ms())
    clause: sa.Executable = new.on_conflict_do_update(
        index_elements=["workspace_id"],
        set_={name: new.excluded[name] for name in ("value", "report", "set_by", "set_at")},
    )
    return clause


_SET = scoped(_set_clause)
_CURRENT = scoped(sa.select(*(getattr(knowledge_threshold.c, name) for name in Threshold.__slots__)))
_FORGET = scoped(sa.delete(knowledge_threshold))


def current(tx: Transaction) -> Threshold | None:
    """What was set last; None where the default holds."""
    row = tx.execute(_CURRENT).first()
    return Threshold(**row._mapping) if row else None


def set_to(tx: Transaction, actor: str, value: float, report: Mapping[str, Any]) -> None:
    """Set it, with what was measured."""
    tx.execute(_SET, value=value, report=dict(report), set_by=actor)
    audit.record(tx, actor, "knowledge.threshold", f"{value:.3f}")


def forget(tx: Transaction, actor: str) -> None:
    """Go back to the default."""
    if tx.execute(_FORGET).rowcount:
        audit.record(tx, actor, "knowledge.threshold", "default")
