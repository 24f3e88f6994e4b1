"""Job queue with leases and fencing tokens, one running job a device.

A job outlives its worker: it is claimed again when the lease expires, and ends once. Every function is a unit of work
for `Database.write`.
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
# One job runs on each device at a time. Reading articles has a device of its own, so that it waits for no training.
TRAINING_DEVICE, KNOWLEDGE_DEVICE = DEVICES = ("default", "knowledge")
GAVE_UP = (
    f"This job broke off {MAX_ATTEMPTS} times; see the worker's log for the reason. "
    "Resume it to try again from the last checkpoint."
)

Request = Literal["pause", "resume", "cancel"]
End = Literal["done", "refused", "failed"]

at = job.c


class LeaseLost(Exception):
    """The lease is lost: it expired, and the job was claimed by another worker or has ended."""


@dataclass(frozen=True, slots=True)
class JobLease:
    """The right to run one job and to store its results, as long as `epoch` (the fencing token) is the newest."""

    job: Job
    workspace_id: str
    owner: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a job's curve."""

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
    """Queue a job and return `(job, True)`, or return `(job, False)` for an open job of the same kind and settings.

    A job that is about to be cancelled does not count as open. With `beside_running`, neither does a running job: it
    has begun too early to see the newest data.
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
    """Return a job by its whole id."""
    row = tx.execute(_GET, which=job_id).first()
    return Job(**row._mapping) if row else None


_FIND = scoped(
    sa.select(*_columns).where(at.id >= bindparam("first"), at.id < bindparam("behind")).order_by(at.id).limit(2)
)


def find(tx: Transaction, prefix: str) -> list[Job]:
    """Return up to two jobs whose id begins with these lower-case hex digits; two mean that the prefix is ambiguous."""
    return [Job(**row._mapping) for row in tx.execute(_FIND, first=prefix, behind=prefix + "g")]


_LIST = scoped(sa.select(*_columns).order_by(at.id.desc()).limit(bindparam("most", type_=sa.Integer)))


def list_jobs(tx: Transaction, most: int = 100) -> list[Job]:
    """Return the newest jobs, newest first."""
    return [Job(**row._mapping) for row in tx.execute(_LIST, most=most)]


_NEWEST_OF_KIND = scoped(
    sa.select(*_columns)
    .where(at.kind == bindparam("of_kind"))
    .order_by(at.id.desc())
    .limit(bindparam("most", type_=sa.Integer))
)


def newest_of_kind(tx: Transaction, kind: str, most: int) -> list[Job]:
    """Return the newest jobs of a kind, newest first."""
    return [Job(**row._mapping) for row in tx.execute(_NEWEST_OF_KIND, of_kind=kind, most=most)]


_open_jobs = sa.select(*_columns).where(at.state.in_(("queued", "running", "paused"))).order_by(at.id)
_OPEN = scoped(_open_jobs)


def list_open(tx: Transaction) -> list[Job]:
    """Return the queued, running and paused jobs, oldest first."""
    return [Job(**row._mapping) for row in tx.execute(_OPEN)]


_HOLD_OPEN = scoped(_open_jobs.with_for_update())


def hold_open(tx: Transaction) -> list[Job]:
    """Return the jobs of `list_open` and lock them: until this transaction ends, their workers can't write."""
    return [Job(**row._mapping) for row in tx.execute(_HOLD_OPEN)]


_POINTS = scoped(
    sa.select(job_point.c.series, job_point.c.step, job_point.c.value)
    .where(job_point.c.job_id == bindparam("which"))
    .order_by(job_point.c.series, job_point.c.step)
)


def points(tx: Transaction, job_id: str) -> list[Point]:
    """Return the points of a job's curves, ordered by series and step."""
    return [Point(**row._mapping) for row in tx.execute(_POINTS, which=job_id)]


# --- requests of people ---

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
    """Pause, resume or cancel a job; a running job obeys at its next step. None if its state does not allow it.

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
    """Set an open job's priority (the highest runs first); None if the job has ended."""
    row = tx.execute(_SET_PRIORITY, which=job_id, wanted_priority=priority).first()
    if row is None:
        return None
    audit.record(tx, actor, "job.priority", job_id, {"priority": priority})
    return Job(**row._mapping)


# --- the worker's side ---

_ids: sa.BindParameter[str] = bindparam("ids", expanding=True)
_ENDED = across_workspaces(sa.select(at.id).where(at.id.in_(_ids), at.state.in_(("done", "refused", "cancelled"))))


def ended(tx: Transaction, ids: Sequence[str]) -> set[str]:
    """Return those of these jobs, of any workspace, that have ended for good (a failed job may be resumed)."""
    return set(tx.execute(_ENDED, ids=list(ids)).scalars())


_lease_end = now_ms() + bindparam("lease_ms", type_=sa.BigInteger)


def _given_up(attempts: sa.ColumnElement[int]) -> dict[str, Any]:
    """Return the values of a job whose worker is gone: the state that was asked for, else queued, or failed."""
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
    """Lease the oldest job of the highest priority on an idle device; None if there is none.

    Without `device`, any device will do. Jobs of dead workers are queued again first, or fail after `MAX_ATTEMPTS`.
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
    """Return True if `claim` would find a job now."""
    return tx.execute(_IS_WAITING, on_device=device).first() is not None


_held = sa.and_(_which, _is_running, at.owner == bindparam("me"), at.epoch == bindparam("at_epoch"))
_HEARTBEAT = scoped(sa.update(job).where(_held).values(lease_until=_lease_end).returning(at.wanted))


def heartbeat(tx: Transaction, lease: JobLease, lease_ms: int) -> Wanted:
    """Renew the lease and return the request to the job: run, pause or cancel. Raise `LeaseLost`."""
    row = tx.execute(_HEARTBEAT, **_of(lease), lease_ms=lease_ms).first()
    if row is None:
        raise LeaseLost
    wanted: Wanted = row.wanted
    return wanted


_HOLD = scoped(sa.update(job).where(_held).values(owner=at.owner).returning(at.id))


def hold(tx: Transaction, lease: JobLease) -> None:
    """Lock the job at the start of a unit that writes for it: no worker claims it before the commit.

    Raise `LeaseLost`.
    """
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
    """Store a job's progress and new points; a point of the same series and step is replaced. Raise `LeaseLost`."""
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
    """Free an unfinished job and return its new state: the state that was asked for, else queued. Raise `LeaseLost`."""
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
    """End a job for good. Raise `LeaseLost`."""
    outcome = dict(result) if result is not None else None
    if tx.execute(_FINISH, **_of(lease), end=end, outcome=outcome, problem=error).first() is None:
        raise LeaseLost
    audit.record(tx, WORKER, f"job.{end}", lease.job.id)


def _of(lease: JobLease) -> dict[str, Any]:
    return {"which": lease.job.id, "me": lease.owner, "at_epoch": lease.epoch}
