"""Idempotency keys of channel events that are no messages.

A key is kept for a week. The keys of messages are in the inbox.
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
    """Store a key, and delete keys older than a week."""
    tx.execute(_CLEAN)
    tx.execute(_INSERT, key=key)


def is_known(tx: Transaction, key: str) -> bool:
    """Return True if the key is stored."""
    return tx.execute(_FIND, wanted=key).first() is not None
