"""Erasure of a person: every row with their words or identity.

A conversation that is the person's alone is deleted. Where others wrote, too, the person's messages and the replies to
them are emptied but keep their rows, so that the order of the others stays. Dataset examples lose their content and
keep row and hash, as a record of the examples that a version has learnt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from storage import curated, evaluations, golden, inbox
from storage.learning_schema import dataset, dataset_example, erasure, model_version, release, review
from storage.learning_values import DRAFT
from storage.schema import conversation, identity, message, outbox, person, reply, vote
from storage.schema import inbox as accepted
from storage.transaction import Transaction, now_ms, scoped
from storage.values import new_id

# Conversations named in one statement.
PAGE = 1000


@dataclass(frozen=True, slots=True)
class Traces:
    """The places of a person's words: own and shared conversations, datasets, and versions trained on these.

    `names` are the person's ids on channels (`web:...`), `called` the display names, `golden` the ids of golden
    questions that contain any of them.
    """

    person_id: str
    names: tuple[str, ...]
    called: tuple[str, ...]
    own: tuple[str, ...]
    shared: tuple[str, ...]
    datasets: tuple[str, ...]
    versions: tuple[str, ...]
    golden: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Proof:
    """Proof of an erasure: rows by table, and the names of versions that had learnt the person's words."""

    counts: Mapping[str, int]
    versions: tuple[str, ...]
    created_by: str
    created_at: int


_touched = sa.or_(
    dataset_example.c.person_id == bindparam("who"),
    dataset_example.c.conversation_id.in_(bindparam("conversations", expanding=True)),
)
_HOW_MANY = scoped(sa.select(sa.func.count(erasure.c.id)))


def how_many(tx: Transaction) -> int:
    """Count the proofs of erasures. A changed count tells that a person was erased meanwhile."""
    return int(tx.execute(_HOW_MANY).scalar_one())


def _take_turn(insert: Any) -> sa.Executable:
    """Lock the workspace's one row of `release` without changing it: a mutex for erasures."""
    fresh = insert(release).values(number=0, champion_id=None, previous_id=None, canary_id=None, updated_at=now_ms())
    clause: sa.Executable = fresh.on_conflict_do_update(
        index_elements=[release.c.workspace_id], set_={"number": release.c.number}
    )
    return clause


_TAKE_TURN = scoped(_take_turn)


def lock(tx: Transaction) -> int:
    """Wait for a running erasure, block others until this transaction ends, and return `how_many`."""
    tx.execute(_TAKE_TURN)
    return how_many(tx)


_HOLD_PERSON = scoped(sa.select(person.c.id).where(person.c.id == bindparam("who")).with_for_update())
_DELETE_DRAFTS = scoped(sa.delete(dataset).where(dataset.c.sha256.startswith(DRAFT)))


def begin(tx: Transaction, person_id: str) -> bool:
    """Begin an erasure, before `traces`; False if there is no such person.

    Lock the person's row, so that no more messages are stored under it, and delete dataset drafts, as these may hold
    the person's words.
    """
    lock(tx)
    if tx.execute(_HOLD_PERSON, who=person_id).first() is None:
        return False
    tx.execute(_DELETE_DRAFTS)
    return True


_PERSON = scoped(sa.select(person.c.id).where(person.c.id == bindparam("who")))
_BY_NAME = scoped(
    sa.select(identity.c.person_id).where(
        identity.c.channel == bindparam("on_channel"), identity.c.external_id == bindparam("external")
    )
)


def find_person(tx: Transaction, name: str) -> str | None:
    """Return the id of a person, given that id or a channel's name for them: `web:...`, `slack:T1/U2`."""
    channel, _, external = name.partition(":")
    found = (
        tx.execute(_PERSON, who=name).scalar() or tx.execute(_BY_NAME, on_channel=channel, external=external).scalar()
    )
    return None if found is None else str(found)


_NAMES = scoped(
    sa.select(identity.c.channel, identity.c.external_id)
    .where(identity.c.person_id == bindparam("who"))
    .order_by(identity.c.id)
)
_CALLED = scoped(sa.select(person.c.display_name).where(person.c.id == bindparam("who")))
_WRITTEN_IN = scoped(sa.select(message.c.conversation_id).distinct().where(message.c.person_id == bindparam("who")))
_BEGUN = scoped(sa.select(conversation.c.id).where(conversation.c.person_id == bindparam("who")))
_OTHERS = scoped(
    sa.select(message.c.id)
    .where(
        message.c.conversation_id == bindparam("conversation"),
        message.c.author == "person",
        message.c.person_id != bindparam("who"),
    )
    .limit(1)
)
_LEARNT_BY = scoped(
    sa.select(model_version.c.id, model_version.c.number)
    .distinct()
    .join(dataset_example, dataset_example.c.dataset_id == model_version.c.dataset_id)
    .where(dataset_example.c.split == "train", _touched)
    .order_by(model_version.c.number)
)
_TOUCHED_DATASETS = scoped(
    sa.select(dataset_example.c.dataset_id)
    .distinct()
    .where(_touched, dataset_example.c.split.is_not(None), dataset_example.c.content.is_not(None))
    .order_by(dataset_example.c.dataset_id)
)


def traces(tx: Transaction, person_id: str) -> Traces:
    """Find the places of a person's words."""
    names = [f"{row.channel}:{row.external_id}" for row in tx.execute(_NAMES, who=person_id)]
    both = {*tx.execute(_WRITTEN_IN, who=person_id).scalars(), *tx.execute(_BEGUN, who=person_id).scalars()}
    shared = {
        conversation_id
        for conversation_id in both
        if tx.execute(_OTHERS, conversation=conversation_id, who=person_id).first() is not None
    }
    learnt: dict[str, int] = {}
    datasets: set[str] = set()
    for some in _pages(sorted(both)):
        learnt |= {row.id: row.number for row in tx.execute(_LEARNT_BY, who=person_id, conversations=some)}
        datasets |= set(tx.execute(_TOUCHED_DATASETS, who=person_id, conversations=some).scalars())
    called = [name for name in tx.execute(_CALLED, who=person_id).scalars() if name and name.strip()]
    externals = [name.partition(":")[2] for name in names]
    return Traces(
        person_id,
        tuple(names),
        tuple(called),
        tuple(sorted(both - shared)),
        tuple(sorted(shared)),
        tuple(sorted(datasets)),
        tuple(sorted(learnt, key=learnt.__getitem__)),
        tuple(golden.that_hold(tx, [*called, *externals])),
    )


def _pages(conversations: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield pages of ids, at least one (perhaps empty): SQLite takes at most 32,766 parameters."""
    for start in range(0, max(len(conversations), 1), PAGE):
        yield conversations[start : start + PAGE]


_FORGET_EXAMPLES = scoped(
    sa.update(dataset_example)
    .where(_touched, dataset_example.c.content.is_not(None))
    .values(content=bindparam("nothing"))
)
# A changed hash keeps `datasets.finish` from returning this dataset for a new draft with the erased words.
_RENAME_DATASET = scoped(
    sa.update(dataset)
    .where(dataset.c.id == bindparam("which"), ~dataset.c.sha256.contains(" less "))
    .values(sha256=dataset.c.sha256 + " less erased words " + dataset.c.id)
)
_DELETE_CONVERSATION = scoped(sa.delete(conversation).where(conversation.c.id == bindparam("conversation")))
_COUNT_MESSAGES = scoped(
    sa.select(sa.func.count()).select_from(message).where(message.c.conversation_id == bindparam("conversation"))
)
_BETTERS = scoped(
    sa.select(vote.c.reply_id, vote.c.better).where(vote.c.person_id == bindparam("who"), vote.c.better.is_not(None))
)
_FORGET_REVIEWS_OF = scoped(
    sa.update(review)
    .where(review.c.reply_id == bindparam("which"), review.c.better == bindparam("words"))
    .values(better=None)
)
_DELETE_VOTES = scoped(sa.delete(vote).where(vote.c.person_id == bindparam("who")))
_DELETE_IDENTITIES = scoped(sa.delete(identity).where(identity.c.person_id == bindparam("who")))
_DELETE_PERSON = scoped(sa.delete(person).where(person.c.id == bindparam("who")))


def erase(tx: Transaction, found: Traces) -> dict[str, int]:
    """Delete or empty everything that `traces` found; return the number of rows by table."""
    counts: Counter[str] = Counter()
    both = [*found.own, *found.shared]
    counts["evaluation_answer"] = evaluations.forget_person(tx, found.person_id, found.datasets)
    for some in _pages(both):
        counts["dataset_example"] += tx.execute(
            _FORGET_EXAMPLES, who=found.person_id, conversations=some, nothing=None
        ).rowcount
    for dataset_id in found.datasets:
        tx.execute(_RENAME_DATASET, which=dataset_id)
    for conversation_id in found.own:
        counts["message"] += tx.execute(_COUNT_MESSAGES, conversation=conversation_id).scalar_one()
        counts["conversation"] += tx.execute(_DELETE_CONVERSATION, conversation=conversation_id).rowcount
    for conversation_id in found.shared:
        counts.update(_leave_gaps(tx, found.person_id, conversation_id))
    for own in tx.execute(_BETTERS, who=found.person_id).all():  # staff may have copied the words
        counts["review"] += tx.execute(_FORGET_REVIEWS_OF, which=own.reply_id, words=own.better.strip()).rowcount
        counts["curated_answer"] += curated.forget_reply(tx, own.reply_id, own.better.strip())
    counts["vote"] += tx.execute(_DELETE_VOTES, who=found.person_id).rowcount
    counts["curated_answer"] += curated.forget_person(tx, found.person_id)
    counts["identity"] = tx.execute(_DELETE_IDENTITIES, who=found.person_id).rowcount
    counts["person"] = tx.execute(_DELETE_PERSON, who=found.person_id).rowcount
    return {name: count for name, count in sorted(counts.items()) if count}


_OWN_MESSAGES = scoped(
    sa.select(message.c.id, message.c.seq).where(
        message.c.conversation_id == bindparam("conversation"), message.c.person_id == bindparam("who")
    )
)
_ANSWERS = scoped(
    sa.select(reply.c.message_id).where(
        reply.c.conversation_id == bindparam("conversation"),
        reply.c.first_seq <= bindparam("at_seq"),
        reply.c.last_seq >= bindparam("at_seq"),
    )
)
_EMPTY_MESSAGE = scoped(
    sa.update(message)
    .where(message.c.id == bindparam("which"))
    .values(parts=bindparam("no_parts"), superseded_at=now_ms(), draft=None, person_id=None)
)
_EMPTY_OWN = scoped(
    sa.update(message)
    .where(message.c.id == bindparam("which"))
    .values(parts=bindparam("no_parts"), superseded_at=now_ms(), draft=None, person_id=None, external_id=None)
)
_FORGET_DRAFTS = scoped(
    sa.update(message)
    .where(message.c.conversation_id == bindparam("conversation"), message.c.draft.is_not(None))
    .values(draft=None)
)
_FORGET_TITLE = scoped(
    sa.update(conversation)
    .where(conversation.c.id == bindparam("conversation"), conversation.c.person_id == bindparam("who"))
    .values(title="")
)
_FORGET_KEY = scoped(
    sa.update(accepted)
    .where(accepted.c.conversation_id == bindparam("conversation"), accepted.c.seq == bindparam("at_seq"))
    .values(dedupe_key=bindparam("new_key"), event_id=None)
)
_DELETE_POSTS = scoped(sa.delete(outbox).where(outbox.c.reply_id == bindparam("which")))
_FORGET_REVIEWS = scoped(sa.update(review).where(review.c.reply_id == bindparam("which")).values(better=None))
_FORGET_OPINIONS = scoped(sa.update(vote).where(vote.c.reply_id == bindparam("which")).values(reason=None, better=None))


def _leave_gaps(tx: Transaction, person_id: str, conversation_id: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    # First, as it locks the conversation's row: a reply in progress, which has seen the words, can't be stored later.
    inbox.fence(tx, conversation_id)
    for own in tx.execute(_OWN_MESSAGES, conversation=conversation_id, who=person_id).all():
        tx.execute(_EMPTY_OWN, which=own.id, no_parts=[])
        tx.execute(_FORGET_KEY, conversation=conversation_id, at_seq=own.seq, new_key=f"erased:{new_id()}")
        counts["message_emptied"] += 1
        for answer in tx.execute(_ANSWERS, conversation=conversation_id, at_seq=own.seq).scalars().all():
            tx.execute(_EMPTY_MESSAGE, which=answer, no_parts=[])
            counts["message_emptied"] += 1
            counts["outbox"] += tx.execute(_DELETE_POSTS, which=answer).rowcount
            counts["review"] += tx.execute(_FORGET_REVIEWS, which=answer).rowcount
            counts["vote"] += tx.execute(_FORGET_OPINIONS, which=answer).rowcount
            counts["curated_answer"] += curated.forget_reply(tx, answer)
    tx.execute(_FORGET_DRAFTS, conversation=conversation_id)
    tx.execute(_FORGET_TITLE, conversation=conversation_id, who=person_id)
    return counts


_INSERT_PROOF = scoped(sa.insert(erasure).values(created_at=now_ms()))


def prove(
    tx: Transaction, subjects: Sequence[str], counts: Mapping[str, int], versions: Sequence[str], actor: str
) -> None:
    """Store the proof of an erasure under each subject, the HMAC of a name of the person."""
    for subject in subjects:
        tx.execute(
            _INSERT_PROOF,
            id=new_id(),
            subject_hmac=subject,
            counts=dict(counts),
            versions=list(versions),
            created_by=actor,
        )


_PROOFS = scoped(
    sa.select(erasure.c.id, erasure.c.counts).where(erasure.c.subject_hmac.in_(bindparam("subjects", expanding=True)))
)
_SET_COUNTS = scoped(
    sa.update(erasure).where(erasure.c.id == bindparam("which")).values(counts=bindparam("new_counts"))
)


def add_to_proof(tx: Transaction, subjects: Sequence[str], removed: Mapping[str, int]) -> None:
    """Add counts of things removed after the rows (files) to the proofs under these HMACs."""
    for row in tx.execute(_PROOFS, subjects=list(subjects)).all():
        total = Counter(row.counts)
        total.update(removed)
        tx.execute(_SET_COUNTS, which=row.id, new_counts=dict(total))


_PROOF = scoped(
    sa.select(erasure.c.counts, erasure.c.versions, erasure.c.created_by, erasure.c.created_at)
    .where(erasure.c.subject_hmac.in_(bindparam("subjects", expanding=True)))
    .order_by(erasure.c.id)
    .limit(1)
)


def find_proof(tx: Transaction, subjects: Sequence[str]) -> Proof | None:
    """Return the proof under any of these HMACs."""
    row = tx.execute(_PROOF, subjects=list(subjects)).first()
    return Proof(row.counts, tuple(row.versions), row.created_by, row.created_at) if row else None
