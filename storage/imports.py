"""Import of finished conversations, all of a file in one transaction.

Imported conversations are never pending, so that no worker claims them, and no channel shows them.
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
# Small enough for memory, large enough that round trips cost nothing.
BATCH = 500

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ImportedMessage:
    """One message. `draft` is the bot's proposal to a human agent; `state` and `vote` belong to the bot's replies."""

    author: Author
    text: str
    draft: str | None = None
    state: ReplyState = "answered"
    vote: Vote | None = None


@dataclass(frozen=True, slots=True)
class ImportedConversation:
    """One conversation of a file. `key` is its id there; messages of people and answers to them alternate."""

    key: str
    messages: tuple[ImportedMessage, ...]
    title: str | None = None
    instructions: str | None = None
    group: str | None = None
    person: str | None = None
    may_learn: bool | None = None


@dataclass(frozen=True, slots=True)
class ImportedFile:
    """The imported file, and the actor who imports it."""

    name: str
    sha256: str
    created_by: str


@dataclass(frozen=True, slots=True)
class TakenIn:
    """Counts of an import. `import_id` is None if all conversations were known, and nothing has changed."""

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
            # An export names conversations of other channels by their id in this database.
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
# In this order a row comes after the rows that it refers to.
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
    """Return those keys whose conversations were imported before, or held here."""
    rows = tx.execute(_KNOWN, keys=list(keys))
    return {row.external_id if row.channel == CHANNEL else row.id for row in rows}


def take_in(
    tx: Transaction,
    rows: Iterable[ImportedConversation],
    file: ImportedFile,
    advance: Callable[[int], None] = lambda _: None,
) -> TakenIn:
    """Store all unknown conversations, with an audit row. `rows` is iterated again if the commit fails.

    `advance` is called after each batch with the number of its conversations.
    """
    import_id, conversations, messages, known = new_id(), 0, 0, 0
    for batch in _batches(rows):
        old = known_keys(tx, [each.key for each in batch])
        fresh = [each for each in batch if each.key not in old]
        _insert(tx, _rows_of(fresh, import_id, _people(tx, fresh)))
        conversations += len(fresh)
        messages += sum(len(each.messages) for each in fresh)
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
    """The people of a batch: ids by name, and the names that are new."""

    ids: dict[str, str]
    new: list[str]


def _people(tx: Transaction, batch: Sequence[ImportedConversation]) -> _People:
    """Look up the people of a batch in one statement; a statement a person would take most of the import's time."""
    names = list(dict.fromkeys(name for each in batch if (name := _person_of(each)) is not None))
    ids = {row.external_id: row.person_id for row in tx.execute(_KNOWN_PEOPLE, names=names)} if names else {}
    new = [name for name in names if name not in ids]
    return _People(ids | {name: new_id() for name in new}, new)


def _person_of(imported: ImportedConversation) -> str | None:
    """Return the name of the conversation's person.

    A vote needs a voter: where the file names nobody, a conversation with votes gets a person of its own.
    """
    if imported.person is None and any(each.vote for each in imported.messages):
        return f"conversation:{imported.key}"
    return imported.person


def _rows_of(
    batch: Sequence[ImportedConversation], import_id: str, people: _People
) -> Mapping[sa.Table, Sequence[Row]]:
    rows: dict[sa.Table, list[Row]] = {table: [] for table in _INSERTS}
    for name in people.new:
        rows[person].append({"id": people.ids[name]})
        rows[identity].append({"id": new_id(), "person_id": people.ids[name], "external_id": name})
    # Ids made within the same 4096th of a millisecond sort by chance: sorted first, they keep the order of the file.
    for imported, conversation_id in zip(batch, sorted(new_id() for _ in batch), strict=True):
        asked = [each.text for each in imported.messages if each.author == "person"]
        rows[conversation].append(
            {
                "id": conversation_id,
                "external_id": imported.key,
                "person_id": people.ids.get(imported.person or ""),
                "title": shorten_title(imported.title or "") or shorten_title(asked[0]),
                "instructions": imported.instructions,
                "split_group": imported.group,
                "may_learn": imported.may_learn,
                "import_id": import_id,
            }
        )
        # As if each message had had a turn of its own: should the conversation go on, its next turn has a new epoch.
        rows[conversation_work].append(
            {
                "conversation_id": conversation_id,
                "enq_seq": len(asked),
                "done_seq": len(asked),
                "epoch": len(imported.messages),
            }
        )
        _add_messages(rows, imported, conversation_id, people)
    return rows


def _add_messages(
    rows: dict[sa.Table, list[Row]], imported: ImportedConversation, conversation_id: str, people: _People
) -> None:
    owner, voter, seq = people.ids.get(imported.person or ""), people.ids.get(_person_of(imported) or ""), 0
    for number, each in enumerate(imported.messages, 1):
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
