"""Datasets: examples and rejected candidates, written and read in pages.

Pages keep each transaction short. A dataset is a draft that nobody sees until `finish`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from storage import erasure
from storage.audit import record
from storage.consent import Choices
from storage.learning_schema import dataset, dataset_example
from storage.learning_values import DRAFT, Dataset, Example, Rejected
from storage.schema import conversation, message, person
from storage.transaction import Transaction, now_ms, scoped
from storage.values import new_id

DRAFT_LIVES_MS = 24 * 3_600_000


# --- writing ---

_is_this = dataset.c.id == bindparam("which")


class NoSuchDraft(LookupError):
    """There is no draft with this id: it was left for too long, or a person was erased meanwhile."""


_INSERT = scoped(sa.insert(dataset).values(created_at=now_ms()))
_DELETE_OLD_DRAFTS = scoped(
    sa.delete(dataset).where(
        dataset.c.sha256.startswith(DRAFT), dataset.c.created_at < now_ms() - bindparam("lives", type_=sa.BigInteger)
    )
)


def begin(tx: Transaction, settings: Mapping[str, Any], created_by: str, after_erasures: int | None = None) -> str:
    """Begin a draft and return its id. Abandoned drafts are removed.

    `after_erasures` is the value of `erasure.how_many` before the first source was read. Raise `NoSuchDraft` if there
    has been an erasure since; an erasure after this call removes the draft.
    """
    if after_erasures is not None and erasure.lock(tx) != after_erasures:
        raise NoSuchDraft("somebody was erased since its words were read")
    tx.execute(_DELETE_OLD_DRAFTS, lives=DRAFT_LIVES_MS)
    draft_id = new_id()
    tx.execute(_INSERT, id=draft_id, sha256=DRAFT + draft_id, settings=dict(settings), counts={}, created_by=created_by)
    return draft_id


_INSERT_EXAMPLE = scoped(sa.insert(dataset_example))


def add(tx: Transaction, draft_id: str, first_number: int, rows: Sequence[Example | Rejected]) -> None:
    """Write the next rows of a draft, numbered from `first_number`. Raise `NoSuchDraft`."""
    _check_draft(tx, draft_id)
    for number, row in enumerate(rows, first_number):
        of_kind = (
            {"sha256": row.sha256, "split": row.split, "content": row.content, "rejected_because": None}
            if isinstance(row, Example)
            else {"sha256": "", "split": None, "content": None, "rejected_because": row.because}
        )
        tx.insert(
            _INSERT_EXAMPLE,
            dataset_id=draft_id,
            number=number,
            kind=row.kind,
            source=row.source,
            conversation_id=row.conversation_id,
            message_id=row.message_id,
            person_id=row.person_id,
            **of_kind,
        )


_FINISH = scoped(
    sa.update(dataset)
    .where(_is_this, dataset.c.sha256 == bindparam("draft_sha256"))
    .values(sha256=bindparam("final_sha256"), counts=bindparam("final_counts"))
)
_DELETE = scoped(sa.delete(dataset).where(_is_this))


def finish(tx: Transaction, draft_id: str, sha256: str, counts: Mapping[str, Any]) -> Dataset:
    """Turn a draft into a dataset. If a dataset has the same examples, remove the draft and return that dataset.

    Raise `NoSuchDraft`.
    """
    _check_draft(tx, draft_id)
    known = find_by_sha256(tx, sha256)
    if known is not None:
        tx.execute(_DELETE, which=draft_id)
        return known
    finished = tx.execute(
        _FINISH, which=draft_id, draft_sha256=DRAFT + draft_id, final_sha256=sha256, final_counts=dict(counts)
    )
    made = find_by_sha256(tx, sha256)
    if not finished.rowcount or made is None:
        raise NoSuchDraft(draft_id)
    record(tx, made.created_by, "dataset.built", draft_id, {"sha256": sha256, "examples": counts.get("examples", 0)})
    return made


_DELETE_DRAFT = scoped(sa.delete(dataset).where(_is_this, dataset.c.sha256 == bindparam("draft_sha256")))


def abandon(tx: Transaction, draft_id: str) -> bool:
    """Remove a draft; False if it is gone already, or finished."""
    return tx.execute(_DELETE_DRAFT, which=draft_id, draft_sha256=DRAFT + draft_id).rowcount > 0


_DRAFT = scoped(sa.select(dataset.c.id).where(_is_this, dataset.c.sha256 == bindparam("draft_sha256")))


def _check_draft(tx: Transaction, draft_id: str) -> None:
    if tx.execute(_DRAFT, which=draft_id, draft_sha256=DRAFT + draft_id).first() is None:
        raise NoSuchDraft(draft_id)


# --- reading ---

_datasets = sa.select(
    dataset.c.id, dataset.c.sha256, dataset.c.settings, dataset.c.counts, dataset.c.created_by, dataset.c.created_at
)
_next_rows = sa.and_(dataset_example.c.dataset_id == bindparam("which"), dataset_example.c.number > bindparam("after"))
_columns = (
    dataset_example.c.number,
    dataset_example.c.kind,
    dataset_example.c.source,
    dataset_example.c.conversation_id,
    dataset_example.c.message_id,
    dataset_example.c.person_id,
)
_most = bindparam("most", type_=sa.Integer)
_BY_SHA256 = scoped(_datasets.where(dataset.c.sha256 == bindparam("wanted_sha256")))


def find_by_sha256(tx: Transaction, sha256: str) -> Dataset | None:
    """Return the dataset whose examples have this hash."""
    row = tx.execute(_BY_SHA256, wanted_sha256=sha256).first()
    return Dataset(**row._mapping) if row else None


_LIST = scoped(_datasets.where(~dataset.c.sha256.startswith(DRAFT)).order_by(dataset.c.created_at.desc(), dataset.c.id))


def list_all(tx: Transaction) -> list[Dataset]:
    """Return all finished datasets, newest first."""
    return [Dataset(**row._mapping) for row in tx.execute(_LIST)]


_EXAMPLES = scoped(
    sa.select(*_columns, dataset_example.c.split, dataset_example.c.content)
    .where(_next_rows, dataset_example.c.split.is_not(None), dataset_example.c.content.is_not(None))
    .where(sa.or_(dataset_example.c.split == bindparam("split"), bindparam("any_split", type_=sa.Boolean)))
    .order_by(dataset_example.c.number)
    .limit(_most)
)


def examples_page(
    tx: Transaction, dataset_id: str, split: str | None, after: int = -1, most: int = 500
) -> list[tuple[int, Example]]:
    """Return the next examples after a number, of one split or of both (None), each with its number.

    Erased examples are left out.
    """
    rows = tx.execute(_EXAMPLES, which=dataset_id, split=split or "", any_split=split is None, after=after, most=most)
    return [(row.number, Example.of_row(row)) for row in rows]


_HASHES = scoped(
    sa.select(dataset_example.c.sha256).where(
        dataset_example.c.dataset_id == bindparam("which"),
        dataset_example.c.split.is_not(None),
        dataset_example.c.content.is_not(None),
    )
)


def example_hashes(tx: Transaction, dataset_id: str) -> set[str]:
    """Return the SHA-256 of each example of a dataset, erased ones left out."""
    return set(tx.execute(_HASHES, which=dataset_id).scalars())


_CONSENT = scoped(
    sa.select(
        dataset_example.c.number,
        dataset_example.c.conversation_id,
        person.c.may_learn.label("of_person"),
        conversation.c.may_learn.label("of_conversation"),
    )
    .select_from(
        dataset_example.outerjoin(
            person,
            sa.and_(
                person.c.id == dataset_example.c.person_id, person.c.workspace_id == dataset_example.c.workspace_id
            ),
        ).outerjoin(
            conversation,
            sa.and_(
                conversation.c.id == dataset_example.c.conversation_id,
                conversation.c.workspace_id == dataset_example.c.workspace_id,
            ),
        )
    )
    .where(dataset_example.c.dataset_id == bindparam("which"), dataset_example.c.content.is_not(None))
)
_SAID_NO_IN = scoped(
    sa.select(message.c.conversation_id)
    .distinct()
    .join(person, person.c.id == message.c.person_id)
    .join(dataset_example, dataset_example.c.conversation_id == message.c.conversation_id)
    .where(dataset_example.c.dataset_id == bindparam("which"), person.c.may_learn.is_(False))
)


def consent_now(tx: Transaction, dataset_id: str) -> dict[int, Choices]:
    """Return the consent in force for each example that is not erased, by the example's number.

    If anybody who wrote in the conversation refused, the person's consent is False.
    """
    refused = set(tx.execute(_SAID_NO_IN, which=dataset_id).scalars())
    return {
        row.number: Choices(False if row.conversation_id in refused else row.of_person, row.of_conversation)
        for row in tx.execute(_CONSENT, which=dataset_id)
    }


_HAS_ERASED = scoped(
    sa.select(dataset_example.c.number)
    .where(
        dataset_example.c.dataset_id == bindparam("which"),
        dataset_example.c.split.is_not(None),
        dataset_example.c.content.is_(None),
    )
    .limit(1)
)


def has_erased(tx: Transaction, dataset_id: str) -> bool:
    """Return True if an erasure has emptied an example of the dataset."""
    return tx.execute(_HAS_ERASED, which=dataset_id).first() is not None


_REJECTED = scoped(
    sa.select(*_columns, dataset_example.c.rejected_because)
    .where(_next_rows, dataset_example.c.rejected_because.is_not(None))
    .order_by(dataset_example.c.number)
    .limit(_most)
)


def rejected_page(tx: Transaction, dataset_id: str, after: int = -1, most: int = 500) -> list[tuple[int, Rejected]]:
    """Return the next rejected candidates after a number, each with its number."""
    rows = tx.execute(_REJECTED, which=dataset_id, after=after, most=most)
    return [
        (
            row.number,
            Rejected(row.kind, row.source, row.conversation_id, row.message_id, row.person_id, row.rejected_because),
        )
        for row in rows
    ]
