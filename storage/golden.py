"""Golden questions, which every version must answer within rules.

A removed question leaves an emptied row. `bot.learning.judge` gives the rules their meaning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from storage.learning_schema import golden_question
from storage.transaction import Transaction, now_ms, scoped
from storage.values import new_id

# A shorter name would match too many questions that name nobody.
MIN_NAME_CHARS = 3


@dataclass(frozen=True, slots=True)
class GoldenQuestion:
    """A golden question. `messages` are `{"role", "content"}`, the user's last; `judge.answer_rules` reads `rules`."""

    id: str
    messages: Sequence[Mapping[str, str]]
    rules: Mapping[str, Any]
    created_by: str
    created_at: int


_INSERT = scoped(sa.insert(golden_question).values(created_at=now_ms()))


def add(tx: Transaction, messages: Sequence[Mapping[str, str]], rules: Mapping[str, Any], created_by: str) -> str:
    """Add a question for every later evaluation and return its id."""
    question_id = new_id()
    tx.execute(
        _INSERT, id=question_id, messages=[dict(each) for each in messages], rules=dict(rules), created_by=created_by
    )
    return question_id


_LIST = scoped(
    sa.select(*[getattr(golden_question.c, name) for name in GoldenQuestion.__slots__])
    .where(golden_question.c.removed_at.is_(None))
    .order_by(golden_question.c.id)
)


def list_all(tx: Transaction) -> list[GoldenQuestion]:
    """Return the questions in use, oldest first."""
    return [GoldenQuestion(**row._mapping) for row in tx.execute(_LIST)]


_EVERY = scoped(
    sa.select(golden_question.c.id, golden_question.c.messages, golden_question.c.rules).order_by(golden_question.c.id)
)


def that_hold(tx: Transaction, names: Sequence[str]) -> list[str]:
    """Return the ids of questions whose messages or rules contain one of these names as a word."""
    words = [name.strip() for name in names if len(name.strip()) >= MIN_NAME_CHARS]
    if not words:
        return []
    sought = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE)
    return [
        row.id for row in tx.execute(_EVERY) if any(sought.search(text) for text in _texts([row.messages, row.rules]))
    ]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts(list(value.values()))
    elif isinstance(value, Sequence):
        for item in value:
            yield from _texts(item)


_REMOVE = scoped(
    sa.update(golden_question)
    .where(golden_question.c.id == bindparam("which"), golden_question.c.removed_at.is_(None))
    .values(removed_at=now_ms(), messages=bindparam("no_messages"), rules=bindparam("no_rules"))
)


def remove(tx: Transaction, question_id: str) -> bool:
    """Remove a question and its words; False if there is no such question in use."""
    return tx.execute(_REMOVE, which=question_id, no_messages=[], no_rules={}).rowcount > 0
