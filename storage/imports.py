"""Conversations that came from a file: all of them in one transaction, as if they had been held here and ended.

Knows: which rows an imported conversation has. Does not know: files, their forms. Nothing here is ever pending, so that
no worker claims it; nobody on a channel sees it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from storage import audit
from storage.conversations import shorten_title
from storage.learning_schema import import_batch
from storage.schema import conversation, conversation_work, identity, message, person, reply, vote
from storage.transaction import Transaction, now_ms, scoped
from storage.values import Author, ReplyState, new_id, text_part
from storage.votes import Vote

CHANNEL = "import"
MODEL = "import"
# Few enough that what waits to be sent is small, many enough that a round trip is nothing.
BATCH = 500

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ImportedMessage:
    """One thing said. `draft` is what the bot had proposed to an agent; `state` and `vote` are of the bot's replies."""

    author: Author
    text: str
    draft: str | None = None
    state: ReplyState = "answered"
    vote: Vote | None = None


@dataclass(frozen=True, slots=True)
class ImportedConversation:
    """One conversation of a file. `key` is its id there; people's messages and answers to them alternate."""

    key: str
    messages: tuple[ImportedMessage, ...]
    title: str | None = None
    instructions: str | None = None
    group: str | None = None
    person: str | None = None
    may_learn: bool | None = None


@dataclass(frozen=True, slots=True)
class ImportedFile:
    """The file they came from, and by whom."""

    name: str
    sha256: str
    created_by: str


@dataclass(frozen=True, slots=True)
class TakenIn:
    """What an import did. `import_id` is None if all was known, and nothing has changed."""

    import_id: str | None
    conversations: int
    messages: int
    known: int


_KNOWN = scoped(
    sa.select(conversation.c.id, conversation.c.channel, conversation.c.external_id).where(
        sa.or_(
            sa.and_(
                conversation.c.channel == CHANNEL, conversation.c.external_id.in_(bindparam("keys", expanding=True))
            ),
            # An export names conversations of other channels by our own id.
            conversation.c.id.in_(bindparam("keys", expanding=True)),
        )
    )
)
_KNOWN_PEOPLE = scoped(
    sa.select(identity.c.external_id, identity.c.person_id).where(
        identity.c.channel == CHANNEL, identity.c.external_id.in_(bindparam("names", expanding=True))
    )
)
_INSERT_BATCH = scoped(sa.insert(import_batch).values(created_at=now_ms()))
# In this order a row comes after those that it refers to.
_INSERTS = {
    person: scoped(sa.insert(person).values(created_at=now_ms())),
    identity: scoped(sa.insert(identity).values(created_at=now_ms(), channel=CHANNEL)),
    conversation: scoped(sa.insert(conversation).values(created_at=now_ms(), channel=CHANNEL)),
    conversation_work: scoped(
        sa.insert(conversation_work).values(
            channel=CHANNEL, updated_at=now_ms(), available_at=now_ms(), retry_at=now_ms()
        )
    ),
    message: scoped(sa.insert(message).values(created_at=now_ms())),
    reply: scoped(sa.insert(reply).values(created_at=now_ms(), model=MODEL)),
    vote: scoped(sa.insert(vote).values(created_at=now_ms())),
}


def known_keys(tx: Transaction, keys: Sequence[str]) -> set[str]:
    """Which of these keys are of conversations that were imported before, or held here."""
    rows = tx.execute(_KNOWN, keys=list(keys))
    return {row.external_id if row.channel == CHANNEL else row.id for row in rows}


def take_in(
    tx: Transaction,
    rows: Iterable[ImportedConversation],
    file: ImportedFile,
    advance: Callable[[int], None] = lambda _: None,
) -> TakenIn:
    """Store all that are not known yet, with an audit row. `rows` may be gone through again if the commit fails.

    `advance` is told after each batch how many conversations it had.
    """
    import_id, conversations, messages, known = new_id(), 0, 0, 0
    for batch in _batches(rows):
        old = known_keys(tx, [one.key for one in batch])
        fresh = [one for one in batch if one.key not in old]
        _insert(tx, _rows_of(fresh, import_id, _people(tx, fresh)))
        conversations += len(fresh)
        messages += sum(len(one.messages) for one in fresh)
        known += len(batch) - len(fresh)
        advance(len(batch))
    if not conversations:
        return TakenIn(None, 0, 0, known)
    tx.insert(
        _INSERT_BATCH,
        id=import_id,
        file_name=file.name,
        sha256=file.sha256,
        conversations=conversations,
        created_by=file.created_by,
    )
    counts = {"conversations": conversations, "messages": messages, "known": known}
    audit.record(tx, file.created_by, "conversations.import", import_id, counts)
    return TakenIn(import_id, conversations, messages, known)


def _batches(rows: Iterable[ImportedConversation]) -> Iterator[list[ImportedConversation]]:
    left = iter(rows)
    while batch := list(itertools.islice(left, BATCH)):
        yield batch


def _insert(tx: Transaction, rows: Mapping[sa.Table, Sequence[Row]]) -> None:
    for table, statement in _INSERTS.items():
        for row in rows[table]:
            tx.insert(statement, **row)


@dataclass(frozen=True, slots=True)
class _People:
    """Who is named in a batch: their ids by name, and the names that are new."""

    ids: dict[str, str]
    new: list[str]


def _people(tx: Transaction, batch: Sequence[ImportedConversation]) -> _People:
    """One look-up for the whole batch; one for each person would take most of the time."""
    names = list(dict.fromkeys(name for one in batch if (name := _person_of(one)) is not None))
    ids = {row.external_id: row.person_id for row in tx.execute(_KNOWN_PEOPLE, names=names)} if names else {}
    new = [name for name in names if name not in ids]
    return _People(ids | {name: new_id() for name in new}, new)


def _person_of(one: ImportedConversation) -> str | None:
    """Whose conversation it is; where nobody is named but a vote needs somebody, one for this conversation alone."""
    if one.person is None and any(each.vote for each in one.messages):
        return f"conversation:{one.key}"
    return one.person


def _rows_of(
    batch: Sequence[ImportedConversation], import_id: str, people: _People
) -> Mapping[sa.Table, Sequence[Row]]:
    rows: dict[sa.Table, list[Row]] = {table: [] for table in _INSERTS}
    for name in people.new:
        rows[person].append({"id": people.ids[name]})
        rows[identity].append({"id": new_id(), "person_id": people.ids[name], "external_id": name})
    # Ids sort by age, and within a millisecond by chance: sorted, they keep the order of the file.
    for one, conversation_id in zip(batch, sorted(new_id() for _ in batch), strict=True):
        asked = [each.text for each in one.messages if each.author == "person"]
        rows[conversation].append(
            {
                "id": conversation_id,
                "external_id": one.key,
                "person_id": people.ids.get(one.person or ""),
                "title": shorten_title(one.title or "") or shorten_title(asked[0]),
                "instructions": one.instructions,
                "split_group": one.group,
                "may_learn": one.may_learn,
                "import_id": import_id,
            }
        )
        # As if each message had had a turn of its own: should it ever go on, what follows has new ids and epochs.
        rows[conversation_work].append(
            {
                "conversation_id": conversation_id,
                "enq_seq": len(asked),
                "done_seq": len(asked),
                "epoch": len(one.messages),
            }
        )
        _add_messages(rows, one, conversation_id, people)
    return rows


def _add_messages(
    rows: dict[sa.Table, list[Row]], one: ImportedConversation, conversation_id: str, people: _People
) -> None:
    owner, voter, seq = people.ids.get(one.person or ""), people.ids.get(_person_of(one) or ""), 0
    for number, each in enumerate(one.messages, 1):
        is_asked = each.author == "person"
        seq += is_asked
        message_id = f"{conversation_id}-{number}"
        rows[message].append(
            {
                "id": message_id,
                "conversation_id": conversation_id,
                "seq": seq,
                "rank": 0 if is_asked else 1,
                "author": each.author,
                "person_id": owner if is_asked else None,
                "parts": [text_part(each.text)],
                "draft": each.draft,
            }
        )
        if each.author == "bot":
            rows[reply].append(
                {
                    "message_id": message_id,
                    "conversation_id": conversation_id,
                    "first_seq": seq,
                    "last_seq": seq,
                    "epoch": number,
                    "state": each.state,
                }
            )
        if each.vote is not None:
            rows[vote].append(
                {
                    "id": new_id(),
                    "conversation_id": conversation_id,
                    "reply_id": message_id,
                    "person_id": voter,
                    "value": each.vote.value,
                    "reason": each.vote.reason,
                    "better": each.vote.better,
                }
            )
