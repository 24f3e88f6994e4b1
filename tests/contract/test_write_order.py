"""Urgent units of work are committed before waiting ones, the others in their order."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from storage.database import MAX_UNITS_PER_COMMIT, Database
from storage.inbox import accept
from storage.transaction import is_urgent, urgent


async def test_urgent_units_are_committed_first(database_url: str) -> None:
    database, free, done = Database(database_url), threading.Event(), []

    def hold(tx: Any) -> None:
        free.wait(10)

    def note(tx: Any, what: str) -> None:
        done.append(what)

    @urgent
    def note_urgently(tx: Any, what: str) -> None:
        done.append(what)

    holding = asyncio.create_task(database.write(hold, None))
    await asyncio.sleep(0.1)
    others = [asyncio.create_task(database.write(note, None, f"{n}")) for n in range(2 * MAX_UNITS_PER_COMMIT)]
    await asyncio.sleep(0)
    last = asyncio.create_task(database.write(note_urgently, None, "urgent"))
    await asyncio.sleep(0)
    free.set()
    await asyncio.gather(holding, *others, last)
    await database.close()
    assert done == ["urgent", *(f"{n}" for n in range(2 * MAX_UNITS_PER_COMMIT))]


def test_accepting_a_message_is_urgent() -> None:
    assert is_urgent(accept)
