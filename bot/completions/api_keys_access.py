"""API keys: authentication, rate limits and usage records.

Requests a minute are counted in this process, tokens a day in the database.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections import deque
from dataclasses import dataclass

from bot.errors import InvalidInput, KeyRefused, QuotaExceeded
from storage import api_keys
from storage.api_keys import ApiKey, Usage
from storage.database import StorageUnavailable
from storage.scope import Scope

SECRET_PREFIX = "myna_sk_"  # noqa: S105
HINT_LENGTH = len(SECRET_PREFIX) + 4
SECONDS_PER_DAY = 86_400
RECORD_AGAIN_SECONDS = (0.5, 2.0, 5.0, 15.0)

log = logging.getLogger("myna.api")


@dataclass(frozen=True, slots=True)
class Caller:
    """Sender of a request, with what is left of each limit; None without a limit. `key` is None for an open API."""

    key: ApiKey | None
    requests_left: int | None = None
    tokens_left: int | None = None

    @property
    def name(self) -> str:
        """Name space of the caller's conversations."""
        return self.key.id if self.key else "open"


class ApiAccess:
    """Access by the keys of a workspace. `needs_key` False also admits requests without a key."""

    def __init__(self, scope: Scope, *, needs_key: bool) -> None:
        self._scope = scope
        self._needs_key = needs_key
        self._recent: dict[str, deque[float]] = {}

    async def admit(self, secret: str | None) -> Caller:
        """Authenticate and count a request. Raises `KeyRefused`, or `QuotaExceeded` beyond a limit of the key."""
        if not self._needs_key and (secret is None or not secret.startswith(SECRET_PREFIX)):
            return Caller(None)
        if not secret:
            raise KeyRefused("Send an API key, as the header `Authorization: Bearer myna_sk_...`.")
        found = await self._scope.read(api_keys.find_key, hash_secret(secret), _today())
        if found is None:
            raise KeyRefused
        key, tokens_used = found
        tokens_left = None if key.tokens_per_day is None else key.tokens_per_day - tokens_used
        if tokens_left is not None and tokens_left <= 0:
            raise QuotaExceeded(
                f"The key {key.name} has used its {key.tokens_per_day:,} tokens of today (UTC).",
                retry_after=SECONDS_PER_DAY - time.time() % SECONDS_PER_DAY,
                is_final=True,
            )
        return Caller(key, self._count(key), tokens_left)

    def _count(self, key: ApiKey) -> int | None:
        if key.requests_per_minute is None:
            return None
        now, recent = time.monotonic(), self._recent.setdefault(key.id, deque())
        while recent and recent[0] <= now - 60:
            recent.popleft()
        if len(recent) >= key.requests_per_minute:
            raise QuotaExceeded(
                f"The key {key.name} takes {key.requests_per_minute} requests a minute.",
                retry_after=recent[0] + 60 - now,
            )
        recent.append(now)
        return key.requests_per_minute - len(recent)

    async def record(self, usage: Usage) -> None:
        """Store the usage of a request, with retries while the database is away."""
        for pause in RECORD_AGAIN_SECONDS:
            try:
                await self._scope.write(api_keys.record_usage, usage, _today())
                return
            except StorageUnavailable:
                await asyncio.sleep(pause)
        log.error("the usage of a request is lost, as the database stays away: %s", usage)


async def create_key(
    scope: Scope, name: str, requests_per_minute: int | None, tokens_per_day: int | None, created_by: str = "system"
) -> str:
    """Create a key and return its secret; only a hash is stored. Raises `InvalidInput` for a name in use."""
    if not name.strip() or len(name) > 100:
        raise InvalidInput("A key needs a name of 1 to 100 characters.", field="name")
    for limit in (requests_per_minute, tokens_per_day):
        if limit is not None and not 1 <= limit <= 10**9:
            raise InvalidInput("A limit must be between 1 and 1,000,000,000.", field="limit")
    secret = SECRET_PREFIX + secrets.token_urlsafe(32)
    key_id = await scope.write(
        api_keys.create_key,
        name,
        hash_secret(secret),
        secret[:HINT_LENGTH],
        requests_per_minute,
        tokens_per_day,
        created_by,
    )
    if key_id is None:
        raise InvalidInput(f'There is a key "{name}" already. Choose another name, or revoke it first.', field="name")
    return secret


def hash_secret(secret: str) -> str:
    """Return the SHA-256 in hex. Secrets have 256 random bits, so a slow hash would add nothing."""
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()


def _today() -> int:
    return int(time.time() // SECONDS_PER_DAY)
