"""Erasing a person: their words, and the versions that have learnt them, with a proof that tells nobody who it was.

Knows: what becomes of versions, and of the release that names them. Does not know: in which tables words stand.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from bot.errors import MynaError, NotFound
from bot.learning.roles import Actor
from storage import audit, erasure, releases, versions
from storage.database import Database
from storage.erasure import Proof, Traces
from storage.learning_values import Release, Version
from storage.transaction import Transaction

Policy = Literal["retire", "mark"]


@dataclass(frozen=True, slots=True)
class Erased:
    """What was done: rows by table, names of the versions that had learnt from the person, what answers now."""

    proof: Proof
    was_done_before: bool
    release: Release


class Erasure:
    """Erases people of one workspace. `keys` are secrets, the newest first; `on_changed`: what answers may be another.

    Under the policy `retire`, versions that learnt from the person are retired and no longer answer; under `mark` they
    go on until somebody promotes another, but can't be promoted again.
    """

    def __init__(
        self, database: Database, workspace_id: str, keys: Sequence[str], policy: Policy,
        on_changed: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        if not keys:
            raise MynaError("There is no key for the proof of an erasure. Set MYNA_ENCRYPTION_KEYS.")
        self._database = database
        self._workspace_id = workspace_id
        self._keys = keys
        self._policy: Policy = policy
        self._on_changed = on_changed

    async def preview(self, person: str) -> Traces | None:
        """What erasing would remove; None for somebody who is not known. `person` is an id or `CHANNEL:ID`."""
        return await self._database.read(_preview, self._workspace_id, person)

    async def erase(self, actor: Actor, person: str) -> Erased:
        """Erase a person for good; doing it twice is the same as once. Raises `NotAllowed`, `NotFound`."""
        actor.check("admin")
        erased = await self._database.write(_erase, self._workspace_id, actor, person, self._policy, self._subjects)
        self._on_changed()
        return erased

    def _subjects(self, name: str) -> list[str]:
        """The keyed hashes of a name, by the newest key first."""
        return [hmac.new(key.encode(), name.encode(), hashlib.sha256).hexdigest() for key in self._keys]


def _preview(tx: Transaction, person: str) -> Traces | None:
    person_id = erasure.find_person(tx, person)
    return None if person_id is None else erasure.traces(tx, person_id)


def _erase(
    tx: Transaction, actor: Actor, person: str, policy: Policy, subjects_of: Callable[[str], list[str]]
) -> Erased:
    person_id = erasure.find_person(tx, person)
    if person_id is None:
        proof = erasure.find_proof(tx, subjects_of(person))
        if proof is None:
            raise NotFound(f'Nobody is known as "{person}". Write CHANNEL:ID, like web:... or slack:T1/U2, or an id.')
        return Erased(proof, True, releases.current(tx))
    found = erasure.traces(tx, person_id)
    counts = erasure.erase(tx, found)
    learnt = [one for one in versions.list_all(tx) if one.id in found.versions]
    for one in learnt:
        versions.taint(tx, one.id)
    if learnt:
        if policy == "retire":
            _retire_all(tx, actor, learnt)
        queue_retraining(tx, actor, learnt)
    subjects = [subjects_of(name)[0] for name in (person_id, *found.names)]
    names = [one.name for one in learnt]
    erasure.prove(tx, subjects, counts, names, actor.name)
    audit.record(tx, actor.name, "person.erased", None, {"counts": counts, "versions": names, "policy": policy})
    proof = erasure.find_proof(tx, subjects_of(person))
    assert proof is not None
    return Erased(proof, False, releases.current(tx))


def _retire_all(tx: Transaction, actor: Actor, learnt: Sequence[Version]) -> None:
    """Take versions out of the release, and retire them."""
    gone = {one.id for one in learnt}
    before = releases.begin_change(tx)
    champion, previous, canary = before.champion, before.previous, before.canary
    if before.challenger is not None and canary is not None and before.challenger.id in gone:
        releases.end_canary(tx, canary.id, "rolled_back", None)
        canary = None
    if champion is not None and champion.id in gone:
        champion = _newest_that_may_answer(tx)
        if canary is not None:  # it was compared with what answers no more
            releases.end_canary(tx, canary.id, "replaced", None)
            canary = None
        audit.record(tx, actor.name, "version.rolled_back", champion.name if champion else "base", {"why": "erasure"})
    if previous is not None and (previous.id in gone or (champion is not None and previous.id == champion.id)):
        previous = None
    releases.set_aliases(
        tx, champion.id if champion else None, previous.id if previous else None, canary.id if canary else None
    )
    for one in learnt:
        if versions.retire(tx, one.id, "somebody whose words it learnt was erased"):
            audit.record(tx, actor.name, "version.retired", one.name, {"why": "erasure"})


def _newest_that_may_answer(tx: Transaction) -> Version | None:
    """The newest version that passed the gate and has learnt from nobody who was erased; None is the base."""
    for one in reversed(versions.list_all(tx)):
        if one.tainted_at is None and one.retired_at is None and releases.last_verdict(tx, one.id):
            return one
    return None


def queue_retraining(tx: Transaction, actor: Actor, learnt: Sequence[Version]) -> None:
    """Have a new version trained from the base, without the words that are gone.

    To be connected: `storage.jobs.create(tx, actor.name, "train", settings)`, in this very transaction.
    """
    audit.record(tx, actor.name, "training.needed", None, {"instead_of": [one.name for one in learnt]})
