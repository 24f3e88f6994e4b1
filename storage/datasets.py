"""Datasets: what there is to learn from, what was made of it, and what was left out.

Knows: how sources are read in pages and examples written in pages, so that nobody waits long. Does not know: what makes
an example, or who may be learnt from.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import bindparam

from storage import erasure
from storage.audit import record
from storage.consent import Choices
from storage.learning_schema import dataset, dataset_example, review
from storage.learning_values import DRAFT, Dataset, Example, Rejected
from storage.schema import conversation, message, person, reply, vote
from storage.transaction import Transaction, now_ms, scoped
from storage.values import Message, new_id

DRAFT_LIVES_MS = 24 * 3_600_000


@dataclass(frozen=True, slots=True)
class Said:
    """A message with what is to be known of it for learning."""

    message: Message
    person_id: str | None
    draft: str | None
    is_superseded: bool
    first_seq: int | None


@dataclass(frozen=True, slots=True)
class Opinion:
    """A vote that counts."""

    id: str
    person_id: str
    value: int
    better: str | None
    created_at: int


@dataclass(frozen=True, slots=True)
class Decision:
    """The review that counts."""

    decision: Literal["approve", "correct", "exclude"]
    better: str | None
    created_at: int


@dataclass(frozen=True, slots=True)
class Someone:
    """A person of a conversation: what they are called, and whether they have said that they may be learnt from."""

    display_name: str | None
    may_learn: bool | None


@dataclass(frozen=True, slots=True)
class Source:
    """A conversation that holds something to learn, with all that was said of it. Reviews and votes are by reply."""

    id: str
    channel: str
    person_id: str | None
    instructions: str | None
    split_group: str | None
    is_imported: bool
    may_learn: bool | None
    context_from_seq: int
    messages: tuple[Said, ...]
    reviews: Mapping[str, Decision]
    votes: Mapping[str, tuple[Opinion, ...]]
    people: Mapping[str, Someone]


_ids: sa.BindParameter[str] = bindparam("ids", expanding=True)
_COUNT = scoped(sa.select(sa.func.count(conversation.c.id)))
_CONVERSATIONS = scoped(
    sa.select(
        conversation.c.id, conversation.c.channel, conversation.c.person_id, conversation.c.instructions,
        conversation.c.split_group, conversation.c.import_id, conversation.c.may_learn, conversation.c.context_from_seq,
    )
    .where(conversation.c.id > bindparam("after"))
    .order_by(conversation.c.id)
    .limit(bindparam("most", type_=sa.Integer))
)  # fmt: skip
_WITH_AGENTS = scoped(
    sa.select(message.c.conversation_id)
    .distinct()
    .where(message.c.conversation_id.in_(_ids), message.c.author == "agent")
)
_VOTES = scoped(
    sa.select(
        vote.c.conversation_id, vote.c.reply_id, vote.c.id, vote.c.person_id, vote.c.value, vote.c.better,
        vote.c.created_at,
    )
    .where(vote.c.conversation_id.in_(_ids), vote.c.replaced_at.is_(None))
    .order_by(vote.c.id)
)  # fmt: skip
_REVIEWS = scoped(
    sa.select(
        review.c.conversation_id, review.c.reply_id, review.c.decision, review.c.better, review.c.created_at
    ).where(review.c.conversation_id.in_(_ids), review.c.replaced_at.is_(None))
)
_MESSAGES = scoped(
    sa.select(
        message.c.conversation_id, message.c.id, message.c.seq, message.c.author, message.c.parts, message.c.created_at,
        message.c.external_id, message.c.person_id, message.c.draft, message.c.superseded_at,
        reply.c.state.label("reply_state"), reply.c.origin, reply.c.first_seq,
    )
    .select_from(
        message.outerjoin(
            reply, sa.and_(reply.c.message_id == message.c.id, reply.c.workspace_id == message.c.workspace_id)
        )
    )
    .where(message.c.conversation_id.in_(_ids))
    .order_by(message.c.seq, message.c.rank)
)  # fmt: skip
_PEOPLE = scoped(sa.select(person.c.id, person.c.display_name, person.c.may_learn).where(person.c.id.in_(_ids)))


def count_conversations(tx: Transaction) -> int:
    """How many conversations there are to go through."""
    return int(tx.execute(_COUNT).scalar_one())


def sources_page(tx: Transaction, after: str, most: int = 200) -> tuple[list[Source], int, str]:
    """What there is to learn from in the next `most` conversations after an id; how many were looked at, and the id to
    go on after."""
    rows = tx.execute(_CONVERSATIONS, after=after, most=most).all()
    if not rows:
        return [], 0, after
    ids = [row.id for row in rows]
    votes = _by_conversation(tx.execute(_VOTES, ids=ids))
    reviews = _by_conversation(tx.execute(_REVIEWS, ids=ids))
    wanted = votes.keys() | reviews.keys() | {row.conversation_id for row in tx.execute(_WITH_AGENTS, ids=ids)}
    messages = _by_conversation(tx.execute(_MESSAGES, ids=sorted(wanted))) if wanted else {}
    chosen = [row for row in rows if row.id in wanted]
    people = _people(tx, chosen, votes, messages)
    found = [
        _source(row, messages.get(row.id, []), reviews.get(row.id, []), votes.get(row.id, []), people) for row in chosen
    ]
    return found, len(rows), ids[-1]


def _by_conversation(rows: Iterable[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        found[row.conversation_id].append(row)
    return found


def _people(
    tx: Transaction, rows: Sequence[Any], votes: Mapping[str, list[Any]], messages: Mapping[str, list[Any]]
) -> dict[str, Someone]:
    ids = {row.person_id for row in rows}
    ids |= {one.person_id for group in (votes, messages) for found in group.values() for one in found}
    known = sorted(ids - {None})
    return {
        row.id: Someone(row.display_name, row.may_learn)
        for start in range(0, len(known), 1000)
        for row in tx.execute(_PEOPLE, ids=known[start : start + 1000])
    }


def _source(
    row: Any, messages: list[Any], reviews: list[Any], votes: list[Any], people: Mapping[str, Someone]
) -> Source:
    opinions: dict[str, list[Opinion]] = defaultdict(list)
    for one in votes:
        opinions[one.reply_id].append(Opinion(one.id, one.person_id, one.value, one.better, one.created_at))
    present = {row.person_id} | {one.person_id for one in (*messages, *votes)}
    return Source(
        id=row.id, channel=row.channel, person_id=row.person_id, instructions=row.instructions,
        split_group=row.split_group, is_imported=row.import_id is not None, may_learn=row.may_learn,
        context_from_seq=row.context_from_seq, messages=tuple(_said(one) for one in messages),
        reviews={one.reply_id: Decision(one.decision, one.better, one.created_at) for one in reviews},
        votes={reply_id: tuple(found) for reply_id, found in opinions.items()},
        people={one: people[one] for one in present if one in people},
    )  # fmt: skip


def _said(row: Any) -> Said:
    what = Message(
        row.id, row.seq, row.author, tuple(row.parts), row.created_at, row.external_id, row.reply_state, row.origin
    )
    return Said(what, row.person_id, row.draft, row.superseded_at is not None, row.first_seq)


# --- writing ---

_INSERT = scoped(sa.insert(dataset).values(created_at=now_ms()))
_INSERT_EXAMPLE = scoped(sa.insert(dataset_example))
_is_this = dataset.c.id == bindparam("which")
_DRAFT = scoped(sa.select(dataset.c.id).where(_is_this, dataset.c.sha256 == bindparam("draft_sha256")))
_FINISH = scoped(
    sa.update(dataset)
    .where(_is_this, dataset.c.sha256 == bindparam("draft_sha256"))
    .values(sha256=bindparam("final_sha256"), counts=bindparam("final_counts"))
)
_DELETE = scoped(sa.delete(dataset).where(_is_this))
_DELETE_DRAFT = scoped(sa.delete(dataset).where(_is_this, dataset.c.sha256 == bindparam("draft_sha256")))
_DELETE_OLD_DRAFTS = scoped(
    sa.delete(dataset).where(
        dataset.c.sha256.startswith(DRAFT), dataset.c.created_at < now_ms() - bindparam("lives", type_=sa.BigInteger)
    )
)


class NoSuchDraft(LookupError):
    """There is no dataset being written with this id: it was left for too long, or somebody was erased meanwhile."""


def begin(tx: Transaction, settings: Mapping[str, Any], created_by: str, after_erasures: int | None = None) -> str:
    """Begin a dataset that nobody sees until it is finished; its id. Those that somebody began and left are removed.

    `after_erasures` is what `erasure.how_many` said before the first of its words was read. Raises `NoSuchDraft` if
    somebody has been erased since; a later erasure removes what was begun.
    """
    if after_erasures is not None and erasure.lock(tx) != after_erasures:
        raise NoSuchDraft("somebody was erased since its words were read")
    tx.execute(_DELETE_OLD_DRAFTS, lives=DRAFT_LIVES_MS)
    draft_id = new_id()
    tx.execute(
        _INSERT, id=draft_id, sha256=DRAFT + draft_id, settings=dict(settings), counts={}, created_by=created_by
    )  # fmt: skip
    return draft_id


def add(tx: Transaction, draft_id: str, first_number: int, rows: Sequence[Example | Rejected]) -> None:
    """Write the next examples, and what was left out, of a dataset that was begun. Raises `NoSuchDraft`."""
    _check_draft(tx, draft_id)
    for number, one in enumerate(rows, first_number):
        of_kind = (
            {"sha256": one.sha256, "split": one.split, "content": _content(one), "rejected_because": None}
            if isinstance(one, Example)
            else {"sha256": "", "split": None, "content": None, "rejected_because": one.because}
        )
        tx.insert(
            _INSERT_EXAMPLE, dataset_id=draft_id, number=number, kind=one.kind, source=one.source,
            conversation_id=one.conversation_id, message_id=one.message_id, person_id=one.person_id, **of_kind,
        )  # fmt: skip


def finish(tx: Transaction, draft_id: str, sha256: str, counts: Mapping[str, Any]) -> Dataset:
    """Make a dataset known. If there is one with the same examples already, that is returned and this one removed.

    Raises `NoSuchDraft`.
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


def abandon(tx: Transaction, draft_id: str) -> bool:
    """Remove a dataset that will not be finished. False if it is not there any more, or is finished."""
    return tx.execute(_DELETE_DRAFT, which=draft_id, draft_sha256=DRAFT + draft_id).rowcount > 0


def _check_draft(tx: Transaction, draft_id: str) -> None:
    if tx.execute(_DRAFT, which=draft_id, draft_sha256=DRAFT + draft_id).first() is None:
        raise NoSuchDraft(draft_id)


def _content(example: Example) -> dict[str, Any]:
    return {
        "messages": [dict(one) for one in example.messages], "chosen": example.chosen, "rejected": example.rejected,
        "good": example.good,
    }  # fmt: skip


# --- reading ---

_datasets = sa.select(
    dataset.c.id, dataset.c.sha256, dataset.c.settings, dataset.c.counts, dataset.c.created_by, dataset.c.created_at
)
_BY_SHA256 = scoped(_datasets.where(dataset.c.sha256 == bindparam("wanted_sha256")))
_LIST = scoped(_datasets.where(~dataset.c.sha256.startswith(DRAFT)).order_by(dataset.c.created_at.desc(), dataset.c.id))
_next_rows = sa.and_(dataset_example.c.dataset_id == bindparam("which"), dataset_example.c.number > bindparam("after"))
_columns = (
    dataset_example.c.number, dataset_example.c.kind, dataset_example.c.source, dataset_example.c.conversation_id,
    dataset_example.c.message_id, dataset_example.c.person_id,
)  # fmt: skip
_most = bindparam("most", type_=sa.Integer)
_EXAMPLES = scoped(
    sa.select(*_columns, dataset_example.c.split, dataset_example.c.content)
    .where(_next_rows, dataset_example.c.split.is_not(None), dataset_example.c.content.is_not(None))
    .where(sa.or_(dataset_example.c.split == bindparam("split"), bindparam("any_split", type_=sa.Boolean)))
    .order_by(dataset_example.c.number)
    .limit(_most)
)
_HASHES = scoped(
    sa.select(dataset_example.c.sha256).where(
        dataset_example.c.dataset_id == bindparam("which"), dataset_example.c.split.is_not(None),
        dataset_example.c.content.is_not(None),
    )
)  # fmt: skip
_REJECTED = scoped(
    sa.select(*_columns, dataset_example.c.rejected_because)
    .where(_next_rows, dataset_example.c.rejected_because.is_not(None))
    .order_by(dataset_example.c.number)
    .limit(_most)
)


def find_by_sha256(tx: Transaction, sha256: str) -> Dataset | None:
    """The dataset with these examples."""
    row = tx.execute(_BY_SHA256, wanted_sha256=sha256).first()
    return Dataset(**row._mapping) if row else None


def list_all(tx: Transaction) -> list[Dataset]:
    """All that are finished, newest first."""
    return [Dataset(**row._mapping) for row in tx.execute(_LIST)]


def examples_page(
    tx: Transaction, dataset_id: str, split: str | None, after: int = -1, most: int = 500
) -> list[tuple[int, Example]]:
    """The next examples after a number, of one split or of both (None), each with its number.

    Those whose words have been erased are left out.
    """
    rows = tx.execute(_EXAMPLES, which=dataset_id, split=split or "", any_split=split is None, after=after, most=most)
    return [(row.number, _example(row)) for row in rows]


def example_hashes(tx: Transaction, dataset_id: str) -> set[str]:
    """The SHA-256 of each example of a dataset whose words have not been erased."""
    return set(tx.execute(_HASHES, which=dataset_id).scalars())


_CONSENT = scoped(
    sa.select(
        dataset_example.c.number, dataset_example.c.conversation_id, person.c.may_learn.label("of_person"),
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
)  # fmt: skip
_SAID_NO_IN = scoped(
    sa.select(message.c.conversation_id)
    .distinct()
    .join(person, person.c.id == message.c.person_id)
    .join(dataset_example, dataset_example.c.conversation_id == message.c.conversation_id)
    .where(dataset_example.c.dataset_id == bindparam("which"), person.c.may_learn.is_(False))
)
_HAS_ERASED = scoped(
    sa.select(dataset_example.c.number)
    .where(
        dataset_example.c.dataset_id == bindparam("which"), dataset_example.c.split.is_not(None),
        dataset_example.c.content.is_(None),
    )
    .limit(1)
)  # fmt: skip


def consent_now(tx: Transaction, dataset_id: str) -> dict[int, Choices]:
    """What holds now for each example of a dataset that has words: what its person said, and what was said of its
    conversation. The no of anybody who wrote in it stands as the person's."""
    refused = set(tx.execute(_SAID_NO_IN, which=dataset_id).scalars())
    return {
        row.number: Choices(False if row.conversation_id in refused else row.of_person, row.of_conversation)
        for row in tx.execute(_CONSENT, which=dataset_id)
    }


def has_erased(tx: Transaction, dataset_id: str) -> bool:
    """Whether somebody's words were erased out of a dataset's examples."""
    return tx.execute(_HAS_ERASED, which=dataset_id).first() is not None


def _example(row: Any) -> Example:
    content = row.content
    return Example(
        row.kind, row.source, row.split, row.conversation_id, row.message_id, row.person_id,
        tuple(content["messages"]), content["chosen"], content["rejected"], content["good"],
    )  # fmt: skip


def rejected_page(tx: Transaction, dataset_id: str, after: int = -1, most: int = 500) -> list[tuple[int, Rejected]]:
    """What was left out, after a number."""
    rows = tx.execute(_REJECTED, which=dataset_id, after=after, most=most)
    return [
        (
            row.number,
            Rejected(row.kind, row.source, row.conversation_id, row.message_id, row.person_id, row.rejected_because),
        )
        for row in rows
    ]
