"""Intents: one trained set a workspace, and counts of use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from storage import audit
from storage.knowledge_schema import intent_set
from storage.knowledge_values import IntentSet
from storage.schema import reply
from storage.transaction import Transaction, now_ms, scoped

_DELETE = scoped(sa.delete(intent_set))
_COLUMNS = [getattr(intent_set.c, name) for name in IntentSet.__slots__]
_CURRENT = scoped(sa.select(*_COLUMNS))


def current(tx: Transaction) -> IntentSet | None:
    """Return the set that was trained last."""
    row = tx.execute(_CURRENT).first()
    if row is None:
        return None
    values = {**row._mapping, "phrases": tuple((phrase, intent) for phrase, intent in row.phrases)}
    return IntentSet(**values)


_VERSION = scoped(sa.select(intent_set.c.version))
_INSERT = scoped(sa.insert(intent_set).values(trained_at=now_ms()))


def put(
    tx: Transaction,
    actor: str,
    *,
    embedder: str,
    phrases: Sequence[tuple[str, str]],
    replies: Mapping[str, str],
    computed: bytes,
    threshold: float,
    report: Mapping[str, Any],
) -> None:
    """Replace the set; `computed` is the classifier as NumPy's npz."""
    version = tx.execute(_VERSION).scalar() or 0
    tx.execute(_DELETE)
    tx.execute(
        _INSERT,
        version=version + 1,
        embedder=embedder,
        phrases=[list(pair) for pair in phrases],
        replies=dict(replies),
        computed=computed,
        threshold=threshold,
        report=dict(report),
        trained_by=actor,
    )
    intents = len({intent for _, intent in phrases})
    audit.record(tx, actor, "intents.train", f"{intents} intents", {"phrases": len(phrases), "intents": intents})


def forget(tx: Transaction, actor: str) -> bool:
    """Remove the set; False if there is none."""
    if not tx.execute(_DELETE).rowcount:
        return False
    audit.record(tx, actor, "intents.clear", "all")
    return True


_COUNTS = scoped(
    sa.select(reply.c.intent, sa.func.count().label("replies"))
    .where(reply.c.intent.is_not(None), reply.c.created_at >= now_ms() - bindparam("since_ms", type_=sa.BigInteger))
    .group_by(reply.c.intent)
)


def counts(tx: Transaction, days: int) -> dict[str, int]:
    """Count the replies of the last `days` days by the intent of their messages; "" stands for no intent."""
    return {row.intent: row.replies for row in tx.execute(_COUNTS, since_ms=days * 86_400_000)}
