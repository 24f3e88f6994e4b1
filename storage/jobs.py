"""Work of minutes that outlives whoever does it: queued, claimed with a lease, done once.

Knows: the states of a job and what leads from one to the next, leases and epochs, one running job a device. Does not
know: what a job does, who may steer it. Every function is a unit of work for `Database.write`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import bindparam

from storage import audit
from storage.learning_schema import job, job_point
from storage.learning_values import Job, Wanted
from storage.schema import NullableJson
from storage.transaction import Transaction, across_workspaces, now_ms, scoped
from storage.values import new_id

MAX_ATTEMPTS = 3
WORKER = "worker"
# One job runs on each at a time. Reading articles waits for no training.
TRAINING_DEVICE, KNOWLEDGE_DEVICE = DEVICES = ("default", "knowledge")
GAVE_UP = (
    f"This job was begun {MAX_ATTEMPTS} times, and each time it broke off; the log of the worker says more. "
    "`myna jobs resume ID` tries again from the last checkpoint."
)

Request = Literal["pause", "resume", "cancel"]
End = Literal["done", "refused", "failed"]

at = job.c


class LeaseLost(Exception):
    """The job is no longer ours: its lease ran out, and somebody else has claimed or ended it."""


@dataclass(frozen=True, slots=True)
class JobLease:
    """The right to do one job and to write what comes of it, as long as `epoch` is the newest."""

    job: Job
    workspace_id: str
    owner: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a curve of a job."""

    series: str
    step: int
    value: float


_columns = [getattr(at, name) for name in Job.__slots__]
_which = at.id == bindparam("which")
_INSERT = scoped(sa.insert(job).values(state="queued", created_at=now_ms()))
_OPEN_OF_KIND = scoped(
    sa.select(*_columns)
    .where(at.kind == bindparam("of_kind"), at.state.in_(("queued", "running", "paused")), at.wanted != "cancel")
    .order_by(at.id)
)


def create(
    tx: Transaction,
    actor: str,
    kind: str,
    settings: Mapping[str, Any],
    *,
    priority: int = 0,
    device: str = TRAINING_DEVICE,
    beside_running: bool = False,
) -> tuple[Job, bool]:
    """Queue a job; `(job, True)`. One that is open with the same kind and settings is returned instead, with False.

    One that is about to be cancelled is not open. With `beside_running`, nor is one that runs: it has begun too early.
    """
    for row in tx.execute(_OPEN_OF_KIND, of_kind=kind):
        if row.settings == dict(settings) and not (beside_running and row.state == "running"):
            return Job(**row._mapping), False
    job_id = new_id()
    tx.execute(
        _INSERT, id=job_id, kind=kind, priority=priority, device=device, settings=dict(settings), created_by=actor
    )
    audit.record(tx, actor, "job.create", job_id, {"kind": kind, "settings": dict(settings)})
    created = get(tx, job_id)
    assert created is not None
    return created, True


_GET = scoped(sa.select(*_columns).where(_which))


def get(tx: Transaction, job_id: str) -> Job | None:
    """A job by its whole id."""
    row = tx.execute(_GET, which=job_id).first()
    return Job(**row._mapping) if row else None


_FIND = scoped(
    sa.select(*_columns).where(at.id >= bindparam("first"), at.id < bindparam("behind")).order_by(at.id).limit(2)
)


def find(tx: Transaction, prefix: str) -> list[Job]:
    """Up to two jobs whose id begins with these lower-case hex digits: more than one is not what was meant."""
    return [Job(**row._mapping) for row in tx.execute(_FIND, first=prefix, behind=prefix + "g")]


_LIST = scoped(sa.select(*_columns).order_by(at.id.desc()).limit(bindparam("most", type_=sa.Integer)))


def list_jobs(tx: Transaction, most: int = 100) -> list[Job]:
    """The newest jobs, newest first."""
    return [Job(**row._mapping) for row in tx.execute(_LIST, most=most)]


_NEWEST_OF_KIND = scoped(
    sa.select(*_columns)
    .where(at.kind == bindparam("of_kind"))
    .order_by(at.id.desc())
    .limit(bindparam("most", type_=sa.Integer))
)


def newest_of_kind(tx: Transaction, kind: str, most: int) -> list[Job]:
    """The newest jobs of a kind, newest first."""
    return [Job(**row._mapping) for row in tx.execute(_NEWEST_OF_KIND, of_kind=kind, most=most)]


_OPEN = scoped(sa.select(*_columns).where(at.state.in_(("queued", "running", "paused"))).order_by(at.id))


def list_open(tx: Transaction) -> list[Job]:
    """The jobs that have not ended, oldest first."""
    return [Job(**row._mapping) for row in tx.execute(_OPEN)]


_HOLD_OPEN = scoped(
    sa.select(*_columns).where(at.state.in_(("queued", "running", "paused"))).order_by(at.id).with_for_update()
)


def hold_open(tx: Transaction) -> list[Job]:
    """As `list_open`, and until this transaction ends nothing else is written on behalf of one of them."""
    return [Job(**row._mapping) for row in tx.execute(_HOLD_OPEN)]


_POINTS = scoped(
    sa.select(job_point.c.series, job_point.c.step, job_point.c.value)
    .where(job_point.c.job_id == bindparam("which"))
    .order_by(job_point.c.series, job_point.c.step)
)


def points(tx: Transaction, job_id: str) -> list[Point]:
    """The curves of a job, by series and step."""
    return [Point(**row._mapping) for row in tx.execute(_POINTS, which=job_id)]


# --- what people ask for ---

_is_running = at.state == "running"
_PAUSE = scoped(
    sa.update(job)
    .where(_which, at.state.in_(("queued", "running")), at.wanted != "cancel")
    .values(state=sa.case((_is_running, at.state), else_="paused"), wanted=sa.case((_is_running, "pause"), else_="run"))
    .returning(*_columns)
)
_RESUME = scoped(
    sa.update(job)
    .where(_which, at.state.in_(("paused", "failed", "running")), at.wanted != "cancel")
    .values(
        state=sa.case((_is_running, at.state), else_="queued"),
        wanted="run",
        attempts=sa.case((_is_running, at.attempts), else_=0),
        error=None,
        ended_at=None,
    )
    .returning(*_columns)
)
_CANCEL = scoped(
    sa.update(job)
    .where(_which, at.state.in_(("queued", "paused", "running")))
    .values(
        state=sa.case((_is_running, at.state), else_="cancelled"),
        wanted=sa.case((_is_running, "cancel"), else_="run"),
        ended_at=sa.case((_is_running, None), else_=now_ms()),
    )
    .returning(*_columns)
)
_REQUESTS = {"pause": _PAUSE, "resume": _RESUME, "cancel": _CANCEL}


def request(tx: Transaction, actor: str, job_id: str, what: Request) -> Job | None:
    """Ask something of a job. One that runs does it at its next step, any other at once. None if it can't any more.

    A failed job can be resumed: it goes on from its last checkpoint.
    """
    row = tx.execute(_REQUESTS[what], which=job_id).first()
    if row is None:
        return None
    audit.record(tx, actor, f"job.{what}", job_id)
    return Job(**row._mapping)


_SET_PRIORITY = scoped(
    sa.update(job)
    .where(_which, at.state.in_(("queued", "paused", "running")))
    .values(priority=bindparam("wanted_priority", type_=sa.Integer))
    .returning(*_columns)
)


def set_priority(tx: Transaction, actor: str, job_id: str, priority: int) -> Job | None:
    """Let an open job go before those with less; None if it has ended."""
    row = tx.execute(_SET_PRIORITY, which=job_id, wanted_priority=priority).first()
    if row is None:
        return None
    audit.record(tx, actor, "job.priority", job_id, {"priority": priority})
    return Job(**row._mapping)


# --- what a worker does ---

_ids: sa.BindParameter[str] = bindparam("ids", expanding=True)
_ENDED = across_workspaces(sa.select(at.id).where(at.id.in_(_ids), at.state.in_(("done", "refused", "cancelled"))))


def ended(tx: Transaction, ids: Sequence[str]) -> set[str]:
    """Of these jobs, of any workspace, those that never go on. A failed one may be resumed."""
    return set(tx.execute(_ENDED, ids=list(ids)).scalars())


_lease_end = now_ms() + bindparam("lease_ms", type_=sa.BigInteger)


def _given_up(attempts: sa.ColumnElement[int]) -> dict[str, Any]:
    """What becomes of a job that nobody does any more: what was asked of it, or the queue, or an end."""
    is_over = sa.and_(at.wanted == "run", attempts >= MAX_ATTEMPTS)
    return {
        "state": sa.case(
            (at.wanted == "cancel", "cancelled"), (at.wanted == "pause", "paused"), (is_over, "failed"), else_="queued"
        ),
        "wanted": "run",
        "error": sa.case((is_over, GAVE_UP), else_=None),
        "ended_at": sa.case((sa.or_(at.wanted == "cancel", is_over), now_ms()), else_=None),
        "attempts": attempts,
        "owner": None,
        "lease_until": None,
    }


_has_no_worker = sa.and_(_is_running, at.lease_until < now_ms())
_other = job.alias("other")
_device_is_taken = sa.exists().where(_other.c.device == at.device, _other.c.state == "running")
_wanted_device: sa.BindParameter[str | None] = bindparam("on_device", type_=sa.Text)
_on_device = sa.or_(_wanted_device.is_(None), at.device == _wanted_device)
_GIVE_UP_ABANDONED = across_workspaces(
    sa.update(job).where(_has_no_worker).values(_given_up(at.attempts)).returning(at.id)
)
_next = (
    sa.select(at.id)
    .where(at.state == "queued", _on_device, ~_device_is_taken)
    .order_by(at.priority.desc(), at.id)
    .limit(1)
    .with_for_update(skip_locked=True, of=job)
)
_CLAIM = across_workspaces(
    sa.update(job)
    .where(at.id.in_(_next))
    .values(
        state="running",
        owner=bindparam("me"),
        lease_until=_lease_end,
        epoch=at.epoch + 1,
        attempts=at.attempts + 1,
        started_at=sa.func.coalesce(at.started_at, now_ms()),
    )
    .returning(*_columns, at.workspace_id, at.epoch)
)


def claim(tx: Transaction, owner: str, lease_ms: int, device: str | None = None) -> JobLease | None:
    """Take the oldest job of the highest priority on a device where none runs; None if there is none.

    Of one device, or of all.

    Jobs whose worker died are put back first, or end as failed after `MAX_ATTEMPTS`.
    """
    tx.execute(_GIVE_UP_ABANDONED)
    row = tx.execute(_CLAIM, me=owner, lease_ms=lease_ms, on_device=device).first()
    if row is None:
        return None
    values = dict(row._mapping)
    workspace_id, epoch = values.pop("workspace_id"), values.pop("epoch")
    return JobLease(Job(**values), workspace_id, owner, epoch)


_IS_WAITING = across_workspaces(
    sa.select(at.id)
    .where(
        _on_device,
        sa.or_(
            _has_no_worker, sa.and_(at.state == "queued", ~_device_is_taken.where(_other.c.lease_until >= now_ms()))
        ),
    )
    .limit(1)
)


def is_waiting(tx: Transaction, device: str | None = None) -> bool:
    """Whether a worker that looked now would find something to do."""
    return tx.execute(_IS_WAITING, on_device=device).first() is not None


_held = sa.and_(_which, _is_running, at.owner == bindparam("me"), at.epoch == bindparam("at_epoch"))
_HEARTBEAT = scoped(sa.update(job).where(_held).values(lease_until=_lease_end).returning(at.wanted))


def heartbeat(tx: Transaction, lease: JobLease, lease_ms: int) -> Wanted:
    """Prolong the lease; what is asked of the job. Raises `LeaseLost`."""
    row = tx.execute(_HEARTBEAT, **_of(lease), lease_ms=lease_ms).first()
    if row is None:
        raise LeaseLost
    wanted: Wanted = row.wanted
    return wanted


_HOLD = scoped(sa.update(job).where(_held).values(owner=at.owner).returning(at.id))


def hold(tx: Transaction, lease: JobLease) -> None:
    """Begin a unit that writes on behalf of a job: nobody takes the job over before the commit. Raises `LeaseLost`."""
    if tx.execute(_HOLD, **_of(lease)).first() is None:
        raise LeaseLost


_REPORT = scoped(sa.update(job).where(_held).values(progress=bindparam("newest", type_=NullableJson)).returning(at.id))


def _put_point(insert: Any) -> sa.Executable:
    new = insert(job_point)
    clause: sa.Executable = new.on_conflict_do_update(
        index_elements=["job_id", "series", "step"], set_={"value": new.excluded.value}
    )
    return clause


_PUT_POINT = scoped(_put_point)


def report(tx: Transaction, lease: JobLease, progress: Mapping[str, Any] | None, new_points: tuple[Point, ...]) -> None:
    """Write the newest word of a job, and points; one that is there is written over. Raises `LeaseLost`."""
    if tx.execute(_REPORT, **_of(lease), newest=dict(progress) if progress is not None else None).first() is None:
        raise LeaseLost
    for point in new_points:
        tx.insert(_PUT_POINT, job_id=lease.job.id, series=point.series, step=point.step, value=point.value)


_RELEASE = scoped(
    sa.update(job)
    .where(_held)
    .values(_given_up(at.attempts - bindparam("undone", type_=sa.Integer)))
    .returning(at.state)
)


def release(tx: Transaction, lease: JobLease, *, count_attempt: bool) -> str:
    """Hand a job back unfinished; its new state: what was asked of it, else queued. Raises `LeaseLost`."""
    row = tx.execute(_RELEASE, **_of(lease), undone=0 if count_attempt else 1).first()
    if row is None:
        raise LeaseLost
    return str(row.state)


_FINISH = scoped(
    sa.update(job)
    .where(_held)
    .values(
        state=bindparam("end"),
        wanted="run",
        result=bindparam("outcome", type_=NullableJson),
        error=bindparam("problem"),
        owner=None,
        lease_until=None,
        ended_at=now_ms(),
    )
    .returning(at.id)
)


def finish(
    tx: Transaction, lease: JobLease, end: End, *, result: Mapping[str, Any] | None = None, error: str | None = None
) -> None:
    """End a job for good. Raises `LeaseLost`."""
    outcome = dict(result) if result is not None else None
    if tx.execute(_FINISH, **_of(lease), end=end, outcome=outcome, problem=error).first() is None:
        raise LeaseLost
    audit.record(tx, WORKER, f"job.{end}", lease.job.id)


def _of(lease: JobLease) -> dict[str, Any]:
    return {"which": lease.job.id, "me": lease.owner, "at_epoch": lease.epoch}
