"""How many replies people found good and bad on each day.

Knows: votes that count. Does not know: who voted, on what.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import bindparam

from storage.schema import vote
from storage.transaction import Transaction, now_ms, scoped

DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class DayCount:
    """The votes of one day, which is counted from 1970 (UTC)."""

    day: int
    up: int
    down: int


_day = (vote.c.created_at // DAY_MS).label("day")
_BY_DAY = scoped(
    sa.select(
        _day,
        sa.func.sum(sa.case((vote.c.value > 0, 1), else_=0)).label("up"),
        sa.func.sum(sa.case((vote.c.value < 0, 1), else_=0)).label("down"),
    )
    .where(vote.c.replaced_at.is_(None), vote.c.created_at >= now_ms() - bindparam("past_ms", type_=sa.BigInteger))
    .group_by(_day)
    .order_by(_day)
)


def by_day(tx: Transaction, days: int) -> list[DayCount]:
    """The days of the last `days` on which somebody voted, oldest first."""
    rows = tx.execute(_BY_DAY, past_ms=days * DAY_MS)
    return [DayCount(int(row.day), int(row.up), int(row.down)) for row in rows]
