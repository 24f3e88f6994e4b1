"""Composition root: build the agent from the settings, and run its background tasks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapters.slack.channel import SlackChannel, SlackConfig
from adapters.slack.installations import App, StoredInstallations
from bot.access.accounts import Accounts
from bot.access.installation import Say, make_vault, secret_keys
from bot.access.vault import Vault
from bot.chat.delivery import Delivery, Poster
from bot.chat.feedback import Feedback
from bot.chat.reply_maker import ReplyPolicy
from bot.chat.turns import Conversations, WorkerOptions
from bot.completions.api_keys_access import ApiAccess
from bot.completions.completions import Completions
from bot.errors import MynaError, Unavailable
from bot.generation.port import Generator, Sampling
from bot.knowledge.grounding import Grounding
from bot.knowledge.setup import make_grounding
from bot.learning.release import canary_watch
from bot.learning.release.loaded_versions import ReleasedVersions
from bot.learning.release.releases import Releases
from bot.metrics import Metrics
from bot.privacy.learning_consent import Consent
from bot.settings import Settings
from bot.steering.steering import Steering
from storage import inbox, outbox
from storage.database import Database, StorageUnavailable
from storage.engines import sqlite_file
from storage.schema import DEFAULT_WORKSPACE
from storage.scope import Scope

if TYPE_CHECKING:
    from argon2 import PasswordHasher

    from adapters.article_links import ArticleLinks


@dataclass(frozen=True, slots=True)
class Agent:
    """A running agent, with the services that channels call."""

    settings: Settings
    scope: Scope
    generator: Generator
    conversations: Conversations
    access: ApiAccess
    completions: Completions
    delivery: Delivery
    metrics: Metrics
    feedback: Feedback
    consent: Consent
    released: ReleasedVersions
    releases: Releases
    steering: Steering
    grounding: Grounding
    accounts: Accounts
    slack: SlackChannel | None = None

    @property
    def database(self) -> Database:
        return self.scope.database

    @property
    def workspace_id(self) -> str:
        return self.scope.workspace_id

    async def drain(self, grace_seconds: float) -> None:
        """Accept no more messages, and let running replies finish for `grace_seconds`."""
        await asyncio.gather(self.conversations.drain(grace_seconds), self.completions.drain(grace_seconds))

    async def checks(self) -> dict[str, bool]:
        """Return the checks that readiness depends on, each with its result."""
        return {
            "database": await self.database.answers(),
            "model": self.generator.ready,
            "accepting": self.conversations.accepting,
        }


def slack_config(settings: Settings) -> SlackConfig:
    """Return the connection to Slack that the settings describe."""
    return SlackConfig(
        bot_token=settings.slack_bot_token,
        signing_secret=settings.slack_signing_secret,
        app_token=settings.slack_app_token,
        client_id=settings.slack_client_id,
        client_secret=settings.slack_client_secret,
        api_url=settings.slack_api_url.rstrip("/") + "/",
        public_url=settings.public_url,
    )


def make_installations(settings: Settings, scope: Scope) -> StoredInstallations:
    """Return the store of Slack workspaces that have installed the app."""
    config = slack_config(settings)
    app = App(config.client_id, config.client_secret, config.api_url)
    return StoredInstallations(scope, make_vault(settings), app)


def slack_vault(settings: Settings) -> Vault | None:
    """Return the vault for Slack's tokens; None without Slack. Raises `MynaError` for settings that don't fit."""
    config = slack_config(settings)
    if not config.is_used:
        return None
    config.check()
    is_shared = sqlite_file(settings.resolved_database_url) is None
    if config.takes_many_workspaces and is_shared and not settings.encryption_keys:
        raise MynaError(
            "On PostgreSQL several Mynas may share the tokens of Slack's workspaces, and so the key: set "
            "MYNA_ENCRYPTION_KEYS, the same for all (`openssl rand -base64 32 | tr +/ -_` makes one)."
        )
    return make_vault(settings)


def make_generator(settings: Settings, say: Say) -> Generator:
    """Return the generator that the settings name: a remote server's, or a local model's."""
    if settings.generator == "remote":
        from bot.generation.remote import RemoteGenerator

        return RemoteGenerator(
            *settings.remote_url, model=settings.model, key=settings.remote_key, context_tokens=settings.context_tokens
        )
    from bot.generation.engine.build import local_generator
    from bot.generation.models.sources import resolve_model

    folder = resolve_model(settings.model, settings.data, say)
    return local_generator(settings, folder, queue_limit=settings.max_waiting)


def reply_policy(settings: Settings) -> ReplyPolicy:
    """Return the policy for replies that the settings describe."""
    return ReplyPolicy(
        system_prompt=settings.system_prompt,
        sampling=Sampling(
            max_tokens=settings.max_reply_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            repetition_penalty=settings.chat_repetition_penalty,
        ),
        context_tokens=settings.context_tokens,
        contact=settings.contact,
        quoting_penalty=settings.chat_quoting_penalty,
    )


@contextlib.asynccontextmanager
async def running_agent(
    settings: Settings,
    generator: Generator,
    posters: dict[str, Poster] | None = None,
    hasher: PasswordHasher | None = None,
) -> AsyncIterator[Agent]:
    """Run an agent on a migrated database; a background task that fails ends the `async with`.

    `posters` deliver replies by channel; `hasher` replaces the password hasher of `Accounts`.
    """
    vault = await asyncio.to_thread(slack_vault, settings)
    database, metrics = Database(settings.resolved_database_url), Metrics()
    scope = Scope(database, DEFAULT_WORKSPACE)
    delivery = Delivery(database, lease_seconds=settings.lease_seconds)
    options = WorkerOptions(settings.lease_seconds, settings.max_replies)
    released = ReleasedVersions(scope, generator, settings.data)
    releases = Releases(scope, released.note_change)
    keys = await asyncio.to_thread(secret_keys, settings)
    steering = Steering(scope, releases, keys[0])
    grounding = await asyncio.to_thread(make_grounding, settings, scope)
    conversations = Conversations(
        database, generator, released, reply_policy(settings), metrics, options, delivery=delivery, grounding=grounding
    )
    access = ApiAccess(scope, needs_key=settings.api_keys == "on")
    completions = Completions(generator, released, access, metrics)
    feedback = Feedback(scope)
    consent = Consent(scope, settings.learning_consent)
    accounts = Accounts(scope, hasher=hasher)
    slack = None
    if vault is not None:
        config, links = slack_config(settings), article_links(settings)
        slack = SlackChannel(config, scope, vault, links, conversations, feedback, consent, steering, accounts)
        delivery.register(slack.replies.channel, slack.replies)
    for channel, poster in (posters or {}).items():
        delivery.register(channel, poster)
    agent = Agent(
        settings,
        scope,
        generator,
        conversations,
        access,
        completions,
        delivery,
        metrics,
        feedback,
        consent,
        released,
        releases,
        steering,
        grounding,
        accounts,
        slack,
    )
    tasks: list[Coroutine[Any, Any, None]] = [
        conversations.work(),
        conversations.keep_leases(),
        released.watch(),
        canary_watch.watch(scope, releases, slack.tell_of_harm if slack else None),
    ]
    if slack is not None:
        tasks.append(slack.work())
    if delivery.channels:
        tasks.append(delivery.work())
    failure: Exception | None = None
    try:
        if not database.many_processes:
            await _free_all_leases(database)
        async with asyncio.TaskGroup() as group:
            started = [group.create_task(task) for task in tasks]
            try:
                yield agent
                await agent.drain(settings.grace_seconds)
                await delivery.drain()
            except Exception as error:  # the caller's own error, to be raised as it is and not inside a group
                failure = error
            finally:
                for task in started:
                    task.cancel()
    finally:
        if slack is not None:
            await slack.close()
        await generator.close()
        await grounding.close()
        await database.close()
    if failure is not None:
        raise failure


async def _free_all_leases(database: Database) -> None:
    try:
        await database.write(inbox.free_all_leases, None)
        await database.write(outbox.free_all_leases, None)
    except StorageUnavailable as error:
        raise Unavailable(f"The database can't be used: {error}") from error


def article_links(settings: Settings) -> ArticleLinks:
    """Return the links to articles: those that the web chat may cite have pages beside it."""
    from adapters.article_links import ArticleLinks

    return ArticleLinks(settings.public_url, settings.web_audience)
