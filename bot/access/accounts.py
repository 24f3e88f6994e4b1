"""Accounts: password login, sessions, and identities on channels.

Passwords are hashed in threads, two at a time, as each hash takes 64 MB for a moment.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import re
import secrets
import unicodedata
from collections.abc import Callable
from typing import Any, TypeVar, cast

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from bot.access.login_throttle import LoginThrottle
from bot.access.roles import ROLES, Actor, Role
from bot.errors import Conflict, InvalidInput, NotAuthenticated, NotFound, Unavailable
from storage import accounts, audit
from storage.accounts import Account, Identity, LastAdmin
from storage.learning_values import AuditRow
from storage.scope import Scope

T = TypeVar("T")

LEAST_PASSWORD_CHARS, MOST_PASSWORD_CHARS = 10, 1_000
IDLE_MS = 12 * 3_600_000
MOST_MS = 7 * 86_400_000
TOUCH_MS = 60_000
HASHES_AT_ONCE, HASHES_WAITING = 2, 64
# The most common passwords of at least ten characters.
_COMMON = frozenset(
    {
        *("1234567890", "12345678910", "123456789a", "0123456789", "1q2w3e4r5t", "qwertyuiop", "qwerty12345"),
        *("password12", "password123", "passw0rd123", "iloveyou123", "administrator", "letmein123", "welcome123"),
        *("changeme123", "adminadmin", "abcdefghij", "1qaz2wsx3edc"),
    }
)
_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}", re.ASCII)
_CHANNEL = re.compile(r"[a-z][a-z0-9_-]{0,31}", re.ASCII)


class Accounts:
    """The accounts of one workspace. Without a `hasher`, passwords are hashed by Argon2id as RFC 9106 recommends."""

    def __init__(
        self, scope: Scope, throttle: LoginThrottle | None = None, hasher: PasswordHasher | None = None
    ) -> None:
        self._scope = scope
        self._hasher = hasher or PasswordHasher()
        self._throttle = throttle or LoginThrottle()
        self._turns = asyncio.Semaphore(HASHES_AT_ONCE)
        self._hashing = 0
        self._nobodys_hash = ""
        self._verifying = asyncio.Lock()

    # --- administration ---

    async def create(self, actor: Actor, name: str, role: str, password: str | None) -> str:
        """Add an account and return its name in lower case. Without a password it can only be used on channels.

        Raises `InvalidInput` for a bad name, role or password, `Conflict` for a name in use.
        """
        actor.check("admin")
        name, role = checked_name(name), checked_role(role)
        digest = None if password is None else await self._hashed(name, password)
        if not await self._write(accounts.create, actor.name, name, role, digest):
            raise Conflict(f'There is an account "{name}" already.')
        return name

    async def list_all(self, actor: Actor) -> tuple[list[Account], list[Identity]]:
        """Return all accounts by name, and their identities on channels."""
        actor.check("admin")
        return await self._read(accounts.list_all), await self._read(accounts.identities)

    async def set_role(self, actor: Actor, name: str, role: str) -> None:
        """Change an account's role. Raises `Conflict` for the last admin."""
        actor.check("admin")
        self._must_exist(
            await self._keeping_an_admin(accounts.set_role, actor.name, name.lower(), checked_role(role)), name
        )

    async def set_disabled(self, actor: Actor, name: str, *, disabled: bool) -> None:
        """Disable an account at once, or enable it again. Raises `Conflict` for the last admin."""
        actor.check("admin")
        self._must_exist(await self._keeping_an_admin(accounts.set_disabled, actor.name, name.lower(), disabled), name)

    async def set_password(self, actor: Actor, name: str, password: str) -> None:
        """Set an account's password, and end all its sessions."""
        actor.check("admin")
        digest = await self._hashed(name, password)
        self._must_exist(await self._write(accounts.set_password, actor.name, name.lower(), digest), name)

    async def change_own_password(self, actor: Actor, old: str, new: str, address: str) -> str:
        """Change the actor's own password; end all their sessions, and return the secret of a new session.

        Raises as `authenticate` does with the old password, and as `create` does for the new password.
        """
        name = actor.name.partition(":")[2]
        await self.authenticate(name, old, address)
        digest, secret = await self._hashed(name, new), secrets.token_urlsafe(32)
        changed = await self._write(accounts.set_password, actor.name, name, digest, _digest(secret))
        self._must_exist(changed, name)
        return secret

    async def link(self, actor: Actor, name: str, identity: str) -> None:
        """Link an account to an identity on a channel, `slack:T1/U2`. Raises `Conflict` if it is linked already."""
        actor.check("admin")
        channel, external_id = checked_identity(identity)
        linked = await self._write(accounts.link, actor.name, name.lower(), channel, external_id)
        self._must_exist(linked is not None, name)
        if not linked:
            raise Conflict(f"{identity} is linked to an account already. Unlink it first.")

    async def unlink(self, actor: Actor, identity: str) -> None:
        """Remove the link of an identity. Raises `NotFound`."""
        actor.check("admin")
        if not await self._write(accounts.unlink, actor.name, *checked_identity(identity)):
            raise NotFound(f"No account is linked to {identity}.")

    async def audit_page(self, actor: Actor, before: int | None = None, most: int = 100) -> list[AuditRow]:
        """Return the newest rows of the audit log, or the rows before a number."""
        actor.check("viewer")
        return await self._read(audit.page, *([] if before is None else [before]), most=most)

    async def first_broken(self, actor: Actor) -> int | None:
        """Return the number of the first altered row of the audit log; None if the chain is intact.

        Raises `Conflict` during another verification: reading the whole log holds one of the few threads that chats
        read on.
        """
        actor.check("viewer")
        if self._verifying.locked():
            raise Conflict("The audit log is being verified already. Try again in a moment.")
        async with self._verifying:
            return await self._read(audit.first_broken)

    # --- authentication ---

    async def is_empty(self) -> bool:
        """Return True if there is no account yet."""
        return not await self._read(accounts.list_all)

    async def authenticate(self, name: str, password: str, address: str = "") -> Actor:
        """Return the actor with that name and password. An unknown name takes as long as a wrong password.

        Raises `NotAuthenticated`, or `TooManyAttempts` after failures of that name or from that address.
        """
        name = name.strip().lower()
        attempt = self._throttle.begin(name, address)
        try:
            known = await self._read(accounts.credentials, name) if _NAME.fullmatch(name) else None
            digest = known[1] if known else None
            right = await self._is_right(digest, password)
        except Exception:  # the caller does not learn whether the password was right
            self._throttle.take_back(attempt)
            raise
        if known is None or not right or known[0].disabled_at is not None:
            if known is not None and attempt.is_last_free:
                await self._write(audit.record, "web", "account.guessed_at", name)
            raise NotAuthenticated("This name and password don't belong together.")
        self._throttle.succeeded(attempt)
        if digest is not None and self._hasher.check_needs_rehash(digest):
            await self._write(accounts.rehash_password, name, await self._hashed(name, password, check=False))
        return _actor("web", known[0])

    async def log_in(self, name: str, password: str, address: str = "") -> tuple[str, Actor]:
        """Return `(secret of a new session, actor)`. Only the secret's hash is stored. Raises as `authenticate`."""
        actor = await self.authenticate(name, password, address)
        secret = secrets.token_urlsafe(32)
        name = actor.name.partition(":")[2]
        if not await self._write(accounts.begin_session, name, _digest(secret), IDLE_MS, MOST_MS):
            raise NotAuthenticated("This account was disabled.")
        return secret, actor

    async def actor_of_session(self, secret: str) -> Actor | None:
        """Return the actor of a session. It ends 12 hours after its last use or 7 days after the login."""
        if not secret:
            return None
        digest = _digest(secret)
        found = await self._read(accounts.find_session, digest, IDLE_MS, MOST_MS)
        if found is None:
            return None
        if found[1] > TOUCH_MS:  # not at each request, which would be a write each
            await self._write(accounts.touch_session, digest)
        return _actor("web", found[0])

    async def log_out(self, secret: str) -> None:
        """End a session."""
        await self._write(accounts.end_session, _digest(secret))

    async def actor_of(self, channel: str, external_id: str) -> Actor | None:
        """Return the actor linked to an identity, as `("slack", "T1/U2")`; None if no account is linked."""
        found = await self._read(accounts.who_is, channel, external_id)
        return _actor(channel, found) if found else None

    async def admins_on(self, channel: str) -> list[str]:
        """Return the ids of the admins on a channel, without disabled accounts."""
        known = await self._read(accounts.list_all)
        admins = {account.name for account in known if account.role == "admin" and not account.disabled_at}
        linked = await self._read(accounts.identities)
        return [link.external_id for link in linked if link.channel == channel and link.account in admins]

    # --- helpers ---

    async def _is_right(self, digest: str | None, password: str) -> bool:
        if not self._nobodys_hash:
            self._nobodys_hash = await self._in_turn(self._hasher.hash, secrets.token_urlsafe(16))
        right: bool = await self._in_turn(self._verify, digest or self._nobodys_hash, normal(password))
        return right and digest is not None

    def _verify(self, digest: str, password: str) -> bool:
        try:
            return self._hasher.verify(digest, password)
        except (Argon2Error, InvalidHashError):
            return False

    async def _hashed(self, name: str, password: str, *, check: bool = True) -> str:
        if check:
            check_password(name, password)
        digest: str = await self._in_turn(self._hasher.hash, normal(password))
        return digest

    async def _in_turn(self, work: Callable[..., T], *arguments: Any) -> T:
        if self._hashing >= HASHES_WAITING:
            raise Unavailable("Many people are logging in. Please try again in a moment.")
        self._hashing += 1
        try:
            async with self._turns:
                return await asyncio.to_thread(functools.partial(work, *arguments))
        finally:
            self._hashing -= 1

    def _must_exist(self, exists: bool, name: str) -> None:
        if not exists:
            raise NotFound(f'There is no account "{name}".')

    async def _keeping_an_admin(self, unit: Callable[..., bool], *arguments: Any) -> bool:
        try:
            return await self._write(unit, *arguments)
        except LastAdmin:
            raise Conflict("This is the last admin. Make another account an admin first.") from None

    async def _read(self, unit: Callable[..., T], *arguments: Any, **more: Any) -> T:
        return await self._scope.read(unit, *arguments, **more)

    async def _write(self, unit: Callable[..., T], *arguments: Any) -> T:
        return await self._scope.write(unit, *arguments)


def checked_name(name: str) -> str:
    """Return the name in lower case. Raises `InvalidInput`."""
    name = name.strip().lower()
    if not _NAME.fullmatch(name):
        raise InvalidInput("A name has 1 to 64 letters (a to z), digits, or the characters . _ @ -", field="name")
    return name


def checked_role(role: str) -> Role:
    """Return the role. Raises `InvalidInput` for any other word."""
    if role not in ROLES:
        raise InvalidInput(f"`role` must be one of {', '.join(ROLES)}.", field="role")
    return role


def checked_identity(identity: str) -> tuple[str, str]:
    """Return `(channel, id on the channel)` of `slack:T1/U2`. Raises `InvalidInput`."""
    channel, _, external_id = identity.strip().partition(":")
    if not _CHANNEL.fullmatch(channel) or not external_id or len(external_id) > 200 or not external_id.isprintable():
        raise InvalidInput("Write a channel and the person's id there, like slack:T0123/U0456.", field="identity")
    return channel, external_id


def check_password(name: str, password: str) -> None:
    """Raise `InvalidInput` for a password that is too short, too long or too common."""
    password = normal(password)
    if len(password) < LEAST_PASSWORD_CHARS:
        raise InvalidInput(f"A password needs at least {LEAST_PASSWORD_CHARS} characters.", field="password")
    if len(password) > MOST_PASSWORD_CHARS:
        raise InvalidInput(f"A password has at most {MOST_PASSWORD_CHARS:,} characters.", field="password")
    plain = password.casefold()
    if plain in _COMMON or len(set(plain)) < 4 or plain.replace(name.lower(), "").isdigit() or plain == name.lower():
        raise InvalidInput("This password is too easy to guess. Choose another.", field="password")


def normal(password: str) -> str:
    """Normalise a password (NFKC), as keyboards compose letters differently; lone surrogates can't be hashed."""
    return unicodedata.normalize("NFKC", password).encode(errors="replace").decode()


def make_password() -> str:
    """Return a password of 120 random bits."""
    return secrets.token_urlsafe(15)


def _actor(channel: str, account: Account) -> Actor:
    return Actor(f"{channel}:{account.name}", cast(Role, account.role))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
