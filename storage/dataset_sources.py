"""Conversations with votes and reviews, in pages, to build datasets.

Pages keep each transaction short. `bot.learning.data` decides which rows make an example.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import bindparam

from storage.learning_schema import review
from storage.schema import conversation, message, person, reply, reply_passage, vote
from storage.transaction import Transaction, scoped
from storage.values import Message, SeenPassage


@dataclass(frozen=True, slots=True)
class Said:
    """A message with the facts about it that matter for learning."""

    message: Message
    person_id: str | None
    draft: str | None
    is_superseded: bool
    first_seq: int | None
    passages: tuple[SeenPassage, ...] = ()


@dataclass(frozen=True, slots=True)
class Opinion:
    """A current vote: neither replaced nor withdrawn."""

    id: str
    person_id: str
    value: int
    better: str | None
    created_at: int


@dataclass(frozen=True, slots=True)
class StaffDecision:
    """The current review of a reply."""

    decision: Literal["approve", "correct", "exclude"]
    better: str | None
    created_at: int


@dataclass(frozen=True, slots=True)
class Someone:
    """A person of a conversation, with their name and their consent (None: not given)."""

    display_name: str | None
    may_learn: bool | None


@dataclass(frozen=True, slots=True)
class Source:
    """A conversation to learn from. `reviews` and `votes` are keyed by reply id, `people` by person id."""

    id: str
    channel: str
    person_id: str | None
    instructions: str | None
    split_group: str | None
    is_imported: bool
    may_learn: bool | None
    context_from_seq: int
    messages: tuple[Said, ...]
    reviews: Mapping[str, StaffDecision]
    votes: Mapping[str, tuple[Opinion, ...]]
    people: Mapping[str, Someone]


_ids: sa.BindParameter[str] = bindparam("ids", expanding=True)
_COUNT = scoped(sa.select(sa.func.count(conversation.c.id)))
_CONVERSATIONS = scoped(
    sa.select(
        conversation.c.id,
        conversation.c.channel,
        conversation.c.person_id,
        conversation.c.instructions,
        conversation.c.split_group,
        conversation.c.import_id,
        conversation.c.may_learn,
        conversation.c.context_from_seq,
    )
    .where(conversation.c.id > bindparam("after"))
    .order_by(conversation.c.id)
    .limit(bindparam("most", type_=sa.Integer))
)
_WITH_AGENTS = scoped(
    sa.select(message.c.conversation_id)
    .distinct()
    .where(message.c.conversation_id.in_(_ids), message.c.author == "agent")
)
_VOTES = scoped(
    sa.select(
        vote.c.conversation_id,
        vote.c.reply_id,
        vote.c.id,
        vote.c.person_id,
        vote.c.value,
        vote.c.better,
        vote.c.created_at,
    )
    .where(vote.c.conversation_id.in_(_ids), vote.c.replaced_at.is_(None))
    .order_by(vote.c.id)
)
_REVIEWS = scoped(
    sa.select(
        review.c.conversation_id, review.c.reply_id, review.c.decision, review.c.better, review.c.created_at
    ).where(review.c.conversation_id.in_(_ids), review.c.replaced_at.is_(None))
)
_MESSAGES = scoped(
    sa.select(
        message.c.conversation_id,
        message.c.id,
        message.c.seq,
        message.c.author,
        message.c.parts,
        message.c.created_at,
        message.c.external_id,
        message.c.person_id,
        message.c.draft,
        message.c.superseded_at,
        reply.c.state.label("reply_state"),
        reply.c.origin,
        reply.c.first_seq,
    )
    .select_from(
        message.outerjoin(
            reply, sa.and_(reply.c.message_id == message.c.id, reply.c.workspace_id == message.c.workspace_id)
        )
    )
    .where(message.c.conversation_id.in_(_ids))
    .order_by(message.c.seq, message.c.rank)
)
_PASSAGES = scoped(
    sa.select(
        reply_passage.c.message_id,
        reply_passage.c.number,
        reply_passage.c.article_id,
        reply_passage.c.name,
        reply_passage.c.title,
        reply_passage.c.headings,
        reply_passage.c.url,
        reply_passage.c.audience,
        reply_passage.c.text,
        reply_passage.c.score,
    )
    .join(message, message.c.id == reply_passage.c.message_id)
    .where(message.c.conversation_id.in_(_ids))
    .order_by(reply_passage.c.message_id, reply_passage.c.number)
)
_PEOPLE = scoped(sa.select(person.c.id, person.c.display_name, person.c.may_learn).where(person.c.id.in_(_ids)))


def count_conversations(tx: Transaction) -> int:
    """Count all conversations, for the progress of a build."""
    return int(tx.execute(_COUNT).scalar_one())


def sources_page(tx: Transaction, after: str, most: int = 200) -> tuple[list[Source], int, str]:
    """Read the next `most` conversations after an id; return `(sources, number of conversations read, last id)`.

    Conversations without a vote, a review or a human agent's message are left out of the sources.
    """
    rows = tx.execute(_CONVERSATIONS, after=after, most=most).all()
    if not rows:
        return [], 0, after
    ids = [row.id for row in rows]
    votes = _by_conversation(tx.execute(_VOTES, ids=ids))
    reviews = _by_conversation(tx.execute(_REVIEWS, ids=ids))
    wanted = votes.keys() | reviews.keys() | {row.conversation_id for row in tx.execute(_WITH_AGENTS, ids=ids)}
    messages = _by_conversation(tx.execute(_MESSAGES, ids=sorted(wanted))) if wanted else {}
    seen = _passages(tx, sorted(wanted))
    chosen = [row for row in rows if row.id in wanted]
    people = _people(tx, chosen, votes, messages)
    found = [
        _source(row, messages.get(row.id, []), reviews.get(row.id, []), votes.get(row.id, []), people, seen)
        for row in chosen
    ]
    return found, len(rows), ids[-1]


def _by_conversation(rows: Iterable[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        found[row.conversation_id].append(row)
    return found


def _passages(tx: Transaction, conversation_ids: Sequence[str]) -> dict[str, list[SeenPassage]]:
    """Return the passages that replies were made from, by reply id."""
    found: dict[str, list[SeenPassage]] = defaultdict(list)
    for row in tx.execute(_PASSAGES, ids=conversation_ids) if conversation_ids else ():
        values = {**row._mapping, "headings": tuple(row.headings)}
        found[values.pop("message_id")].append(SeenPassage(**values))
    return found


def _people(
    tx: Transaction, rows: Sequence[Any], votes: Mapping[str, list[Any]], messages: Mapping[str, list[Any]]
) -> dict[str, Someone]:
    ids = {row.person_id for row in rows}
    ids |= {item.person_id for group in (votes, messages) for found in group.values() for item in found}
    known = sorted(ids - {None})
    return {
        row.id: Someone(row.display_name, row.may_learn)
        for start in range(0, len(known), 1000)
        for row in tx.execute(_PEOPLE, ids=known[start : start + 1000])
    }


def _source(
    row: Any,
    messages: list[Any],
    reviews: list[Any],
    votes: list[Any],
    people: Mapping[str, Someone],
    seen: Mapping[str, list[SeenPassage]],
) -> Source:
    opinions: dict[str, list[Opinion]] = defaultdict(list)
    for given in votes:
        opinions[given.reply_id].append(Opinion(given.id, given.person_id, given.value, given.better, given.created_at))
    present = {row.person_id} | {item.person_id for item in (*messages, *votes)}
    return Source(
        id=row.id,
        channel=row.channel,
        person_id=row.person_id,
        instructions=row.instructions,
        split_group=row.split_group,
        is_imported=row.import_id is not None,
        may_learn=row.may_learn,
        context_from_seq=row.context_from_seq,
        messages=tuple(_said(each, seen) for each in messages),
        reviews={each.reply_id: StaffDecision(each.decision, each.better, each.created_at) for each in reviews},
        votes={reply_id: tuple(found) for reply_id, found in opinions.items()},
        people={person_id: people[person_id] for person_id in present if person_id in people},
    )


def _said(row: Any, seen: Mapping[str, list[SeenPassage]]) -> Said:
    read = Message(
        row.id, row.seq, row.author, tuple(row.parts), row.created_at, row.external_id, row.reply_state, row.origin
    )
    passages = tuple(seen.get(row.id, ()))
    return Said(read, row.person_id, row.draft, row.superseded_at is not None, row.first_seq, passages)
