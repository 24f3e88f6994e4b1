"""Accounts of staff, their sessions and their identities on channels.

Every change writes its row of the audit log in the same transaction.
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
    """A member of staff, without the password hash. Times are milliseconds since 1970 (UTC)."""

    id: str
    name: str
    role: str
    created_at: int
    disabled_at: int | None


@dataclass(frozen=True, slots=True)
class Identity:
    """The id by which a channel knows an account: `T123/U456` on Slack."""

    account: str
    channel: str
    external_id: str


class LastAdmin(Exception):
    """The change would leave the workspace without an enabled admin."""


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
    """Add an account; False if the name is taken."""
    if find(tx, name) is not None:
        raise Rollback(False)
    tx.execute(_INSERT, id=new_id(), name=name, role=role, password_hash=password_hash)
    audit.record(tx, actor, "account.created", name, {"role": role})
    return True


_FIND = scoped(sa.select(*_COLUMNS).where(_by_name))


def find(tx: Transaction, name: str) -> Account | None:
    """Return the account with that name, disabled or not."""
    row = tx.execute(_FIND, which=name).first()
    return Account(**row._mapping) if row else None


_LIST = scoped(sa.select(*_COLUMNS).order_by(account.c.name))


def list_all(tx: Transaction) -> list[Account]:
    """Return all accounts by name, disabled ones included."""
    return [Account(**row._mapping) for row in tx.execute(_LIST)]


_SET_ROLE = scoped(sa.update(account).where(_by_name).values(role=bindparam("new_role")))


def set_role(tx: Transaction, actor: str, name: str, role: str) -> bool:
    """Change an account's role; False if there is no such account.

    Raise `LastAdmin` rather than demote the last admin.
    """
    known = find(tx, name)
    if known is None:
        return False
    if role != "admin":
        _refuse_last_admin(tx, known)
    tx.execute(_SET_ROLE, which=name, new_role=role)
    audit.record(tx, actor, "account.role_changed", name, {"from": known.role, "to": role})
    return True


def set_password(tx: Transaction, actor: str, name: str, password_hash: str, new_session: str | None = None) -> bool:
    """Change an account's password and end its sessions; False if there is no such account.

    `new_session` is the SHA-256 of a new session's secret, for the browser in which the password was changed.
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
    """Store the same password under a newer hash. Sessions stay."""
    tx.execute(_SET_PASSWORD, which=name, new_hash=password_hash)


_DISABLE = scoped(sa.update(account).where(_by_name).values(disabled_at=now_ms()))
_ENABLE = scoped(sa.update(account).where(_by_name).values(disabled_at=None))


def set_disabled(tx: Transaction, actor: str, name: str, disabled: bool) -> bool:
    """Disable an account and end its sessions, or enable it again; False if there is no such account.

    Raise `LastAdmin` rather than disable the last admin.
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
    """Return `(account, password hash)` of a name; the hash is None for an account without a password."""
    row = tx.execute(_CREDENTIALS, which=name).first()
    if row is None:
        return None
    return Account(*(getattr(row, name) for name in Account.__slots__)), row.password_hash


_END_OLD_SESSIONS = scoped(sa.delete(account_session).where(_is_over))


def begin_session(tx: Transaction, account_name: str, digest: str, idle_ms: int, most_ms: int) -> bool:
    """Store a session by the SHA-256 of its secret, and delete expired ones; False if the account may not log in."""
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
    """Return `(account, milliseconds since the last use)` of a session that has not expired."""
    row = tx.execute(_SESSION, digest=digest, idle_ms=idle_ms, most_ms=most_ms).first()
    if row is None:
        return None
    return Account(*(getattr(row, name) for name in Account.__slots__)), int(row.unused_ms)


_TOUCH = scoped(
    sa.update(account_session).where(account_session.c.secret_sha256 == bindparam("digest")).values(used_at=now_ms())
)


def touch_session(tx: Transaction, digest: str) -> bool:
    """Set the session's last use to now; False if there is no such session."""
    return tx.execute(_TOUCH, digest=digest).rowcount > 0


_END_SESSION = scoped(sa.delete(account_session).where(account_session.c.secret_sha256 == bindparam("digest")))


def end_session(tx: Transaction, digest: str) -> bool:
    """Delete a session; False if there is no such session."""
    return tx.execute(_END_SESSION, digest=digest).rowcount > 0


_INSERT_IDENTITY = scoped(sa.insert(account_identity).values(created_at=now_ms()))
_IS_LINKED = scoped(sa.select(account_identity.c.id).where(_is_identity))


def link(tx: Transaction, actor: str, name: str, channel: str, external_id: str) -> bool | None:
    """Link an account to an id on a channel; None if there is no such account, False if the id is linked already."""
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
    """Remove the link of an id on a channel; False if the id is linked to no account."""
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
    """Return the channel identities of all accounts, by account name."""
    return [Identity(**row._mapping) for row in tx.execute(_IDENTITIES)]


_WHO_IS = scoped(sa.select(*_COLUMNS).select_from(_WITH_ACCOUNT).where(_is_identity, _is_enabled))


def who_is(tx: Transaction, channel: str, external_id: str) -> Account | None:
    """Return the enabled account that is linked to an id on a channel."""
    row = tx.execute(_WHO_IS, on_channel=channel, as_whom=external_id).first()
    return Account(**row._mapping) if row else None
