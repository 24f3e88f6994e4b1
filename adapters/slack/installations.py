"""Installations of the app, with encrypted tokens and token rotation.

A tenant is a team, or an organization that installed the app as a whole. Token rotation:
docs.slack.dev/authentication/using-token-rotation.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from adapters.slack.client import BotIdentity, CallRefused, SlackClient
from bot.access.vault import Vault
from bot.chat.delivery import NotNow, Unknown
from bot.errors import MynaError
from storage import slack_installs
from storage.database import StorageUnavailable
from storage.scope import Scope
from storage.slack_installs import StoredInstallation
from storage.values import new_id

log = logging.getLogger("myna.slack")

RENEW_BEFORE_MS = 2 * 3600 * 1000
RENEWAL_LEASE_MS = 60_000
KEEP_AGAIN_SECONDS, NO_KEY_SECONDS, CLOSE_SECONDS = 1.0, 60.0, 8.0


@dataclass(frozen=True, slots=True)
class App:
    """Credentials of the Slack app, from api.slack.com."""

    client_id: str
    client_secret: str
    api_url: str

    async def exchange(self, **given: Any) -> Mapping[str, Any]:
        """Exchange a code or a refresh token at `oauth.v2.access`. Raises as `SlackClient.call`."""
        client = SlackClient("", self.api_url)
        try:
            return await client.call(
                "oauth_v2_access", client_id=self.client_id, client_secret=self.client_secret, **given
            )
        finally:
            await client.close()


class Installations(Protocol):
    """Source of clients by tenant: a team, or an organization that installed the app as a whole."""

    async def client(self, tenant: str) -> SlackClient | None:
        """Return the tenant's client, None if the app is not installed there. Raises as `SlackClient.call`."""
        ...

    async def bot_user(self, tenant: str, named: str) -> str | None:
        """Return the bot's user id, None if the app is not installed there. Raises as `SlackClient.call`.

        `named` is the bot's user id as the event gives it, "" if it does not.
        """
        ...

    async def remove(self, tenant: str, at: float) -> None:
        """Forget an installation that was removed at `at`, in Slack's seconds."""
        ...


class OneInstallation:
    """The single workspace whose token is in the settings."""

    def __init__(self, client: SlackClient) -> None:
        self._client = client

    async def client(self, tenant: str) -> SlackClient | None:  # noqa: ARG002 - there is only one
        return self._client

    async def bot_user(self, tenant: str, named: str) -> str | None:
        identity = await self._client.identity()
        is_ours = named == identity.user_id or identity.tenant in (tenant, "")
        return identity.user_id if is_ours else None

    async def remove(self, tenant: str, at: float) -> None:  # noqa: ARG002 - the token shows whether the app is back
        log.error("the Slack app was removed from %s; install it again and set the new MYNA_SLACK_BOT_TOKEN", tenant)


class StoredInstallations:
    """Workspaces that installed the app by OAuth. Their tokens are in the database, encrypted."""

    def __init__(self, scope: Scope, vault: Vault, app: App) -> None:
        self._scope = scope
        self._vault = vault
        self._app = app
        self._clients: dict[str, SlackClient] = {}
        self._decrypted: dict[str, str] = {}  # by tenant, the ciphertext of the token that its client uses
        self._renewals: dict[str, asyncio.Task[None]] = {}

    async def client(self, tenant: str) -> SlackClient | None:
        stored = await self._scope.read(slack_installs.find, tenant)
        if stored is None:
            self._decrypted.pop(tenant, None)
            if gone := self._clients.pop(tenant, None):
                await gone.close()
            return None
        if self._decrypted.get(tenant) != stored.bot_token:
            token = await self._decrypt(stored.bot_token, stored, "bot")
            self._clients.setdefault(tenant, SlackClient(token, self._app.api_url)).set_token(token)
            self._decrypted[tenant] = stored.bot_token
        known = self._clients[tenant]
        if stored.refresh_token and stored.expires_at and stored.expires_at < _now_ms() + RENEW_BEFORE_MS:
            await asyncio.shield(self._renewal(stored, known))
        return known

    def _renewal(self, stored: StoredInstallation, client: SlackClient) -> asyncio.Task[None]:
        """Return the running renewal or start one. It outlives its callers: a refresh token is good for one use."""
        task = self._renewals.get(stored.id)
        if task is None:
            task = asyncio.create_task(self._renew(stored, client), name=f"renew-{stored.tenant}")
            self._renewals[stored.id] = task
            task.add_done_callback(functools.partial(self._renewal_ended, stored.id))
        return task

    def _renewal_ended(self, installation_id: str, task: asyncio.Task[None]) -> None:
        del self._renewals[installation_id]
        if not task.cancelled() and (error := task.exception()):
            log.error("a Slack token could not be renewed", exc_info=error)

    async def bot_user(self, tenant: str, named: str) -> str | None:  # noqa: ARG002 - the tenant suffices
        stored = await self._scope.read(slack_installs.find, tenant)
        return stored.bot_user_id if stored else None

    async def _renew(self, stored: StoredInstallation, client: SlackClient) -> None:
        """Exchange the tokens under a lease. The old token stays valid meanwhile, so a failure only delays."""
        kept = await self._scope.write(slack_installs.claim_renewal, stored.id, RENEWAL_LEASE_MS)
        if kept is None:
            return
        try:
            refresh_token = await self._decrypt(kept, stored, "refresh")
            answer = await self._app.exchange(grant_type="refresh_token", refresh_token=refresh_token)
        except (NotNow, CallRefused, Unknown) as error:
            log.error("the token of %s could not be renewed: %s", stored.name, error)
            return
        client.set_token(answer["access_token"])
        await self._keep_renewed(
            stored.id,
            self._vault.encrypt(answer["access_token"], _place(stored.id, "bot")),
            self._vault.encrypt(answer["refresh_token"], _place(stored.id, "refresh")),
            int(answer["expires_in"]) * 1000,
        )

    async def _keep_renewed(self, *values: Any) -> None:
        """Store new tokens, however long the database is away: they are the only copy, and the old ones are void."""
        while True:
            try:
                await self._scope.write(slack_installs.renewed, *values)
                return
            except StorageUnavailable as error:
                log.error("renewed Slack tokens can't be stored yet: %s", error)
            await asyncio.sleep(KEEP_AGAIN_SECONDS)

    async def close(self) -> None:
        """Finish running renewals, and close the connections."""
        if self._renewals:
            await asyncio.wait(self._renewals.values(), timeout=CLOSE_SECONDS)
        for client in self._clients.values():
            await client.close()

    async def add(self, answer: Mapping[str, Any]) -> BotIdentity:
        """Store an answer of `oauth.v2.access`. Raises `KeyError` if it is not the installation of a bot."""
        team, enterprise = answer.get("team") or {}, answer.get("enterprise") or {}
        where = enterprise if answer.get("is_enterprise_install") else team
        row_id, lives = new_id(), answer.get("expires_in")
        refresh = answer.get("refresh_token")
        stored = StoredInstallation(
            id=row_id,
            tenant=str(where["id"]),
            name=str(where.get("name") or where["id"]),
            bot_user_id=str(answer["bot_user_id"]),
            scopes=str(answer.get("scope") or ""),
            bot_token=self._vault.encrypt(str(answer["access_token"]), _place(row_id, "bot")),
            refresh_token=self._vault.encrypt(str(refresh), _place(row_id, "refresh")) if refresh else None,
            expires_at=_now_ms() + int(lives) * 1000 if lives else None,
        )
        await self._scope.write(slack_installs.save, stored)
        return BotIdentity(stored.bot_user_id, stored.tenant)

    async def remove(self, tenant: str, at: float) -> None:
        if await self._scope.write(slack_installs.remove, tenant, round(at * 1000)):
            log.warning("the Slack app was removed from %s; its tokens are deleted", tenant)

    async def list_all(self) -> list[StoredInstallation]:
        return await self._scope.read(slack_installs.list_all)

    async def token_of(self, stored: StoredInstallation) -> str:
        """Decrypt the bot's token. Raises `NotNow` if no key fits."""
        return await self._decrypt(stored.bot_token, stored, "bot")

    async def _decrypt(self, kept: str, stored: StoredInstallation, name: str) -> str:
        try:
            return await asyncio.to_thread(self._vault.decrypt, kept, _place(stored.id, name))
        except MynaError as error:
            log.error("%s can't be reached: %s", stored.name, error.message)
            raise NotNow(NO_KEY_SECONDS) from error

    async def encrypt_anew(self) -> int:
        """Encrypt all tokens with the newest key. Return the number of installations changed."""
        count = 0
        for stored in await self.list_all():
            kept = [stored.bot_token, *([stored.refresh_token] if stored.refresh_token else [])]
            if all(self._vault.is_newest(token) for token in kept):
                continue
            anew = replace(
                stored,
                bot_token=self._anew(stored.bot_token, _place(stored.id, "bot")),
                refresh_token=stored.refresh_token and self._anew(stored.refresh_token, _place(stored.id, "refresh")),
            )
            await self._scope.write(slack_installs.set_tokens, stored, anew)
            count += 1
        return count

    def _anew(self, kept: str, place: str) -> str:
        return self._vault.encrypt(self._vault.decrypt(kept, place), place)


def _place(row_id: str, name: str) -> str:
    return f"slack_installation/{row_id}/{name}"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
