"""Cases of counted votes for the contract of workspaces."""

from __future__ import annotations

from storage import votes
from storage.transaction import Transaction
from tests.contract.workspaces import Case, World, name_of

CASES = {name_of(votes.by_day): Case([lambda tx, w: votes.by_day(tx, 3)])}


def fill(tx: Transaction, world: World) -> None:
    """Each world has a vote already."""
