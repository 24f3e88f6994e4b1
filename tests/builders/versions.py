"""Rows that training and evaluation would write, at their least."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from adapters.cli.wiring import Agent
from bot.access.roles import Actor
from storage import versions
from storage.learning_schema import dataset, dataset_example, evaluation, job, model_version
from storage.learning_values import Version
from storage.schema import reply
from storage.transaction import Transaction, now_ms, scoped
from storage.values import Incoming, Sender, new_id, text_part
from storage.versions import NewVersion

EXAMPLE = {"messages": [{"role": "user", "content": "hi"}], "chosen": "hello", "rejected": None, "good": None}
_INSERT_DATASET = scoped(sa.insert(dataset).values(created_at=now_ms()))
_INSERT_JOB = scoped(sa.insert(job).values(created_at=now_ms(), state="done"))
_INSERT_EXAMPLE = scoped(sa.insert(dataset_example))
_INSERT_EVALUATION = scoped(sa.insert(evaluation).values(created_at=now_ms()))


def add_job_and_dataset(tx: Transaction) -> tuple[str, str]:
    """Add a job and a dataset, and return `(dataset id, job id)`."""
    dataset_id, job_id = new_id(), new_id()
    tx.execute(
        _INSERT_DATASET,
        id=dataset_id,
        sha256=hashlib.sha256(dataset_id.encode()).hexdigest(),
        settings={},
        counts={},
        created_by="shell:root",
    )
    tx.execute(_INSERT_JOB, id=job_id, kind="train", device="default", settings={}, created_by="shell:root")
    return dataset_id, job_id


def add_example(
    tx: Transaction,
    dataset_id: str,
    person_id: str,
    conversation_id: str,
    message_id: str,
    *,
    text: str = "words",
    number: int = 1,
    split: str = "train",
) -> None:
    """Add an approved answer to a dataset."""
    content = {"messages": [{"role": "user", "content": text}], "chosen": text, "rejected": None, "good": None}
    sha256 = hashlib.sha256(f"{dataset_id} {text}".encode()).hexdigest()
    tx.execute(
        _INSERT_EXAMPLE,
        dataset_id=dataset_id,
        number=number,
        sha256=sha256,
        kind="answer",
        source="approved",
        split=split,
        rejected_because=None,
        conversation_id=conversation_id,
        message_id=message_id,
        person_id=person_id,
        content=content,
    )


def add_evaluation(
    tx: Transaction,
    version_id: str,
    *,
    passed: bool = True,
    person_id: str | None = None,
    text: str = "words",
    beside: str | None = None,
) -> None:
    """Add the gate's verdict beside a champion (None: the base model), with one answer that a person's words led to."""
    answer = {
        "person_id": person_id,
        "messages": [{"role": "user", "content": text}],
        "reference": text,
        "answers": {"champion": text, "candidate": text},
        "broken": {"champion": [], "candidate": []},
    }
    answers: list[dict[str, Any]] = [answer] if person_id else []
    tx.execute(
        _INSERT_EVALUATION,
        id=new_id(),
        version_id=version_id,
        champion_id=beside,
        passed=passed,
        reasons=[],
        report={"loss": 1.5, "answers": answers},
        created_by="shell:root",
    )


def new_version(dataset_id: str, job_id: str, weights: str = "a" * 16) -> NewVersion:
    return NewVersion("fake", "b" * 16, weights, dataset_id, job_id, {"lr": 0.0001}, "0.1.0", "shell:root")


def write_weights(data: Path, name: str, content: bytes) -> None:
    """Write a version folder that the scripted generator accepts."""
    folder = data / "versions" / name
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(content)


def weights_of(number: int) -> bytes:
    """Return a file that begins as safetensors do, different for each number."""
    return b"\x10" + bytes(7) + b'{"number":%d}' % number


def add_version(tx: Transaction, name: str, number: int, held_out: dict[str, Any] = EXAMPLE) -> tuple[str, str]:
    """Add a registered version with one held-out example by plain SQL, and return `(version, dataset)`."""
    workspace_id = tx.workspace_id
    ids = {what: f"{what} {name} of {workspace_id}".ljust(32, ".") for what in ("dataset", "job", "version")}
    common = {"workspace_id": workspace_id, "created_by": "shell:root", "created_at": 1}
    tx.connection.execute(
        dataset.insert().values(id=ids["dataset"], sha256=f"data of {name}", settings={}, counts={}, **common)
    )
    tx.connection.execute(
        dataset_example.insert().values(
            dataset_id=ids["dataset"],
            number=1,
            workspace_id=workspace_id,
            sha256="x",
            kind="answer",
            source="import",
            split="held_out",
            conversation_id="c1",
            message_id="m1",
            person_id="p1",
            content=held_out,
        )
    )
    tx.connection.execute(
        job.insert().values(id=ids["job"], kind="train", state="done", device="cpu", settings={}, **common)
    )
    tx.connection.execute(
        model_version.insert().values(
            id=ids["version"],
            number=number,
            name=name,
            base="tiny",
            base_sha256="x",
            weights_sha256="x",
            settings={},
            code_version="1",
            dataset_id=ids["dataset"],
            job_id=ids["job"],
            **common,
        )
    )
    return ids["version"], ids["dataset"]


REPLIES_OF = scoped(
    sa.select(reply.c.version, reply.c.state)
    .where(reply.c.conversation_id == sa.bindparam("conversation"))
    .order_by(reply.c.last_seq)
)


async def make_version(
    agent: Agent,
    number: int,
    *,
    passed: bool | None = True,
    content: bytes | None = None,
    beside: Version | None = None,
) -> Version:
    """Make a trained version with its folder, evaluated beside a champion; the number seeds its weights."""
    weights = weights_of(number)

    def register(tx: Transaction) -> Version:
        made = versions.register(tx, new_version(*add_job_and_dataset(tx), weights=hashlib.sha256(weights).hexdigest()))
        if passed is not None:
            add_evaluation(tx, made.id, passed=passed, beside=beside.id if beside else None)
        return made

    version = await agent.database.write(register, agent.workspace_id)
    await asyncio.to_thread(write_weights, agent.settings.data, version.name, weights if content is None else content)
    return version


async def two_beside_the_base(agent: Agent) -> tuple[Version, Version]:
    """Make two versions that passed beside the base and promote the first, so that the second verdict is void."""
    first, second = await make_version(agent, 1), await make_version(agent, 2)
    await agent.releases.promote(Actor("shell:root", "admin"), first.name)
    return first, second


async def ask(agent: Agent, chat: str, number: int = 1, *, seconds: float = 20) -> str:
    """Send a message, wait for the reply, and return the conversation's id."""
    accepted = await agent.conversations.accept(
        agent.workspace_id,
        Incoming("web", chat, Sender(f"visitor of {chat}"), f"{chat}-{number}", (text_part(f"hello {number}"),)),
    )
    async with asyncio.timeout(seconds):
        async for _ in agent.conversations.history.follow(agent.workspace_id, accepted):
            pass
    return accepted.conversation_id


async def replies(agent: Agent, conversation_id: str) -> list[tuple[str | None, str]]:
    """Return `(version, state)` of each reply, oldest first."""
    return await agent.database.read(_replies, agent.workspace_id, conversation_id)


def _replies(tx: Transaction, conversation_id: str) -> list[tuple[str | None, str]]:
    return [(row.version, row.state) for row in tx.execute(REPLIES_OF, conversation=conversation_id)]
