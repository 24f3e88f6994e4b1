"""Rows that training and judging would write, for tests of what comes after them.

Knows: the least that a trained and judged version needs. Does not know: how training or the gate works.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from storage.learning_schema import dataset, dataset_example, evaluation, job
from storage.transaction import Transaction, now_ms, scoped
from storage.values import new_id
from storage.versions import NewVersion

_INSERT_DATASET = scoped(sa.insert(dataset).values(created_at=now_ms()))
_INSERT_JOB = scoped(sa.insert(job).values(created_at=now_ms(), state="done"))
_INSERT_EXAMPLE = scoped(sa.insert(dataset_example))
_INSERT_EVALUATION = scoped(sa.insert(evaluation).values(created_at=now_ms()))


def add_job_and_dataset(tx: Transaction) -> tuple[str, str]:
    """`(dataset id, job id)`."""
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
    """An approved answer in a dataset."""
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
    """The gate's verdict beside a champion, None for the base, with one answer that somebody's words led to."""
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
    """A folder as the scripted generator takes it."""
    folder = data / "versions" / name
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(content)


def weights_of(number: int) -> bytes:
    """A file that begins as safetensors do, another one for each number."""
    return b"\x10" + bytes(7) + b'{"number":%d}' % number
