"""Cases of versions, releases, canaries and erasure for the contract of workspaces.

Each world has one trained version, released and tried.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from storage import canary_outcomes, erasure, releases, versions
from storage.transaction import Transaction
from tests.builders.versions import add_evaluation, add_example, add_job_and_dataset, new_version
from tests.contract.workspaces import CHANNEL, PERSON, Case, World, name_of


def _start(tx: Transaction, world: World) -> Any:
    return releases.start_canary(tx, world.things["version"].id, None, 0.1, "salt", {}, "shell:root")


def _nobody(world: World) -> erasure.Traces:
    return replace(world.things["traces"], names=())


CASES = {
    name_of(versions.next_name): Case([lambda tx, w: versions.next_name(tx, "f" * 16)]),
    name_of(versions.register): Case(
        [lambda tx, w: versions.register(tx, new_version(*w.things["made_of"], weights="e" * 16))]
    ),
    name_of(versions.list_all): Case([lambda tx, w: versions.list_all(tx)]),
    name_of(versions.get): Case(
        [lambda tx, w: versions.get(tx, w.things["version"].id)],
        lambda tx, w: versions.get(tx, w.things["version"].id),
        None,
    ),
    name_of(versions.retire): Case(
        [lambda tx, w: versions.retire(tx, w.things["version"].id, "old")],
        lambda tx, w: versions.retire(tx, w.things["version"].id, "old"),
        False,
    ),
    name_of(versions.taint): Case(
        [lambda tx, w: versions.taint(tx, w.things["version"].id)],
        lambda tx, w: versions.taint(tx, w.things["version"].id),
        False,
    ),
    name_of(versions.learnt_from): Case(
        [lambda tx, w: versions.learnt_from(tx, w.things["version"].id)],
        lambda tx, w: versions.learnt_from(tx, w.things["version"].id),
        [],
    ),
    name_of(versions.count_learnt_from): Case(
        [lambda tx, w: versions.count_learnt_from(tx, w.things["version"].id)],
        lambda tx, w: versions.count_learnt_from(tx, w.things["version"].id),
        versions.LearntFrom(0, 0),
    ),
    name_of(versions.of_person): Case(
        [lambda tx, w: versions.of_person(tx, w.things["person"])],
        lambda tx, w: versions.of_person(tx, w.things["person"]),
        [],
    ),
    name_of(releases.current): Case([lambda tx, w: releases.current(tx)]),
    name_of(releases.begin_change): Case([lambda tx, w: releases.begin_change(tx)]),
    name_of(releases.set_aliases): Case([lambda tx, w: releases.set_aliases(tx, None, None, None)]),
    name_of(releases.start_canary): Case([_start], _start, None),
    name_of(releases.end_canary): Case(
        [lambda tx, w: releases.end_canary(tx, w.things["canary"], "harm", {})],
        lambda tx, w: releases.end_canary(tx, w.things["canary"], "harm", {}),
        False,
    ),
    name_of(releases.canaries): Case([lambda tx, w: releases.canaries(tx)]),
    name_of(canary_outcomes.tried_since): Case([lambda tx, w: canary_outcomes.tried_since(tx, 0)]),
    name_of(canary_outcomes.durations): Case(
        [lambda tx, w: (releases.current(tx), canary_outcomes.durations(tx, None))]
    ),
    name_of(erasure.find_person): Case(
        [
            lambda tx, w: erasure.find_person(tx, f"{CHANNEL}:{PERSON}"),
            lambda tx, w: erasure.find_person(tx, w.things["person"]),
        ],
        lambda tx, w: erasure.find_person(tx, w.things["person"]),
        None,
    ),
    name_of(erasure.traces): Case(
        [lambda tx, w: erasure.traces(tx, w.things["person"])],
        lambda tx, w: _nobody(w) if erasure.traces(tx, w.things["person"]).own else None,
        None,
    ),
    name_of(erasure.erase): Case(
        [lambda tx, w: erasure.erase(tx, w.things["traces"])], lambda tx, w: erasure.erase(tx, w.things["traces"]), {}
    ),
    name_of(erasure.how_many): Case([lambda tx, w: erasure.how_many(tx)]),
    name_of(erasure.lock): Case([lambda tx, w: erasure.lock(tx)]),
    name_of(erasure.begin): Case(
        [lambda tx, w: erasure.begin(tx, w.things["person"])],
        lambda tx, w: erasure.begin(tx, w.things["person"]),
        False,
    ),
    name_of(erasure.prove): Case([lambda tx, w: erasure.prove(tx, ["a hash"], {}, [], "shell:root")]),
    name_of(erasure.add_to_proof): Case(
        [lambda tx, w: erasure.add_to_proof(tx, [w.things["subject"]], {"job_folder": 1})]
    ),
    name_of(erasure.find_proof): Case(
        [lambda tx, w: erasure.find_proof(tx, [w.things["subject"]])],
        lambda tx, w: erasure.find_proof(tx, [w.things["subject"]]),
        None,
    ),
}


def fill(tx: Transaction, world: World) -> None:
    person_id = erasure.find_person(tx, f"{CHANNEL}:{PERSON}")
    assert person_id is not None
    made_of = add_job_and_dataset(tx)
    add_example(tx, made_of[0], person_id, world.conversation.id, world.reply.id)
    version = versions.register(tx, new_version(*made_of))
    add_evaluation(tx, version.id, person_id=person_id)
    releases.begin_change(tx)
    canary = releases.start_canary(tx, version.id, None, 0.1, "salt", {}, "shell:root")
    assert canary is not None
    releases.set_aliases(tx, None, version.id, canary.id)
    subject = f"hmac of {person_id}"
    erasure.prove(tx, [subject], {"message": 1}, [version.name], "shell:root")
    world.things |= {
        "person": person_id,
        "made_of": made_of,
        "version": version,
        "canary": canary.id,
        "subject": subject,
        "traces": erasure.traces(tx, person_id),
    }
