"""Export of conversations in pages, with messages, votes and reviews."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa
from sqlalchemy import bindparam

from storage.learning_schema import review
from storage.schema import conversation, conversation_work, message, person, reply, vote
from storage.transaction import Transaction, scoped
from storage.values import Message

Decision = Literal["approve", "correct", "exclude"]


@dataclass(frozen=True, slots=True)
class ExportedVote:
    """A current vote; `may_learn` is its voter's consent."""

    value: int
    reason: str | None
    better: str | None
    may_learn: bool | None


@dataclass(frozen=True, slots=True)
class ExportedReview:
    """The current review of a reply."""

    decision: Decision
    better: str | None


@dataclass(frozen=True, slots=True)
class ExportedMessage:
    """A message, the votes on it oldest first; `may_learn` is the consent of its author, if that is a person."""

    message: Message
    draft: str | None
    may_learn: bool | None
    votes: tuple[ExportedVote, ...]
    review: ExportedReview | None


@dataclass(frozen=True, slots=True)
class ExportedConversation:
    """A conversation with its visible messages. `person_may_learn` is the consent of its person."""

    id: str
    channel: str
    external_id: str
    title: str
    person_id: str | None
    instructions: str | None
    split_group: str | None
    may_learn: bool | None
    person_may_learn: bool | None
    messages: tuple[ExportedMessage, ...]


_columns = (
    conversation.c.id,
    conversation.c.channel,
    conversation.c.external_id,
    conversation.c.title,
    conversation.c.person_id,
    conversation.c.instructions,
    conversation.c.split_group,
    conversation.c.may_learn,
    person.c.may_learn.label("person_may_learn"),
)
_own_person = sa.and_(person.c.id == conversation.c.person_id, person.c.workspace_id == conversation.c.workspace_id)
_PAGE = scoped(
    sa.select(*_columns)
    .select_from(
        conversation.join(conversation_work, conversation_work.c.conversation_id == conversation.c.id).outerjoin(
            person, _own_person
        )
    )
    .where(
        conversation.c.id > bindparam("after"),
        conversation_work.c.updated_at >= bindparam("since"),
        sa.or_(conversation.c.channel == bindparam("channel"), bindparam("any_channel", type_=sa.Boolean)),
    )
    .order_by(conversation.c.id)
    .limit(bindparam("most", type_=sa.Integer))
)
_ids: sa.BindParameter[list[str]] = bindparam("ids", expanding=True)
_reply_of = sa.and_(reply.c.message_id == message.c.id, reply.c.workspace_id == message.c.workspace_id)
_author_of = sa.and_(person.c.id == message.c.person_id, person.c.workspace_id == message.c.workspace_id)
_message_columns = (
    message.c.id,
    message.c.seq,
    message.c.author,
    message.c.parts,
    message.c.created_at,
    message.c.external_id,
    reply.c.state.label("reply_state"),
    reply.c.origin,
)
_MESSAGES = scoped(
    sa.select(*_message_columns, message.c.conversation_id, message.c.draft, person.c.may_learn)
    .select_from(message.outerjoin(reply, _reply_of).outerjoin(person, _author_of))
    .where(message.c.conversation_id.in_(_ids), message.c.superseded_at.is_(None))
    .order_by(message.c.conversation_id, message.c.seq, message.c.rank)
)
_VOTES = scoped(
    sa.select(vote.c.reply_id, vote.c.value, vote.c.reason, vote.c.better, person.c.may_learn)
    .join(person, person.c.id == vote.c.person_id)
    .where(vote.c.conversation_id.in_(_ids), vote.c.replaced_at.is_(None))
    .order_by(vote.c.id)
)
_REVIEWS = scoped(
    sa.select(review.c.reply_id, review.c.decision, review.c.better).where(
        review.c.conversation_id.in_(_ids), review.c.replaced_at.is_(None)
    )
)


def page(
    tx: Transaction, after: str, since: int, channel: str | None, most: int = 100
) -> Sequence[ExportedConversation]:
    """Return the next `most` conversations after an id that were used since then, in the order of their ids.

    `since` is in milliseconds since 1970 (UTC).
    """
    found = tx.execute(
        _PAGE, after=after, since=since, channel=channel or "", any_channel=channel is None, most=most
    ).all()
    messages = _messages(tx, [row.id for row in found]) if found else {}
    return [ExportedConversation(**row._mapping, messages=tuple(messages.get(row.id, ()))) for row in found]


def _messages(tx: Transaction, ids: Sequence[str]) -> dict[str, list[ExportedMessage]]:
    """Read the messages of these conversations, by conversation id, in three statements."""
    votes: dict[str, list[ExportedVote]] = defaultdict(list)
    for row in tx.execute(_VOTES, ids=ids):
        votes[row.reply_id].append(ExportedVote(row.value, row.reason, row.better, row.may_learn))
    reviews = {row.reply_id: ExportedReview(row.decision, row.better) for row in tx.execute(_REVIEWS, ids=ids)}
    messages: dict[str, list[ExportedMessage]] = defaultdict(list)
    for row in tx.execute(_MESSAGES, ids=ids):
        read = Message(
            row.id, row.seq, row.author, tuple(row.parts), row.created_at, row.external_id, row.reply_state, row.origin
        )
        messages[row.conversation_id].append(
            ExportedMessage(read, row.draft, row.may_learn, tuple(votes.get(row.id, ())), reviews.get(row.id))
        )
    return messages
