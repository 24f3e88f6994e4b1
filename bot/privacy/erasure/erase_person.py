"""Erasure of a person (GDPR article 17): rows, versions, keyed proof.

`storage.erasure` knows the tables that hold people's words; this module decides on versions, releases and jobs.
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

ErasurePolicy = Literal["retire", "mark"]
# The setting `because` of a training that an erasure has queued.
BECAUSE = "erasure"


@dataclass(frozen=True, slots=True)
class Erased:
    """The outcome of an erasure.

    `proof` counts erased rows by table and names the versions that had learnt from the person; `release` is the release
    afterwards. `job_id` is the training of a new version, where one is needed. `golden` are ids of golden questions
    that hold the person's name: people wrote them, so people have to decide about them.
    """

    proof: Proof
    was_done_before: bool
    release: Release
    job_id: str | None = None
    golden: tuple[str, ...] = ()


class Erasure:
    """Erases people of one workspace.

    `keys` are the HMAC keys of the proofs, newest first; `on_changed` is called when the champion may have changed.
    Under the policy `retire`, versions that learnt from the person are retired, answer no more, and lose their weights;
    under `mark` they go on until somebody promotes another version, but can't be promoted again. Both queue a new
    training.
    """

    def __init__(
        self,
        scope: Scope,
        data: Path,
        keys: Sequence[str],
        policy: ErasurePolicy,
        on_changed: Callable[[], None] = lambda: None,
    ) -> None:
        if not keys:
            raise MynaError("There is no key for the proof of an erasure. Set MYNA_ENCRYPTION_KEYS.")
        self._scope = scope
        self._data = data
        self._keys = keys
        self._policy: ErasurePolicy = policy
        self._on_changed = on_changed

    async def preview(self, person: str) -> Traces | None:
        """Return the rows that an erasure would remove; None for an unknown person, given as an id or `CHANNEL:ID`."""
        return await self._scope.read(_preview, person)

    async def erase(self, actor: Actor, person: str) -> Erased:
        """Erase a person for good (idempotent). Files are removed after the rows' transaction has committed.

        Raises `NotAllowed`, `NotFound`, and `MynaError` where a file can't be removed: then call it again.
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
        """Return the HMAC-SHA-256 of a name under each key, the newest key first."""
        return [hmac.new(key.encode(), name.encode(), hashlib.sha256).hexdigest() for key in self._keys]


def _preview(tx: Transaction, person: str) -> Traces | None:
    person_id = erasure.find_person(tx, person)
    return None if person_id is None else erasure.traces(tx, person_id)


def _erase(
    tx: Transaction,
    actor: Actor,
    person: str,
    policy: ErasurePolicy,
    subjects_of: Callable[[str], list[str]],
    learns_from: Mapping[str, str],
) -> tuple[Erased, list[str]]:
    """Erase the rows in one transaction; return the outcome, and the keyed hashes that its proof is stored under."""
    person_id = erasure.find_person(tx, person)
    if person_id is None:
        proof = erasure.find_proof(tx, subjects_of(person))
        if proof is None:
            raise NotFound(f'Nobody is known as "{person}". Write CHANNEL:ID, like web:... or slack:T1/U2, or an id.')
        return Erased(proof, True, releases.current(tx)), subjects_of(person)
    # From here on the person and the open jobs are locked: no other transaction can add a copy of their words.
    erasure.begin(tx, person_id)
    open_jobs = jobs.hold_open(tx)
    found = erasure.traces(tx, person_id)
    known = versions.list_all(tx)
    stopped = _stop_running(tx, actor, found, known, learns_from, open_jobs)
    counts = erasure.erase(tx, found)
    learnt = [version for version in known if version.id in found.versions]
    for version in learnt:
        versions.taint(tx, version.id)
    if learnt and policy == "retire":
        _retire_all(tx, actor, learnt)
    trained = [job for job in stopped if job.kind == "train"]
    job_id = queue_retraining(tx, actor, learnt, trained) if learnt or trained else None
    subjects = [subjects_of(name)[0] for name in (person_id, *found.names)]
    names = [version.name for version in learnt]
    erasure.prove(tx, subjects, counts, names, actor.name)
    details = {"counts": counts, "versions": names, "policy": policy, "job": job_id, "golden": list(found.golden)}
    audit.record(tx, actor.name, "person.erased", None, details)
    proof = erasure.find_proof(tx, subjects_of(person))
    assert proof is not None
    return Erased(proof, False, releases.current(tx), job_id, found.golden), subjects


def _retire_all(tx: Transaction, actor: Actor, learnt: Sequence[Version]) -> None:
    """Take versions out of the release, and retire them."""
    gone = {version.id for version in learnt}
    before = releases.begin_change(tx)
    champion, previous, canary = before.champion, before.previous, before.canary
    if before.challenger is not None and canary is not None and before.challenger.id in gone:
        releases.end_canary(tx, canary.id, "rolled_back", None)
        canary = None
    if champion is not None and champion.id in gone:
        champion = _successor(tx, previous)
        if canary is not None:  # it was compared with a champion that answers no more
            releases.end_canary(tx, canary.id, "replaced", None)
            canary = None
        audit.record(tx, actor.name, "version.rolled_back", champion.name if champion else "base", {"why": "erasure"})
    if previous is not None and (previous.id in gone or (champion is not None and previous.id == champion.id)):
        previous = answered_before(tx, champion)
    releases.set_aliases(
        tx, champion.id if champion else None, previous.id if previous else None, canary.id if canary else None
    )
    for version in learnt:
        if versions.retire(tx, version.id, "somebody whose words it learnt was erased"):
            audit.record(tx, actor.name, "version.retired", version.name, {"why": "erasure"})


def _successor(tx: Transaction, previous: Version | None) -> Version | None:
    """Return the previous champion, or else the newest version that passed the gate; None is the base.

    Versions that have learnt from an erased person, or were taken back by a rollback or for harm, are left out.
    """
    known = {version.id: version for version in versions.list_all(tx)}
    taken_back = read_history(tx).taken_back
    usable = [version for version in known.values() if fault_of(version) is None and version.name not in taken_back]
    if previous is not None and known[previous.id] in usable:
        return previous
    verdicts = evaluations.newest_verdicts(tx)
    passed = (version for version in reversed(usable) if version.id in verdicts and verdicts[version.id].passed)
    return next(passed, None)


def queue_retraining(tx: Transaction, actor: Actor, learnt: Sequence[Version], stopped: Sequence[Job]) -> str:
    """Queue a training without the erased words, unless the same training is open; return the job's id."""
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
    """Cancel the running jobs that hold the person's words in memory; waiting jobs will not read them any more."""
    names = {version.name for version in known if version.dataset_id in found.datasets}
    training = erase_files.touching(learns_from, found.datasets)
    stopped = []
    for job in open_jobs:
        is_touched = job.id in training or (job.kind == "evaluate" and job.settings.get("version") in names)
        if job.state == "running" and is_touched and jobs.request(tx, actor.name, job.id, "cancel"):
            stopped.append(job)
    return stopped
