"""API keys with their limits and their usage, a row a request.

A key is stored by the SHA-256 of its secret; the secret itself is never stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from storage.audit import record
from storage.schema import api_key, api_usage, api_usage_day
from storage.transaction import Rollback, Transaction, now_ms, scoped
from storage.values import new_id


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without its secret; `hint` is the secret's beginning. A limit of None means unlimited. Times are in ms."""

    id: str
    name: str
    hint: str
    requests_per_minute: int | None
    tokens_per_day: int | None
    created_at: int
    revoked_at: int | None


@dataclass(frozen=True, slots=True)
class Usage:
    """One request with its model, tokens, times in milliseconds and outcome."""

    api_key_id: str | None
    endpoint: str
    model: str
    version: str | None
    prompt_tokens: int
    completion_tokens: int
    first_token_ms: int | None
    total_ms: int
    outcome: str


_COLUMNS = [getattr(api_key.c, name) for name in ApiKey.__slots__]
_INSERT_KEY = scoped(sa.insert(api_key).values(created_at=now_ms()))
_TAKEN = scoped(sa.select(api_key.c.id).where(api_key.c.name == bindparam("wanted"), api_key.c.revoked_at.is_(None)))


def create_key(
    tx: Transaction,
    name: str,
    digest: str,
    hint: str,
    requests_per_minute: int | None,
    tokens_per_day: int | None,
    created_by: str = "system",
) -> str | None:
    """Store a new key and return its id; None if a valid key has that name."""
    if tx.execute(_TAKEN, wanted=name).first() is not None:
        raise Rollback(None)
    key_id = new_id()
    tx.execute(
        _INSERT_KEY,
        id=key_id,
        name=name,
        secret_sha256=digest,
        hint=hint,
        requests_per_minute=requests_per_minute,
        tokens_per_day=tokens_per_day,
    )
    record(tx, created_by, "key.created", name)
    return key_id


_LIST_KEYS = scoped(sa.select(*_COLUMNS).order_by(api_key.c.id))


def list_keys(tx: Transaction) -> list[ApiKey]:
    """Return all keys, oldest first, revoked ones included."""
    return [ApiKey(**row._mapping) for row in tx.execute(_LIST_KEYS)]


_REVOKE = scoped(
    sa.update(api_key)
    .where(sa.or_(api_key.c.id == bindparam("which"), api_key.c.name == bindparam("which")))
    .where(api_key.c.revoked_at.is_(None))
    .values(revoked_at=now_ms())
)


def revoke_key(tx: Transaction, which: str, revoked_by: str = "system") -> bool:
    """Revoke a key by id or name; False if there is no such valid key."""
    if tx.execute(_REVOKE, which=which).rowcount == 0:
        return False
    record(tx, revoked_by, "key.revoked", which)
    return True


_FIND_KEY = scoped(
    sa.select(*_COLUMNS).where(api_key.c.secret_sha256 == bindparam("digest"), api_key.c.revoked_at.is_(None))
)
_DAY_TOTAL = scoped(
    sa.select(api_usage_day.c.tokens).where(
        api_usage_day.c.api_key_id == bindparam("key"), api_usage_day.c.day == bindparam("on")
    )
)


def find_key(tx: Transaction, digest: str, day: int) -> tuple[ApiKey, int] | None:
    """Return `(key, tokens used on that day)` by the SHA-256 of its secret, unless revoked.

    `day` counts from 1970-01-01 (UTC).
    """
    row = tx.execute(_FIND_KEY, digest=digest).first()
    if row is None:
        return None
    used: int = tx.execute(_DAY_TOTAL, key=row.id, on=day).scalar() or 0
    return ApiKey(**row._mapping), used


_OWN = scoped(sa.select(api_key.c.id).where(api_key.c.id == bindparam("which")))
_INSERT_USAGE = scoped(sa.insert(api_usage).values(created_at=now_ms()))


def _add_to_day(insert: Any) -> sa.Executable:
    new = insert(api_usage_day).values(requests=1)
    clause: sa.Executable = new.on_conflict_do_update(
        index_elements=["api_key_id", "day"],
        set_={"requests": api_usage_day.c.requests + 1, "tokens": api_usage_day.c.tokens + new.excluded.tokens},
    )
    return clause


_ADD_TO_DAY = scoped(_add_to_day)


def record_usage(tx: Transaction, usage: Usage, day: int) -> None:
    """Store a request and add it to the key's total of that day. Ignore a key of another workspace."""
    if usage.api_key_id is not None and tx.execute(_OWN, which=usage.api_key_id).first() is None:
        return
    tx.execute(_INSERT_USAGE, id=new_id(), **{name: getattr(usage, name) for name in Usage.__slots__})
    if usage.api_key_id is not None:
        tokens = usage.prompt_tokens + usage.completion_tokens
        tx.execute(_ADD_TO_DAY, api_key_id=usage.api_key_id, day=day, tokens=tokens)


_USAGE_PAGE = scoped(
    sa.select(
        api_usage.c.id,
        api_usage.c.created_at,
        api_key.c.name.label("key"),
        *[getattr(api_usage.c, name) for name in Usage.__slots__],
    )
    .outerjoin(
        api_key, sa.and_(api_key.c.id == api_usage.c.api_key_id, api_key.c.workspace_id == api_usage.c.workspace_id)
    )
    .where(api_usage.c.id > bindparam("after"), api_usage.c.created_at >= bindparam("since"))
    .order_by(api_usage.c.id)
    .limit(bindparam("most", type_=sa.Integer))
)


def usage_page(tx: Transaction, after: str, since: int, most: int = 1000) -> list[dict[str, Any]]:
    """Return the next `most` requests after an id, each as a mapping of column to value."""
    return [dict(row._mapping) for row in tx.execute(_USAGE_PAGE, after=after, since=since, most=most)]
