"""Who may steer: accounts, their logins in browsers, and who they are on channels.

Knows: rows, and that a change is written down in the audit log with it. Does not know: how passwords are hashed, what a
role may do, cookies.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import bindparam

from storage import audit
from storage.learning_schema import account, account_identity, account_session
from storage.transaction import Rollback, Transaction, now_ms, scoped
from storage.values import new_id


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who may steer, without their password. Times are milliseconds."""

    id: str
    name: str
    role: str
    created_at: int
    disabled_at: int | None


@dataclass(frozen=True, slots=True)
class Identity:
    """Who an account is on a channel: `T123/U456` on Slack."""

    account: str
    channel: str
    external_id: str


class LastAdmin(Exception):
    """The change would leave nobody who may steer everything."""


_COLUMNS = [getattr(account.c, name) for name in Account.__slots__]
_by_name = account.c.name == bindparam("which")
_is_enabled = account.c.disabled_at.is_(None)
_SET_PASSWORD = scoped(sa.update(account).where(_by_name).values(password_hash=bindparam("new_hash")))
_END_SESSIONS = scoped(sa.delete(account_session).where(account_session.c.account_id == bindparam("whose")))
_is_over = sa.or_(
    account_session.c.used_at < now_ms() - bindparam("idle_ms", type_=sa.BigInteger),
    account_session.c.created_at < now_ms() - bindparam("most_ms", type_=sa.BigInteger),
)
_INSERT_SESSION = scoped(sa.insert(account_session).values(created_at=now_ms(), used_at=now_ms()))
_is_identity = sa.and_(
    account_identity.c.channel == bindparam("on_channel"), account_identity.c.external_id == bindparam("as_whom")
)
_WITH_ACCOUNT = sa.join(account_identity, account, account.c.id == account_identity.c.account_id)
_INSERT = scoped(sa.insert(account).values(created_at=now_ms()))


def create(tx: Transaction, actor: str, name: str, role: str, password_hash: str | None) -> bool:
    """Add an account. False if there is one of that name."""
    if find(tx, name) is not None:
        raise Rollback(False)
    tx.execute(_INSERT, id=new_id(), name=name, role=role, password_hash=password_hash)
    audit.record(tx, actor, "account.created", name, {"role": role})
    return True


_FIND = scoped(sa.select(*_COLUMNS).where(_by_name))


def find(tx: Transaction, name: str) -> Account | None:
    """The account of a name, disabled or not."""
    row = tx.execute(_FIND, which=name).first()
    return Account(**row._mapping) if row else None


_LIST = scoped(sa.select(*_COLUMNS).order_by(account.c.name))


def list_all(tx: Transaction) -> list[Account]:
    """All accounts by name, with those that are disabled."""
    return [Account(**row._mapping) for row in tx.execute(_LIST)]


_SET_ROLE = scoped(sa.update(account).where(_by_name).values(role=bindparam("new_role")))


def set_role(tx: Transaction, actor: str, name: str, role: str) -> bool:
    """Give an account another role. False if there is no such account. Raises `LastAdmin`."""
    known = find(tx, name)
    if known is None:
        return False
    if role != "admin":
        _refuse_last_admin(tx, known)
    tx.execute(_SET_ROLE, which=name, new_role=role)
    audit.record(tx, actor, "account.role_changed", name, {"from": known.role, "to": role})
    return True


def set_password(tx: Transaction, actor: str, name: str, password_hash: str, new_session: str | None = None) -> bool:
    """Give an account another password, and end its logins, but for a new one by the hash of its secret.

    False if there is no such account.
    """
    known = find(tx, name)
    if known is None:
        return False
    tx.execute(_SET_PASSWORD, which=name, new_hash=password_hash)
    tx.execute(_END_SESSIONS, whose=known.id)
    if new_session is not None:
        tx.execute(_INSERT_SESSION, secret_sha256=new_session, account_id=known.id)
    audit.record(tx, actor, "account.password_changed", name)
    return True


def rehash_password(tx: Transaction, name: str, password_hash: str) -> None:
    """Keep the same password under a newer hash. Logins stay."""
    tx.execute(_SET_PASSWORD, which=name, new_hash=password_hash)


_DISABLE = scoped(sa.update(account).where(_by_name).values(disabled_at=now_ms()))
_ENABLE = scoped(sa.update(account).where(_by_name).values(disabled_at=None))


def set_disabled(tx: Transaction, actor: str, name: str, disabled: bool) -> bool:
    """Shut an account out and end its logins, or let it in again. False if there is no such account.

    Raises `LastAdmin`.
    """
    known = find(tx, name)
    if known is None:
        return False
    if disabled:
        _refuse_last_admin(tx, known)
        tx.execute(_END_SESSIONS, whose=known.id)
    tx.execute(_DISABLE if disabled else _ENABLE, which=name)
    audit.record(tx, actor, "account.disabled" if disabled else "account.enabled", name)
    return True


_ADMINS = scoped(sa.select(account.c.id).where(account.c.role == "admin", _is_enabled).with_for_update())


def _refuse_last_admin(tx: Transaction, known: Account) -> None:
    admins = {row.id for row in tx.execute(_ADMINS)}
    if admins == {known.id}:
        raise LastAdmin


_CREDENTIALS = scoped(sa.select(*_COLUMNS, account.c.password_hash).where(_by_name))


def credentials(tx: Transaction, name: str) -> tuple[Account, str | None] | None:
    """`(account, hash of its password)` of a name; no hash if it has no password."""
    row = tx.execute(_CREDENTIALS, which=name).first()
    if row is None:
        return None
    return Account(*(getattr(row, one) for one in Account.__slots__)), row.password_hash


_END_OLD_SESSIONS = scoped(sa.delete(account_session).where(_is_over))


def begin_session(tx: Transaction, account_name: str, digest: str, idle_ms: int, most_ms: int) -> bool:
    """Remember a login by the hash of its secret, and forget all that are over. False if the account is shut out."""
    known = find(tx, account_name)
    if known is None or known.disabled_at is not None:
        return False
    tx.execute(_END_OLD_SESSIONS, idle_ms=idle_ms, most_ms=most_ms)
    tx.execute(_INSERT_SESSION, secret_sha256=digest, account_id=known.id)
    return True


_SESSION = scoped(
    sa.select(*_COLUMNS, (now_ms() - account_session.c.used_at).label("unused_ms"))
    .join(account, account.c.id == account_session.c.account_id)
    .where(account_session.c.secret_sha256 == bindparam("digest"), sa.not_(_is_over), _is_enabled)
)


def find_session(tx: Transaction, digest: str, idle_ms: int, most_ms: int) -> tuple[Account, int] | None:
    """`(account, milliseconds since it was last used)` of a login that is not over."""
    row = tx.execute(_SESSION, digest=digest, idle_ms=idle_ms, most_ms=most_ms).first()
    if row is None:
        return None
    return Account(*(getattr(row, one) for one in Account.__slots__)), int(row.unused_ms)


_TOUCH = scoped(
    sa.update(account_session).where(account_session.c.secret_sha256 == bindparam("digest")).values(used_at=now_ms())
)


def touch_session(tx: Transaction, digest: str) -> bool:
    """Write down that a login is in use."""
    return tx.execute(_TOUCH, digest=digest).rowcount > 0


_END_SESSION = scoped(sa.delete(account_session).where(account_session.c.secret_sha256 == bindparam("digest")))


def end_session(tx: Transaction, digest: str) -> bool:
    """Forget a login."""
    return tx.execute(_END_SESSION, digest=digest).rowcount > 0


_INSERT_IDENTITY = scoped(sa.insert(account_identity).values(created_at=now_ms()))
_IS_LINKED = scoped(sa.select(account_identity.c.id).where(_is_identity))


def link(tx: Transaction, actor: str, name: str, channel: str, external_id: str) -> bool | None:
    """Say who an account is on a channel. None if there is no such account, False if somebody is linked to that."""
    known = find(tx, name)
    if known is None:
        return None
    if tx.execute(_IS_LINKED, on_channel=channel, as_whom=external_id).first() is not None:
        return False
    tx.execute(_INSERT_IDENTITY, id=new_id(), account_id=known.id, channel=channel, external_id=external_id)
    audit.record(tx, actor, "account.linked", name, {"channel": channel})
    return True


_UNLINK = scoped(sa.delete(account_identity).where(_is_identity))


def unlink(tx: Transaction, actor: str, channel: str, external_id: str) -> bool:
    """Take that back. False if nobody is linked to it."""
    if tx.execute(_UNLINK, on_channel=channel, as_whom=external_id).rowcount == 0:
        return False
    audit.record(tx, actor, "account.unlinked", None, {"channel": channel})
    return True


_IDENTITIES = scoped(
    sa.select(account.c.name.label("account"), account_identity.c.channel, account_identity.c.external_id)
    .select_from(_WITH_ACCOUNT)
    .order_by(account.c.name, account_identity.c.channel, account_identity.c.external_id)
)


def identities(tx: Transaction) -> list[Identity]:
    """Who all accounts are on channels, by the accounts' names."""
    return [Identity(**row._mapping) for row in tx.execute(_IDENTITIES)]


_WHO_IS = scoped(sa.select(*_COLUMNS).select_from(_WITH_ACCOUNT).where(_is_identity, _is_enabled))


def who_is(tx: Transaction, channel: str, external_id: str) -> Account | None:
    """The account that somebody on a channel has, unless it is disabled."""
    row = tx.execute(_WHO_IS, on_channel=channel, as_whom=external_id).first()
    return Account(**row._mapping) if row else None
