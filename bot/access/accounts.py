"""Accounts of those who steer: passwords, logins in browsers, and who somebody on a channel is.

Knows: when a password is good enough, how a login is proved, how long it lasts, how guessing is slowed. Does not know:
cookies, SQL. Passwords are hashed in threads, a few at a time, for each takes 64 MB for a moment.
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

from bot.access.login_throttle import Guesses
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
# Those of at least ten characters that every guesser tries first.
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

    def __init__(self, scope: Scope, guesses: Guesses | None = None, hasher: PasswordHasher | None = None) -> None:
        self._scope = scope
        self._hasher = hasher or PasswordHasher()
        self._guesses = guesses or Guesses()
        self._turns = asyncio.Semaphore(HASHES_AT_ONCE)
        self._hashing = 0
        self._nobodys_hash = ""
        self._verifying = asyncio.Lock()

    # --- what people steer ---

    async def create(self, actor: Actor, name: str, role: str, password: str | None) -> str:
        """Add an account and return its name in small letters. Without a password it can only be used on channels.

        Raises `InvalidInput` for what can't be used, `Conflict` for a name in use.
        """
        actor.check("admin")
        name, role = checked_name(name), checked_role(role)
        digest = None if password is None else await self._hashed(name, password)
        if not await self._write(accounts.create, actor.name, name, role, digest):
            raise Conflict(f'There is an account "{name}" already.')
        return name

    async def list_all(self, actor: Actor) -> tuple[list[Account], list[Identity]]:
        """All accounts by name, and who they are on channels."""
        actor.check("admin")
        return await self._read(accounts.list_all), await self._read(accounts.identities)

    async def set_role(self, actor: Actor, name: str, role: str) -> None:
        """Give another role. Raises `Conflict` for the last admin."""
        actor.check("admin")
        self._found(await self._keeping_an_admin(accounts.set_role, actor.name, name.lower(), checked_role(role)), name)

    async def set_disabled(self, actor: Actor, name: str, *, disabled: bool) -> None:
        """Shut somebody out at once, or let them in again. Raises `Conflict` for the last admin."""
        actor.check("admin")
        self._found(await self._keeping_an_admin(accounts.set_disabled, actor.name, name.lower(), disabled), name)

    async def set_password(self, actor: Actor, name: str, password: str) -> None:
        """Give another password, and end all of the account's logins."""
        actor.check("admin")
        digest = await self._hashed(name, password)
        self._found(await self._write(accounts.set_password, actor.name, name.lower(), digest), name)

    async def change_own_password(self, actor: Actor, old: str, new: str, address: str) -> str:
        """Give oneself another password, proved by the old one. All logins end but a new one, whose secret it returns.

        Raises as `authenticate`.
        """
        name = actor.name.partition(":")[2]
        await self.authenticate(name, old, address)
        digest, secret = await self._hashed(name, new), secrets.token_urlsafe(32)
        changed = await self._write(accounts.set_password, actor.name, name, digest, _digest(secret))
        self._found(changed, name)
        return secret

    async def link(self, actor: Actor, name: str, identity: str) -> None:
        """Say who an account is on a channel: `slack:T1/U2`. Raises `Conflict` if that is somebody else's."""
        actor.check("admin")
        channel, external_id = checked_identity(identity)
        linked = await self._write(accounts.link, actor.name, name.lower(), channel, external_id)
        self._found(linked is not None, name)
        if not linked:
            raise Conflict(f"{identity} is linked to an account already. Unlink it first.")

    async def unlink(self, actor: Actor, identity: str) -> None:
        """Take a link back."""
        actor.check("admin")
        if not await self._write(accounts.unlink, actor.name, *checked_identity(identity)):
            raise NotFound(f"No account is linked to {identity}.")

    async def audit_page(self, actor: Actor, before: int | None = None, most: int = 100) -> list[AuditRow]:
        """The newest rows of the audit log, or those before a number."""
        actor.check("viewer")
        return await self._read(audit.page, *([] if before is None else [before]), most=most)

    async def first_broken(self, actor: Actor) -> int | None:
        """The number of the first row of the audit log that was changed behind its back; None if all is well.

        Raises `Conflict` while it is being looked for: chats read on the few threads that the whole log takes one of.
        """
        actor.check("viewer")
        if self._verifying.locked():
            raise Conflict("The audit log is being verified already. Try again in a moment.")
        async with self._verifying:
            return await self._read(audit.first_broken)

    # --- proving who one is ---

    async def is_empty(self) -> bool:
        """Whether nobody can log in yet."""
        return not await self._read(accounts.list_all)

    async def authenticate(self, name: str, password: str, address: str = "") -> Actor:
        """Who has that name and password. An unknown name takes as long as a wrong password.

        Raises `NotAuthenticated`, or `TooManyAttempts` after failures by that name or from that address.
        """
        name = name.strip().lower()
        guess = self._guesses.begin(name, address)
        try:
            known = await self._read(accounts.credentials, name) if _NAME.fullmatch(name) else None
            digest = known[1] if known else None
            right = await self._is_right(digest, password)
        except Exception:  # nobody was told whether it was right
            self._guesses.take_back(guess)
            raise
        if known is None or not right or known[0].disabled_at is not None:
            if known is not None and guess.is_last_free:
                await self._write(audit.record, "web", "account.guessed_at", name)
            raise NotAuthenticated("This name and password don't belong together.")
        self._guesses.succeeded(guess)
        if digest is not None and self._hasher.check_needs_rehash(digest):
            await self._write(accounts.rehash_password, name, await self._hashed(name, password, check=False))
        return _actor("web", known[0])

    async def log_in(self, name: str, password: str, address: str = "") -> tuple[str, Actor]:
        """`(secret of the new login, who it is)`. Only the secret's hash is stored. Raises as `authenticate`."""
        actor = await self.authenticate(name, password, address)
        secret = secrets.token_urlsafe(32)
        name = actor.name.partition(":")[2]
        if not await self._write(accounts.begin_session, name, _digest(secret), IDLE_MS, MOST_MS):
            raise NotAuthenticated("This account was disabled.")
        return secret, actor

    async def actor_of_session(self, secret: str) -> Actor | None:
        """Who is logged in with a secret: for 12 hours after its last use, and 7 days after the login."""
        if not secret:
            return None
        digest = _digest(secret)
        found = await self._read(accounts.find_session, digest, IDLE_MS, MOST_MS)
        if found is None:
            return None
        if found[1] > TOUCH_MS:  # not at each request, for that would be a write each
            await self._write(accounts.touch_session, digest)
        return _actor("web", found[0])

    async def log_out(self, secret: str) -> None:
        """End a login."""
        await self._write(accounts.end_session, _digest(secret))

    async def actor_of(self, channel: str, external_id: str) -> Actor | None:
        """Who somebody on a channel is, if an account is linked to them: `("slack", "T1/U2")`."""
        found = await self._read(accounts.who_is, channel, external_id)
        return _actor(channel, found) if found else None

    async def admins_on(self, channel: str) -> list[str]:
        """Who the admins are on a channel, without those who are shut out."""
        admins = {
            one.name for one in await self._read(accounts.list_all) if one.role == "admin" and not one.disabled_at
        }
        linked = await self._read(accounts.identities)
        return [one.external_id for one in linked if one.channel == channel and one.account in admins]

    # --- help ---

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

    def _found(self, found: bool, name: str) -> None:
        if not found:
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
    """A name in small letters. Raises `InvalidInput`."""
    name = name.strip().lower()
    if not _NAME.fullmatch(name):
        raise InvalidInput("A name is 1 to 64 letters (a to z), digits, or the signs . _ @ -", field="name")
    return name


def checked_role(role: str) -> Role:
    """Raises `InvalidInput` for what is no role."""
    if role not in ROLES:
        raise InvalidInput(f"`role` must be one of {', '.join(ROLES)}.", field="role")
    return role


def checked_identity(identity: str) -> tuple[str, str]:
    """`(channel, id there)` of `slack:T1/U2`. Raises `InvalidInput`."""
    channel, _, external_id = identity.strip().partition(":")
    if not _CHANNEL.fullmatch(channel) or not external_id or len(external_id) > 200 or not external_id.isprintable():
        raise InvalidInput("Write a channel and the person's id there, like slack:T0123/U0456.", field="identity")
    return channel, external_id


def check_password(name: str, password: str) -> None:
    """Raises `InvalidInput` for a password that is too short or that everybody tries first."""
    password = normal(password)
    if len(password) < LEAST_PASSWORD_CHARS:
        raise InvalidInput(f"A password needs at least {LEAST_PASSWORD_CHARS} characters.", field="password")
    if len(password) > MOST_PASSWORD_CHARS:
        raise InvalidInput(f"A password has at most {MOST_PASSWORD_CHARS:,} characters.", field="password")
    plain = password.casefold()
    if plain in _COMMON or len(set(plain)) < 4 or plain.replace(name.lower(), "").isdigit() or plain == name.lower():
        raise InvalidInput("This password is among the first that are guessed. Choose another.", field="password")


def normal(password: str) -> str:
    """One form for the same signs, however a keyboard makes them; half surrogates can't be hashed."""
    return unicodedata.normalize("NFKC", password).encode(errors="replace").decode()


def make_password() -> str:
    """A password of 120 random bits."""
    return secrets.token_urlsafe(15)


def _actor(channel: str, account: Account) -> Actor:
    return Actor(f"{channel}:{account.name}", cast(Role, account.role))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
