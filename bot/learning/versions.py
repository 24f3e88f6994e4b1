"""Trained versions: find by name, retire, and trace lineage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bot.access.roles import Actor
from bot.errors import Conflict, Fault, InvalidInput, NotFound
from storage import audit, evaluations, releases, versions
from storage.learning_values import Evaluation, Version
from storage.scope import Scope
from storage.transaction import Transaction

# The base model's name in typed lines and in the audit log.
BASE = "base"
NAME_START = "bot-v"
# Files in a version's folder; they hold figures, and nobody's words.
CARD_FILE = "README.md"
FACTS_FILE = "myna-version.json"


@dataclass(frozen=True, slots=True)
class Lineage:
    """The training examples of a version, as `(conversation id, message id, SHA-256)`."""

    version: Version
    learnt_from: tuple[tuple[str, str, str], ...]


def name_of(version: Version | None) -> str:
    return version.name if version is not None else BASE


def folder_of(data: Path, name: str) -> Path:
    """Return the folder of a version's weights."""
    return data / "versions" / name


def find_among(known: Sequence[Version], which: str) -> Version:
    """Find a version by name, number or unambiguous start of a name. Raises `NotFound`."""
    asked = which.strip()
    exact = [version for version in known if asked in (version.name, str(version.number), f"v{version.number}")]
    found = exact or [version for version in known if asked and version.name.startswith(asked)]
    if not found:
        there_are = ", ".join(version.name for version in known[-10:]) or "none yet"
        raise NotFound(f'There is no version "{which}". There is: {there_are}.')
    if len(found) > 1:
        names = " or ".join(version.name for version in found)
        raise NotFound(f'"{which}" may be {names}. Write more of the name.')
    return found[0]


def find(tx: Transaction, which: str) -> Version:
    """Find a version by `find_among`, within a transaction."""
    return find_among(versions.list_all(tx), which)


def fault_of(version: Version) -> Fault | None:
    """Return the reason why a version may not be used any more; None if it may."""
    if version.tainted_at is not None:
        return Fault("tainted", version.name)
    if version.retired_at is not None:
        return Fault("retired", version.name, because=version.retired_because or "")
    return None


def rival_of(version: Version, champion: Version | None) -> Version | None:
    """Return the version to judge another one beside; None is the base.

    A champion that learnt from an erased person has to go, so its successor need not beat it.
    """
    if champion is None or champion.id == version.id or champion.tainted_at is not None:
        return None
    return champion


class Versions:
    """The trained versions of a workspace."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def list_all(self) -> list[Version]:
        """List all versions, oldest first, including retired ones."""
        return await self._scope.read(versions.list_all)

    async def find(self, which: str) -> Version:
        """Find a version by name, number or unambiguous start of a name. Raises `NotFound`."""
        return find_among(await self.list_all(), which)

    async def newest_evaluation(self, which: str = "") -> Evaluation | None:
        """Return the newest evaluation, of one version or of all; None if there is none. Raises `NotFound`."""
        if which:
            version = await self.find(which)
            return await self._scope.read(evaluations.latest_of_version, version.id)
        return next(iter(await self._scope.read(evaluations.page, most=1)), None)

    async def lineage(self, which: str) -> Lineage:
        """Return a version's training examples. Raises `NotFound`."""
        return await self._scope.read(_lineage, which)

    async def retire(self, actor: Actor, which: str, why: str) -> Version:
        """Retire a version for good. Raises `NotAllowed`, `NotFound`, or `Conflict` while it answers."""
        actor.check("trainer")
        if not why.strip():
            raise InvalidInput("Say why the version is retired; it is recorded.", field="why")
        return await self._scope.write(_retire, actor, which, why.strip())


def _lineage(tx: Transaction, which: str) -> Lineage:
    version = find(tx, which)
    return Lineage(version, tuple(versions.learnt_from(tx, version.id)))


def _retire(tx: Transaction, actor: Actor, which: str, why: str) -> Version:
    version = find(tx, which)
    released = releases.begin_change(tx)
    for role, holder in (("champion", released.champion), ("challenger", released.challenger)):
        if holder is not None and holder.id == version.id:
            first = "Stop its canary" if role == "challenger" else "Promote another version, or roll back,"
            raise Conflict(f"{version.name} is the {role}. {first} before you retire it.")
    if not versions.retire(tx, version.id, why):
        raise Conflict(f"{version.name} was retired before: {version.retired_because}")
    audit.record(tx, actor.name, "version.retired", version.name, {"why": why})
    return versions.get(tx, version.id) or version
