"""A workspace after a whole learning loop: votes, a dataset, jobs, two versions and a blind trial."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from adapters.cli.wiring import Agent
from bot.chat.feedback import Feedback
from storage import datasets, evaluations, jobs, releases, versions
from storage.jobs import JobLease, Point
from storage.learning_values import Example, Job, Rejected, Version
from storage.transaction import Transaction
from storage.values import Sender
from storage.versions import NewVersion
from tests.builders.web import WebServer

WHO = "shell:root"
MEASURES = {
    "loss": (2.19, 1.41, 1.22),
    "perplexity": (8.94, 4.1, 3.39),
    "question_gain": (0.41, 0.52, 0.61),
    "rouge_l": (0.14, 0.27, 0.33),
    "chrf": (0.2, 0.31, 0.36),
    "length_ratio": (2.4, 1.2, 1.05),
    "repetition": (0.11, 0.04, 0.03),
    "stopped": (0.61, 0.97, 0.99),
}


@dataclass(frozen=True)
class Learnt:
    """The ids and values of the rows made."""

    dataset_id: str
    other_dataset_id: str
    champion: Version
    challenger: Version
    retired: Version
    evaluation_id: str
    running: Job
    done: Job
    reply_id: str
    person: str


async def fill_learning(server: WebServer) -> Learnt:
    """Make all rows in the database of a running server; no model is needed."""
    agent = server.agent
    visitor = await server.visitor()
    replies = []
    for number, text in enumerate(("Where is my parcel?", "Can I send the tulips back?", "Do you open on Sundays?")):
        parts = await visitor.ask(text, chat=f"c{number}", id=f"m{number}")
        replies.append(next(part["messageId"] for part in parts if part["type"] == "start"))
    await _vote(agent, replies)
    person = await agent.database.read(_person, agent.workspace_id)
    made = await agent.database.write(_make, agent.workspace_id, replies[0], person)
    leased = await agent.database.write(jobs.claim, None, "worker", 3_600_000)
    assert leased is not None
    await agent.database.write(_run, agent.workspace_id, leased)
    running = await agent.database.read(jobs.get, agent.workspace_id, leased.job.id)
    assert running is not None
    return Learnt(**made, running=running, reply_id=replies[0], person=person)


async def judged_beside_the_base(server: WebServer, learnt: Learnt) -> None:
    """Record that the challenger passed beside the base model, not the champion: a void verdict."""
    saved = await server.agent.database.write(
        evaluations.save,
        server.agent.workspace_id,
        learnt.challenger.id,
        None,
        passed=True,
        reasons=_reasons(True),
        report=report_with_figures(learnt.person),
        created_by=WHO,
    )
    assert saved is not None


async def _vote(agent: Agent, replies: list[str]) -> None:
    feedback = Feedback(agent.scope)
    opinions: list[tuple[Any, str, str]] = [
        (-1, "It does not say when.", "It left our warehouse on Monday and arrives within three days."),
        (-1, "Rude.", ""),
        (1, "", ""),
    ]
    for reply_id, (value, reason, better) in zip(replies, opinions, strict=True):
        reply = await feedback.reply("web", reply_id)
        await feedback.vote(reply, "web", Sender("voter"), value, reason, better)


def _person(tx: Transaction) -> str:
    import sqlalchemy as sa

    from storage.schema import message

    found = tx.connection.execute(sa.select(message.c.person_id).where(message.c.person_id.is_not(None))).first()
    assert found is not None
    return str(found.person_id)


def _make(tx: Transaction, reply_id: str, person: str) -> dict[str, Any]:
    """Make trained versions with their datasets and jobs; the job of one training is queued."""
    other, dataset = (_dataset(tx, reply_id, person, count) for count in (1, 3))
    done, _ = jobs.create(tx, WHO, "train", {"rows": 100})
    for one in (done,):
        jobs.request(tx, WHO, one.id, "cancel")
    made = [_version(tx, dataset, done.id, letter) for letter in "abc"]
    for version, passed in zip(made[:2], (True, False), strict=True):
        evaluation_id = evaluations.save(
            tx,
            version.id,
            None,
            passed=passed,
            reasons=_reasons(passed),
            report=report_with_figures(person),
            created_by=WHO,
        )
        assert evaluation_id is not None
    versions.retire(tx, made[2].id, "only a trial")
    releases.begin_change(tx)
    canary = releases.start_canary(tx, made[1].id, made[0].id, 0.2, "salt", {"slow_ms": 900}, WHO)
    assert canary is not None
    releases.set_aliases(tx, made[0].id, None, canary.id)
    jobs.create(tx, WHO, "train", {"rows": 200, "search": 2})
    return {
        "dataset_id": dataset,
        "other_dataset_id": other,
        "champion": made[0],
        "challenger": made[1],
        "retired": made[2],
        "evaluation_id": evaluation_id,
        "done": done,
    }


def _dataset(tx: Transaction, reply_id: str, person: str, count: int) -> str:
    draft = datasets.begin(tx, {"rows": None, "cap": 5}, WHO)
    rows: list[Example | Rejected] = [
        Example(
            "pair" if number else "answer",
            "correction" if number else "import",
            "train" if number else "held_out",
            "c" * 32,
            reply_id,
            person,
            ({"role": "user", "content": f"Question {number}?"},),
            f"The better answer {number}.",
            f"The draft {number}." if number else None,
        )
        for number in range(count)
    ]
    rows.append(Rejected("answer", "import", "c" * 32, reply_id, person, "the same as another"))
    datasets.add(tx, draft, 0, rows)
    counts = {
        "examples": count,
        "kinds": {"pair": count - 1, "answer": 1},
        "sources": {"correction": count - 1, "import": 1},
        "splits": {"train": {"pair": count - 1}, "held_out": {"answer": 1}},
        "good": 0,
        "bad": 0,
        "people": 1,
        "conversations": 1,
        "unfounded": 0,
        "answer_chars": {"64": count, "256": 0, "longer": 0},
        "prompt_chars": {"64": count, "256": 0, "longer": 0},
        "rejected": {"the same as another": 1},
    }
    return datasets.finish(tx, draft, f"{count}{draft}{draft}"[:64], counts).id


def _version(tx: Transaction, dataset_id: str, job_id: str, letter: str) -> Version:
    new = NewVersion(
        "smollm2-135m-instruct",
        "b" * 64,
        letter * 64,
        dataset_id,
        job_id,
        {"learning_rate": 0.0002, "rank": 16, "epochs": 2},
        "0.1.0",
        WHO,
    )
    return versions.register(tx, new)


def _reasons(passed: bool) -> list[str]:
    last = "kept" if passed else "refused"
    return ["Held-out loss fell by 13.5 %: kept", f"General loss rose by 0.4 % (at most 5 %): {last}"]


def report_with_figures(person: str) -> dict[str, Any]:
    def interval(mean: float) -> dict[str, float]:
        return {"mean": mean, "low": mean * 0.95, "high": mean * 1.05}

    measures = {
        name: {
            "values": {"base": interval(base), "champion": interval(champion), "candidate": interval(candidate)},
            "difference": interval(candidate - champion),
        }
        for name, (base, champion, candidate) in MEASURES.items()
    }
    answers = [
        {
            "suite": "held_out",
            "id": f"row {number}",
            "reference": "Yes.",
            "messages": [{"role": "user", "content": f"Question {number}?"}],
            "broken": {},
            "person_id": person,
            "answers": {"base": "Hm.", "champion": f"Answer {number}.", "candidate": f"Better answer {number}."},
        }
        for number in range(2)
    ]
    return {
        "names": {"base": "smollm2-135m-instruct", "champion": "bot-v1", "candidate": "bot-v2"},
        "suites": {"held_out": {"rows": 100, "left_out": 0, "measures": measures, "loss_growth": None}},
        "golden_broken": [],
        "leakage": None,
        "answers": answers,
        "seconds": 12.0,
    }


def _run(tx: Transaction, lease: JobLease) -> None:
    """Make a training job that is half done."""
    progress = {
        "phase": "train",
        "step": 40,
        "steps": 90,
        "loss": 1.52,
        "held_out_loss": 1.61,
        "tokens_per_second": 212.0,
        "seconds_left": 154,
    }
    points = [Point("loss", step, 2.2 - 0.017 * step) for step in range(1, 41)]
    points += [Point("held_out_loss", step, 2.19 - 0.014 * step) for step in range(10, 41, 10)]
    jobs.report(tx, lease, progress, tuple(points))
