"""Cases of jobs for the contract of workspaces."""

from __future__ import annotations

from storage import jobs
from storage.jobs import JobLease, LeaseLost, Point
from storage.transaction import Transaction
from tests.contract.workspaces import LEASE_MS, Case, World, name_of

ACTOR = "shell:root"


def lease_of(world: World) -> JobLease:
    lease = world.things["job"]
    assert isinstance(lease, JobLease)
    return lease


CASES = {
    name_of(jobs.create): Case([lambda tx, w: jobs.create(tx, ACTOR, "train", {"rows": 3})]),
    name_of(jobs.get): Case(
        [lambda tx, w: jobs.get(tx, lease_of(w).job.id)], lambda tx, w: jobs.get(tx, lease_of(w).job.id), None
    ),
    name_of(jobs.find): Case([lambda tx, w: jobs.find(tx, "0")], lambda tx, w: jobs.find(tx, lease_of(w).job.id), []),
    name_of(jobs.list_jobs): Case([lambda tx, w: jobs.list_jobs(tx)]),
    name_of(jobs.newest_of_kind): Case([lambda tx, w: jobs.newest_of_kind(tx, "train", 9)]),
    name_of(jobs.hold_open): Case([lambda tx, w: jobs.hold_open(tx)]),
    name_of(jobs.list_open): Case([lambda tx, w: jobs.list_open(tx)]),
    name_of(jobs.points): Case(
        [lambda tx, w: jobs.points(tx, lease_of(w).job.id)], lambda tx, w: jobs.points(tx, lease_of(w).job.id), []
    ),
    name_of(jobs.request): Case(
        [
            lambda tx, w: jobs.request(tx, ACTOR, lease_of(w).job.id, "pause"),
            lambda tx, w: jobs.request(tx, ACTOR, lease_of(w).job.id, "resume"),
            lambda tx, w: jobs.request(tx, ACTOR, lease_of(w).job.id, "cancel"),
        ],
        lambda tx, w: jobs.request(tx, ACTOR, lease_of(w).job.id, "cancel"),
        None,
    ),
    name_of(jobs.set_priority): Case(
        [lambda tx, w: jobs.set_priority(tx, ACTOR, lease_of(w).job.id, 5)],
        lambda tx, w: jobs.set_priority(tx, ACTOR, lease_of(w).job.id, 5),
        None,
    ),
    name_of(jobs.heartbeat): Case(
        [lambda tx, w: jobs.heartbeat(tx, lease_of(w), LEASE_MS)],
        lambda tx, w: jobs.heartbeat(tx, lease_of(w), LEASE_MS),
        LeaseLost,
    ),
    name_of(jobs.hold): Case(
        [lambda tx, w: [jobs.hold(tx, lease_of(w))]], lambda tx, w: jobs.hold(tx, lease_of(w)), LeaseLost
    ),
    name_of(jobs.report): Case(
        [lambda tx, w: jobs.report(tx, lease_of(w), {"step": 3}, (Point("loss", 3, 0.5),))],
        lambda tx, w: jobs.report(tx, lease_of(w), {"step": 3}, (Point("loss", 3, 0.5),)),
        LeaseLost,
    ),
    name_of(jobs.release): Case(
        [lambda tx, w: jobs.release(tx, lease_of(w), count_attempt=True)],
        lambda tx, w: jobs.release(tx, lease_of(w), count_attempt=True),
        LeaseLost,
    ),
    name_of(jobs.finish): Case(
        [lambda tx, w: jobs.finish(tx, lease_of(w), "done", result={"version": "bot-v1"})],
        lambda tx, w: jobs.finish(tx, lease_of(w), "done"),
        LeaseLost,
    ),
}


def fill(tx: Transaction, world: World) -> None:
    """A running job with a point in each workspace, each on a device of its own, as only one runs on a device."""
    jobs.create(tx, ACTOR, "train", {"rows": 2}, device=f"device of {tx.workspace_id}")
    lease = jobs.claim(tx, "worker", LEASE_MS)
    assert lease is not None
    assert lease.workspace_id == tx.workspace_id
    jobs.report(tx, lease, {"step": 1}, (Point("loss", 1, 2.0),))
    world.things["job"] = lease
