"""What a channel told us that is no message and must not be done again when it is delivered again.

Knows: keys, kept for a week. Does not know: what they stand for.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from storage.schema import seen_event
from storage.transaction import Transaction, now_ms, scoped

KEEP_MS = 7 * 24 * 3600 * 1000


def _insert(insert: Any) -> sa.Executable:
    clause: sa.Executable = insert(seen_event).values(created_at=now_ms()).on_conflict_do_nothing()
    return clause


_INSERT = scoped(_insert)
_CLEAN = scoped(sa.delete(seen_event).where(seen_event.c.created_at < now_ms() - KEEP_MS))
_FIND = scoped(sa.select(seen_event.c.key).where(seen_event.c.key == bindparam("wanted")))


def note(tx: Transaction, key: str) -> None:
    """Remember `key`, and forget what is older than a week."""
    tx.execute(_CLEAN)
    tx.execute(_INSERT, key=key)


def is_known(tx: Transaction, key: str) -> bool:
    return tx.execute(_FIND, wanted=key).first() is not None
