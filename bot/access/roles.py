"""Roles: viewer, agent, trainer, admin; each includes those before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from bot.errors import NotAllowed

Role = Literal["viewer", "agent", "trainer", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class Actor:
    """A person who administers Myna. `name` is written to the audit log: `shell:root`, `web:ada`, `slack:ada`."""

    name: str
    role: Role

    def may(self, needed: Role) -> bool:
        """Return True if the actor's role includes the needed role."""
        return ROLES.index(self.role) >= ROLES.index(needed)

    def check(self, needed: Role) -> None:
        """Raise `NotAllowed` if the actor's role does not include the needed role."""
        if not self.may(needed):
            raise NotAllowed(f"This needs the role {needed}; yours is {self.role}.")
