"""A database bound to one workspace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from storage.database import Database, Unit

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Scope:
    """A database and the one workspace whose rows units of work may touch.

    Code that serves a single workspace takes a `Scope`; only code that serves all of them takes the `Database`.
    """

    database: Database
    workspace_id: str

    async def read(self, unit: Unit[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `unit(tx, *args)` on a connection that can't write."""
        return await self.database.read(unit, self.workspace_id, *args, **kwargs)

    async def write(self, unit: Unit[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `unit(tx, *args)` and commit. The unit runs even if the caller is cancelled while waiting."""
        return await self.database.write(unit, self.workspace_id, *args, **kwargs)
