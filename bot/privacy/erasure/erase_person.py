"""Erasing a person: their words, and the versions that have learnt them, with a proof that tells nobody who it was.

Knows: what becomes of versions, and of the release that names them. Does not know: in which tables words stand.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from bot.access.roles import Actor
from bot.errors import MynaError, NotFound
from bot.jobs.job_files import datasets_of_jobs
from bot.learning.release.history import answered_before, read_history
from bot.learning.versions import fault_of
from bot.privacy.erasure import erase_files
from storage import audit, erasure, evaluations, jobs, releases, versions
from storage.erasure import Proof, Traces
from storage.learning_values import Job, Release, Version
from storage.scope import Scope
from storage.transaction import Transaction

Policy = Literal["retire", "mark"]
# In the settings of a training: why it was queued.
BECAUSE = "erasure"


@dataclass(frozen=True, slots=True)
class Erased:
    """What was done: rows by table, names of the versions that had learnt from the person, what answers now.

    `job_id` trains a new version, where one is needed. `golden` are ids of questions that hold the person's name:
    people wrote them, and people have to decide about them.
    """

    proof: Proof
    was_done_before: bool
    release: Release
    job_id: str | None = None
    golden: tuple[str, ...] = ()


class Erasure:
    """Erases people of one workspace. `keys` are secrets, the newest first; `on_changed`: what answers may be another.

    Under the policy `retire`, versions that learnt from the person are retired, answer no more, and lose their weights;
    under `mark` they go on until somebody promotes another, but can't be promoted again. Both queue a new training.
    """

    def __init__(
        self,
        scope: Scope,
        data: Path,
        keys: Sequence[str],
        policy: Policy,
        on_changed: Callable[[], None] = lambda: None,
    ) -> None:
        if not keys:
            raise MynaError("There is no key for the proof of an erasure. Set MYNA_ENCRYPTION_KEYS.")
        self._scope = scope
        self._data = data
        self._keys = keys
        self._policy: Policy = policy
        self._on_changed = on_changed

    async def preview(self, person: str) -> Traces | None:
        """What erasing would remove; None for somebody who is not known. `person` is an id or `CHANNEL:ID`."""
        return await self._scope.read(_preview, person)

    async def erase(self, actor: Actor, person: str) -> Erased:
        """Erase a person for good; doing it twice is the same as once. Files go once the rows are gone for good.

        Raises `NotAllowed`, `NotFound`, and `MynaError` where a file can't be removed: then do it again.
        """
        actor.check("admin")
        learns_from = await asyncio.to_thread(datasets_of_jobs, self._data)
        erased, subjects = await self._scope.write(_erase, actor, person, self._policy, self._subjects, learns_from)
        self._on_changed()
        removed = await erase_files.remove_erased(self._scope, self._data)
        files = {name: count for name, count in removed.items() if count}
        if files:
            await self._scope.write(erasure.add_to_proof, subjects, files)
        counts = Counter(erased.proof.counts)
        counts.update(files)
        return replace(erased, proof=replace(erased.proof, counts=dict(counts)))

    def _subjects(self, name: str) -> list[str]:
        """The keyed hashes of a name, by the newest key first."""
        return [hmac.new(key.encode(), name.encode(), hashlib.sha256).hexdigest() for key in self._keys]


def _preview(tx: Transaction, person: str) -> Traces | None:
    person_id = erasure.find_person(tx, person)
    return None if person_id is None else erasure.traces(tx, person_id)


def _erase(
    tx: Transaction,
    actor: Actor,
    person: str,
    policy: Policy,
    subjects_of: Callable[[str], list[str]],
    learns_from: Mapping[str, str],
) -> tuple[Erased, list[str]]:
    """What was erased, and the keyed hashes under which its proof stands."""
    person_id = erasure.find_person(tx, person)
    if person_id is None:
        proof = erasure.find_proof(tx, subjects_of(person))
        if proof is None:
            raise NotFound(f'Nobody is known as "{person}". Write CHANNEL:ID, like web:... or slack:T1/U2, or an id.')
        return Erased(proof, True, releases.current(tx)), subjects_of(person)
    # What follows is looked at under locks: nothing that holds the words comes about beside it.
    erasure.begin(tx, person_id)
    open_jobs = jobs.hold_open(tx)
    found = erasure.traces(tx, person_id)
    known = versions.list_all(tx)
    stopped = _stop_running(tx, actor, found, known, learns_from, open_jobs)
    counts = erasure.erase(tx, found)
    learnt = [one for one in known if one.id in found.versions]
    for one in learnt:
        versions.taint(tx, one.id)
    if learnt and policy == "retire":
        _retire_all(tx, actor, learnt)
    trained = [one for one in stopped if one.kind == "train"]
    job_id = queue_retraining(tx, actor, learnt, trained) if learnt or trained else None
    subjects = [subjects_of(name)[0] for name in (person_id, *found.names)]
    names = [one.name for one in learnt]
    erasure.prove(tx, subjects, counts, names, actor.name)
    details = {"counts": counts, "versions": names, "policy": policy, "job": job_id, "golden": list(found.golden)}
    audit.record(tx, actor.name, "person.erased", None, details)
    proof = erasure.find_proof(tx, subjects_of(person))
    assert proof is not None
    return Erased(proof, False, releases.current(tx), job_id, found.golden), subjects


def _retire_all(tx: Transaction, actor: Actor, learnt: Sequence[Version]) -> None:
    """Take versions out of the release, and retire them."""
    gone = {one.id for one in learnt}
    before = releases.begin_change(tx)
    champion, previous, canary = before.champion, before.previous, before.canary
    if before.challenger is not None and canary is not None and before.challenger.id in gone:
        releases.end_canary(tx, canary.id, "rolled_back", None)
        canary = None
    if champion is not None and champion.id in gone:
        champion = _in_its_place(tx, previous)
        if canary is not None:  # it was compared with what answers no more
            releases.end_canary(tx, canary.id, "replaced", None)
            canary = None
        audit.record(tx, actor.name, "version.rolled_back", champion.name if champion else "base", {"why": "erasure"})
    if previous is not None and (previous.id in gone or (champion is not None and previous.id == champion.id)):
        previous = answered_before(tx, champion)
    releases.set_aliases(
        tx, champion.id if champion else None, previous.id if previous else None, canary.id if canary else None
    )
    for one in learnt:
        if versions.retire(tx, one.id, "somebody whose words it learnt was erased"):
            audit.record(tx, actor.name, "version.retired", one.name, {"why": "erasure"})


def _in_its_place(tx: Transaction, previous: Version | None) -> Version | None:
    """What answered before, or else the newest version that passed the gate; None is the base.

    Never one that has learnt from somebody who was erased, nor one that did harm.
    """
    known = {one.id: one for one in versions.list_all(tx)}
    taken_back = read_history(tx).taken_back
    usable = [one for one in known.values() if fault_of(one) is None and one.name not in taken_back]
    if previous is not None and known[previous.id] in usable:
        return previous
    verdicts = evaluations.newest_verdicts(tx)
    return next((one for one in reversed(usable) if one.id in verdicts and verdicts[one.id].passed), None)


def queue_retraining(tx: Transaction, actor: Actor, learnt: Sequence[Version], stopped: Sequence[Job]) -> str:
    """Queue a training from the base, without the words that are gone; the job's id. The same is not queued twice."""
    instead_of = jobs.get(tx, learnt[-1].job_id) if learnt else stopped[0]
    rows = instead_of.settings.get("rows") if instead_of is not None else None
    settings = {"because": BECAUSE} | ({"rows": rows} if rows is not None else {})
    job, _ = jobs.create(tx, actor.name, "train", settings)
    return job.id


def _stop_running(
    tx: Transaction,
    actor: Actor,
    found: Traces,
    known: Sequence[Version],
    learns_from: Mapping[str, str],
    open_jobs: Sequence[Job],
) -> list[Job]:
    """Cancel what has the person's words in memory at this moment; what only waits reads them no more."""
    names = {one.name for one in known if one.dataset_id in found.datasets}
    training = erase_files.touching(learns_from, found.datasets)
    stopped = []
    for job in open_jobs:
        is_touched = job.id in training or (job.kind == "evaluate" and job.settings.get("version") in names)
        if job.state == "running" and is_touched and jobs.request(tx, actor.name, job.id, "cancel"):
            stopped.append(job)
    return stopped
