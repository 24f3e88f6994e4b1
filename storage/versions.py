"""Registry of trained versions: names, origin and examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from storage.learning_schema import dataset_example, model_version
from storage.learning_values import Version
from storage.transaction import Transaction, now_ms, scoped
from storage.values import new_id


class NameTaken(Exception):
    """Another version was registered meanwhile: take a new name from `next_name`."""


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A version to register. `base` is the model's name; the hashes are the SHA-256 of the weight files."""

    base: str
    base_sha256: str
    weights_sha256: str
    dataset_id: str
    job_id: str
    settings: Mapping[str, Any]
    code_version: str
    created_by: str


@dataclass(frozen=True, slots=True)
class LearntFrom:
    """The number of examples that a version was trained on, and of their conversations."""

    examples: int
    conversations: int


version_columns = tuple(column for column in model_version.c if column.name != "workspace_id")
_versions = sa.select(*version_columns)
_LAST_NUMBER = scoped(sa.select(sa.func.max(model_version.c.number)).select_from(model_version))


def next_name(tx: Transaction, weights_sha256: str) -> str:
    """Return the name that a version with these weights would get now."""
    number = (tx.execute(_LAST_NUMBER).scalar() or 0) + 1
    return f"bot-v{number}-{weights_sha256[:8]}"


_OF_JOB = scoped(
    _versions.where(
        model_version.c.job_id == bindparam("job"), model_version.c.weights_sha256 == bindparam("weights")
    ).limit(1)
)
_INSERT = scoped(sa.insert(model_version).values(created_at=now_ms()).returning(*version_columns))


def register(tx: Transaction, new: NewVersion, name: str | None = None) -> Version:
    """Register a version under the next number. Its folder must exist already, under the `name` from `next_name`.

    Idempotent: the same job and weights give the same version. Raise `NameTaken` if `name` is no longer next.
    """
    known = tx.execute(_OF_JOB, job=new.job_id, weights=new.weights_sha256).first()
    if known is not None:
        return version_of(known)
    number = (tx.execute(_LAST_NUMBER).scalar() or 0) + 1
    given = f"bot-v{number}-{new.weights_sha256[:8]}"
    if name not in (None, given):
        raise NameTaken(given)
    row = tx.execute(
        _INSERT,
        id=new_id(),
        number=number,
        name=given,
        base=new.base,
        base_sha256=new.base_sha256,
        weights_sha256=new.weights_sha256,
        dataset_id=new.dataset_id,
        job_id=new.job_id,
        settings=dict(new.settings),
        code_version=new.code_version,
        created_by=new.created_by,
        retired_at=None,
        retired_because=None,
        tainted_at=None,
    ).one()
    return version_of(row)


_ALL = scoped(_versions.order_by(model_version.c.number))


def list_all(tx: Transaction) -> list[Version]:
    """Return all versions, oldest first, retired ones included."""
    return [version_of(row) for row in tx.execute(_ALL)]


_GET = scoped(_versions.where(model_version.c.id == bindparam("which")))


def get(tx: Transaction, version_id: str) -> Version | None:
    """Return the version with an id."""
    row = tx.execute(_GET, which=version_id).first()
    return version_of(row) if row else None


_RETIRE = scoped(
    sa.update(model_version)
    .where(model_version.c.id == bindparam("which"), model_version.c.retired_at.is_(None))
    .values(retired_at=now_ms(), retired_because=bindparam("because"))
)


def retire(tx: Transaction, version_id: str, because: str) -> bool:
    """Retire a version; False if it is retired already, or does not exist."""
    return tx.execute(_RETIRE, which=version_id, because=because).rowcount > 0


_TAINT = scoped(
    sa.update(model_version)
    .where(model_version.c.id == bindparam("which"), model_version.c.tainted_at.is_(None))
    .values(tainted_at=now_ms())
)


def taint(tx: Transaction, version_id: str) -> bool:
    """Mark a version as trained on words of an erased person; False if it is marked already, or does not exist."""
    return tx.execute(_TAINT, which=version_id).rowcount > 0


_learnt_from = (
    sa.select(dataset_example.c.conversation_id, dataset_example.c.message_id, dataset_example.c.sha256)
    .join(model_version, model_version.c.dataset_id == dataset_example.c.dataset_id)
    .where(model_version.c.id == bindparam("which"), dataset_example.c.split == "train")
)
_LEARNT_FROM = scoped(_learnt_from.order_by(dataset_example.c.number))


def learnt_from(tx: Transaction, version_id: str) -> list[tuple[str, str, str]]:
    """Return `(conversation id, message id, SHA-256)` of every example that a version was trained on, in order."""
    return [tuple(row) for row in tx.execute(_LEARNT_FROM, which=version_id)]


_COUNT_LEARNT_FROM = scoped(
    sa.select(
        sa.func.count().label("examples"),
        sa.func.count(sa.distinct(dataset_example.c.conversation_id)).label("conversations"),
    )
    .select_from(dataset_example)
    .join(model_version, model_version.c.dataset_id == dataset_example.c.dataset_id)
    .where(model_version.c.id == bindparam("which"), dataset_example.c.split == "train")
)


def count_learnt_from(tx: Transaction, version_id: str) -> LearntFrom:
    """Count the rows of `learnt_from`, and their conversations."""
    row = tx.execute(_COUNT_LEARNT_FROM, which=version_id).one()
    return LearntFrom(int(row.examples), int(row.conversations))


_OF_PERSON = scoped(
    sa.select(model_version.c.id, model_version.c.number)
    .distinct()
    .join(dataset_example, dataset_example.c.dataset_id == model_version.c.dataset_id)
    .where(dataset_example.c.person_id == bindparam("person"), dataset_example.c.split.is_not(None))
    .order_by(model_version.c.number)
)


def of_person(tx: Transaction, person_id: str) -> list[Version]:
    """Return the versions whose datasets hold examples of a person (held-out ones included), oldest first."""
    found = [get(tx, row.id) for row in tx.execute(_OF_PERSON, person=person_id).all()]
    return [version for version in found if version is not None]


def version_of(row: Any) -> Version:
    """Turn a row of `version_columns` into a `Version`."""
    return Version(**row._mapping)
