"""History of champions, read from the audit log, for rollbacks.

A rollback goes back along this history and never forward: a version that was taken back leaves it until it is promoted
again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from bot.learning.versions import BASE, fault_of, name_of
from storage import audit, versions
from storage.learning_values import AuditRow, Version
from storage.transaction import Transaction

_ACTIONS = ("version.promoted", "version.rolled_back", "canary.harm", "canary.rolled_back")


@dataclass(frozen=True, slots=True)
class History:
    """Names of the champions, oldest first and with the base, and names of the versions that were taken back."""

    champions: tuple[str, ...]
    taken_back: frozenset[str]

    def before(self, champion: str) -> Iterator[str]:
        """Return the champions before the given one, newest first; all of them if the history does not contain it."""
        names = list(self.champions)
        if champion in names:
            while names.pop() != champion:
                pass
        return (name for name in reversed(names) if name != champion)


def read_history(tx: Transaction) -> History:
    return history_of(audit.of_actions(tx, _ACTIONS))


def history_of(rows: Sequence[AuditRow]) -> History:
    """Replay rows of the audit log, oldest first."""
    champions: list[str] = []
    taken_back: set[str] = set()
    for row in rows:
        target, before = row.target or BASE, row.details.get("before")
        if row.action == "version.promoted":
            champions += [before] if before and champions[-1:] != [before] else []
            champions.append(target)
            taken_back.discard(target)
        elif row.action == "version.rolled_back":  # its target is the version that answers again
            gone = {name for name in (before, row.details.get("canary")) if name} - {BASE, target}
            taken_back |= gone
            champions = _back_to(target, [name for name in champions if name not in gone])
        else:
            taken_back.add(target)
    return History(tuple(champions), frozenset(taken_back))


def _back_to(target: str, champions: list[str]) -> list[str]:
    """Cut the champions after the last `target`; append `target` if it is not there."""
    if target not in champions:
        return [*champions, target]
    while champions[-1] != target:
        champions.pop()
    return champions


def answered_before(tx: Transaction, champion: Version | None, gone: Collection[str] = ()) -> Version | None:
    """Return the version before a champion that may come back; None is the base, which always may.

    That is the newest version that was neither taken back nor retired. `gone` names the versions that are being taken
    back now.
    """
    history = read_history(tx)
    known = {version.name: version for version in versions.list_all(tx)}
    for name in history.before(name_of(champion)):
        if name == BASE:
            return None
        version = known.get(name)
        is_gone = name in gone or name in history.taken_back
        if version is not None and not is_gone and fault_of(version) is None:
            return version
    return None
