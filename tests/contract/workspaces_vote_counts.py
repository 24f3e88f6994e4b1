"""Cases of counted votes for the contract of workspaces."""

from __future__ import annotations

from storage import vote_counts
from storage.transaction import Transaction
from tests.contract.workspaces import Case, World, name_of

CASES = {name_of(vote_counts.by_day): Case([lambda tx, w: vote_counts.by_day(tx, 3)])}


def fill(tx: Transaction, world: World) -> None:
    """Each world has a vote already."""
