"""Slack installations with encrypted tokens, and OAuth attempts.

There is one row a team or organization. Every function is a unit of work for `Database.write`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from storage.schema import slack_install_attempt, slack_installation
from storage.transaction import Transaction, now_ms, scoped

installed = slack_installation.c


@dataclass(frozen=True, slots=True)
class StoredInstallation:
    """An installation with encrypted tokens. `tenant` is the organization's id if it has the app, else the team's."""

    id: str
    tenant: str
    name: str
    bot_user_id: str
    scopes: str
    bot_token: str
    refresh_token: str | None
    expires_at: int | None


_COLUMNS = [getattr(installed, name) for name in StoredInstallation.__slots__]


def _upsert(insert: Any) -> sa.Executable:
    new = insert(slack_installation).values(created_at=now_ms(), renewing_until=None)
    names = (
        "id",
        "name",
        "bot_user_id",
        "scopes",
        "bot_token",
        "refresh_token",
        "expires_at",
        "renewing_until",
        "created_at",
    )
    clause: sa.Executable = new.on_conflict_do_update(
        index_elements=["workspace_id", "tenant"], set_={name: new.excluded[name] for name in names}
    )
    return clause


_UPSERT = scoped(_upsert)


def save(tx: Transaction, found: StoredInstallation) -> None:
    """Store an installation, and replace an earlier one of the same team or organization."""
    tx.execute(_UPSERT, **{name: getattr(found, name) for name in StoredInstallation.__slots__})


_FIND = scoped(sa.select(*_COLUMNS).where(installed.tenant == bindparam("which")))


def find(tx: Transaction, tenant: str) -> StoredInstallation | None:
    row = tx.execute(_FIND, which=tenant).first()
    return StoredInstallation(**row._mapping) if row else None


_LIST = scoped(sa.select(*_COLUMNS).order_by(installed.tenant))


def list_all(tx: Transaction) -> list[StoredInstallation]:
    return [StoredInstallation(**row._mapping) for row in tx.execute(_LIST)]


_REMOVE = scoped(
    sa.delete(slack_installation).where(
        installed.tenant == bindparam("which"), installed.created_at <= bindparam("at_ms", type_=sa.BigInteger)
    )
)


def remove(tx: Transaction, tenant: str, at_ms: int) -> bool:
    """Delete an installation and its tokens; False if there is none, or it was installed again after `at_ms`."""
    return tx.execute(_REMOVE, which=tenant, at_ms=at_ms).rowcount > 0


_CLAIM_RENEWAL = scoped(
    sa.update(slack_installation)
    .where(
        installed.id == bindparam("which"),
        sa.or_(installed.renewing_until.is_(None), installed.renewing_until < now_ms()),
    )
    .values(renewing_until=now_ms() + bindparam("lease_ms", type_=sa.BigInteger))
    .returning(installed.refresh_token)
)


def claim_renewal(tx: Transaction, installation_id: str, lease_ms: int) -> str | None:
    """Return the encrypted refresh token, which may be used once; None while another process renews with it.

    The caller has `lease_ms` to call `renewed`.
    """
    return tx.execute(_CLAIM_RENEWAL, which=installation_id, lease_ms=lease_ms).scalar()


_RENEWED = scoped(
    sa.update(slack_installation)
    .where(installed.id == bindparam("which"))
    .values(
        bot_token=bindparam("bot"),
        refresh_token=bindparam("refresh"),
        renewing_until=None,
        expires_at=now_ms() + bindparam("lives_ms", type_=sa.BigInteger),
    )
)


def renewed(tx: Transaction, installation_id: str, bot_token: str, refresh_token: str, lives_ms: int) -> None:
    """Store the tokens that the refresh token was exchanged for."""
    tx.execute(_RENEWED, which=installation_id, bot=bot_token, refresh=refresh_token, lives_ms=lives_ms)


_SET_TOKENS = scoped(
    sa.update(slack_installation)
    .where(installed.id == bindparam("which"), installed.bot_token == bindparam("old_bot"))
    .values(bot_token=bindparam("bot"), refresh_token=bindparam("refresh"))
)


def set_tokens(tx: Transaction, old: StoredInstallation, new: StoredInstallation) -> None:
    """Store the same tokens under a new encryption key, unless they have been renewed meanwhile."""
    tx.execute(_SET_TOKENS, which=old.id, old_bot=old.bot_token, bot=new.bot_token, refresh=new.refresh_token)


_BEGIN = scoped(
    sa.insert(slack_install_attempt).values(expires_at=now_ms() + bindparam("lives_ms", type_=sa.BigInteger))
)
_CLEAN = scoped(sa.delete(slack_install_attempt).where(slack_install_attempt.c.expires_at < now_ms()))


def begin_attempt(tx: Transaction, state_sha256: str, lives_ms: int) -> None:
    """Store the `state` of an installation in progress, and delete expired ones."""
    tx.execute(_CLEAN)
    tx.execute(_BEGIN, state_sha256=state_sha256, lives_ms=lives_ms)


_TAKE = scoped(
    sa.delete(slack_install_attempt)
    .where(slack_install_attempt.c.state_sha256 == bindparam("digest"))
    .returning(slack_install_attempt.c.expires_at > now_ms())
)


def take_attempt(tx: Transaction, state_sha256: str) -> bool:
    """Use up the `state` of an installation; True if it was stored and had not expired. A second call returns False."""
    return bool(tx.execute(_TAKE, digest=state_sha256).scalar())
