"""Who may do what: four roles, each with all that the ones before it may.

Knows: the roles and what each kind of action needs. Does not know: how somebody proved who they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from bot.errors import NotAllowed

Role = Literal["viewer", "agent", "trainer", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class Actor:
    """Somebody who steers. `name` stands in the audit log: `shell:root`, `web:ada`, `slack:ada`."""

    name: str
    role: Role

    def may(self, needed: Role) -> bool:
        return ROLES.index(self.role) >= ROLES.index(needed)

    def check(self, needed: Role) -> None:
        """Raises `NotAllowed` for a role that is not enough."""
        if not self.may(needed):
            raise NotAllowed(f"This needs the role {needed}; yours is {self.role}.")
