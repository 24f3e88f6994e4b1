"""What there is to learn from: conversations with all that was said of them, read in pages, so that nobody waits long.

Knows: which rows make a conversation. Does not know: what makes an example, or who may be learnt from.
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
    """A message with what is to be known of it for learning."""

    message: Message
    person_id: str | None
    draft: str | None
    is_superseded: bool
    first_seq: int | None
    passages: tuple[SeenPassage, ...] = ()


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
    """What replies were made from, by their ids."""
    found: dict[str, list[SeenPassage]] = defaultdict(list)
    for row in tx.execute(_PASSAGES, ids=conversation_ids) if conversation_ids else ():
        values = {**row._mapping, "headings": tuple(row.headings)}
        found[values.pop("message_id")].append(SeenPassage(**values))
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
    row: Any,
    messages: list[Any],
    reviews: list[Any],
    votes: list[Any],
    people: Mapping[str, Someone],
    seen: Mapping[str, list[SeenPassage]],
) -> Source:
    opinions: dict[str, list[Opinion]] = defaultdict(list)
    for one in votes:
        opinions[one.reply_id].append(Opinion(one.id, one.person_id, one.value, one.better, one.created_at))
    present = {row.person_id} | {one.person_id for one in (*messages, *votes)}
    return Source(
        id=row.id,
        channel=row.channel,
        person_id=row.person_id,
        instructions=row.instructions,
        split_group=row.split_group,
        is_imported=row.import_id is not None,
        may_learn=row.may_learn,
        context_from_seq=row.context_from_seq,
        messages=tuple(_said(one, seen) for one in messages),
        reviews={one.reply_id: Decision(one.decision, one.better, one.created_at) for one in reviews},
        votes={reply_id: tuple(found) for reply_id, found in opinions.items()},
        people={one: people[one] for one in present if one in people},
    )


def _said(row: Any, seen: Mapping[str, list[SeenPassage]]) -> Said:
    what = Message(
        row.id, row.seq, row.author, tuple(row.parts), row.created_at, row.external_id, row.reply_state, row.origin
    )
    passages = tuple(seen.get(row.id, ()))
    return Said(what, row.person_id, row.draft, row.superseded_at is not None, row.first_seq, passages)
