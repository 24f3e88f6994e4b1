"""Cases of evaluations, judgements and golden questions for the contract of workspaces."""

from __future__ import annotations

from storage import evaluations, golden, judgements
from storage.transaction import Transaction
from tests.builders.versions import EXAMPLE, add_version
from tests.contract.workspaces import Case, World, name_of

REPORT = {
    "answers": [
        {
            "person_id": "p1",
            "messages": [{"role": "user", "content": "hi"}],
            "reference": "hello",
            "answers": {"champion": "hey", "candidate": "hello"},
            "broken": {"champion": [], "candidate": []},
        }
    ]
}


def save(tx: Transaction, world: World) -> str | None:
    return evaluations.save(
        tx,
        world.things["judged version"],
        None,
        passed=False,
        reasons=["worse: REFUSED"],
        report=REPORT,
        created_by="shell:root",
    )


def judge(tx: Transaction, world: World, number: int) -> bool:
    return judgements.add(tx, world.things["evaluation"], number, "web:ada", "candidate")


def refuse(tx: Transaction, world: World) -> bool:
    return evaluations.set_verdict(tx, world.things["evaluation"], passed=True, reasons=["better"])


CASES = {
    name_of(golden.add): Case(
        [lambda tx, w: golden.add(tx, EXAMPLE["messages"], {"must_contain": ["hello"]}, "shell:root")]  # type: ignore[arg-type]
    ),
    name_of(golden.list_all): Case([lambda tx, w: golden.list_all(tx)]),
    name_of(golden.that_hold): Case([lambda tx, w: golden.that_hold(tx, ["hello"])]),
    name_of(golden.remove): Case(
        [lambda tx, w: golden.remove(tx, w.things["golden"])],
        lambda tx, w: golden.remove(tx, w.things["golden"]),
        False,
    ),
    name_of(evaluations.save): Case([save], save, None),
    name_of(evaluations.find): Case(
        [lambda tx, w: evaluations.find(tx, w.things["evaluation"])],
        lambda tx, w: evaluations.find(tx, w.things["evaluation"]),
        None,
    ),
    name_of(evaluations.latest_of_version): Case(
        [lambda tx, w: evaluations.latest_of_version(tx, w.things["judged version"])],
        lambda tx, w: evaluations.latest_of_version(tx, w.things["judged version"]),
        None,
    ),
    name_of(evaluations.page): Case([lambda tx, w: evaluations.page(tx)]),
    name_of(evaluations.verdicts): Case([lambda tx, w: evaluations.verdicts(tx)]),
    name_of(evaluations.newest_verdicts): Case([lambda tx, w: evaluations.newest_verdicts(tx)]),
    name_of(evaluations.held_out): Case(
        [lambda tx, w: evaluations.held_out(tx, w.things["judged dataset"])],
        lambda tx, w: evaluations.held_out(tx, w.things["judged dataset"]),
        [],
    ),
    name_of(evaluations.set_verdict): Case([refuse], refuse, False),
    name_of(evaluations.without_erased): Case([lambda tx, w: evaluations.without_erased(tx, REPORT, of_all=False)]),
    name_of(evaluations.forget_person): Case([lambda tx, w: evaluations.forget_person(tx, "p1")]),
    name_of(judgements.add): Case([lambda tx, w: judge(tx, w, 2)], lambda tx, w: judge(tx, w, 2), False),
    name_of(judgements.judged_by): Case(
        [lambda tx, w: judgements.judged_by(tx, w.things["evaluation"], "web:ada")],
        lambda tx, w: judgements.judged_by(tx, w.things["evaluation"], "web:ada"),
        set(),
    ),
    name_of(judgements.tallies): Case([lambda tx, w: judgements.tallies(tx)]),
    name_of(judgements.tally): Case(
        [lambda tx, w: judgements.tally(tx, w.things["judged version"], None)],
        lambda tx, w: judgements.tally(tx, w.things["judged version"], None),
        {},
    ),
}


def fill(tx: Transaction, world: World) -> None:
    world.things["golden"] = golden.add(
        tx, [{"role": "user", "content": "hi"}], {"must_contain": ["hello"]}, "shell:root"
    )
    world.things["judged version"], world.things["judged dataset"] = add_version(tx, "judged", 900)
    world.things["evaluation"] = save(tx, world)
    assert judge(tx, world, 1)
