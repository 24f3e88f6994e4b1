"""Whether the database answers. Knows nothing else."""

from __future__ import annotations

import sqlalchemy as sa

from storage.database import Database, StorageUnavailable
from storage.schema import workspace
from storage.transaction import Transaction, across_workspaces

_ANY = across_workspaces(sa.select(workspace.c.id).limit(1))


def _ask(tx: Transaction) -> bool:
    return tx.execute(_ANY).first() is not None


async def answers(database: Database) -> bool:
    """True if a query comes back."""
    try:
        return await database.read(_ask, None)
    except StorageUnavailable:
        return False
