"""Composition root: build the agent from the settings, and serve it until a signal.

The web channel is imported where it is built: a chat in a terminal starts without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.slack.channel import SlackChannel, SlackConfig
from adapters.slack.installations import App, StoredInstallations
from bot.access.accounts import Accounts
from bot.access.installation import Say, make_vault, secret_keys
from bot.access.vault import Vault, stored_secret
from bot.chat.delivery import Delivery, Poster
from bot.chat.feedback import Feedback
from bot.chat.reply_maker import ReplyPolicy
from bot.chat.turns import Conversations
from bot.completions.api_keys_access import ApiAccess
from bot.completions.completions import Completions
from bot.errors import MynaError, Unavailable, VersionError
from bot.generation.port import Generator, Sampling
from bot.jobs.worker_process import WorkerProcess
from bot.knowledge.grounding import Grounding
from bot.knowledge.setup import make_grounding
from bot.learning.release import canary_watch
from bot.learning.release.loaded_versions import ReleasedVersions
from bot.learning.release.releases import Releases
from bot.learning.versions import Versions
from bot.metrics import Metrics
from bot.privacy.learning_consent import Consent
from bot.settings import Settings
from bot.steering.steering import Steering
from storage import inbox, outbox
from storage.database import Database, StorageUnavailable
from storage.engines import sqlite_file, sqlite_is_unsafe
from storage.jobs import DEVICES
from storage.schema import DEFAULT_WORKSPACE
from storage.scope import Scope

if TYPE_CHECKING:
    from aiohttp import web
    from argon2 import PasswordHasher

    from adapters.admin.admin_api import AdminApi
    from adapters.article_links import ArticleLinks
    from adapters.http.origins import Origins

log = logging.getLogger("myna")


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
        lease_seconds=settings.lease_seconds,
        max_replies=settings.max_replies,
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
    policy = reply_policy(settings)
    released = ReleasedVersions(scope, generator, settings.data)
    releases = Releases(scope, released.note_change)
    keys = await asyncio.to_thread(secret_keys, settings)
    steering = Steering(scope, releases, keys[0])
    grounding = await asyncio.to_thread(make_grounding, settings, scope)
    conversations = Conversations(
        database, generator, released, policy, metrics, delivery=delivery, grounding=grounding
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


def make_web_app(agent: Agent) -> web.Application:
    """Return the web application of an agent: chat, articles, API, admin page and Slack."""
    from adapters.admin.guard import Guard
    from adapters.http.origins import Origins
    from adapters.http.server import Api, make_app
    from adapters.openai.api import OpenAiApi
    from adapters.openai.response_form import error_body
    from adapters.openai.v1_feedback import OpenAiFeedback
    from adapters.web.article_pages import ArticlePages
    from adapters.web.chat_api import ChatApi, ChatPage
    from adapters.web.chat_steering import WebSteering
    from adapters.web.feedback_api import FeedbackApi
    from adapters.web.visitors import Visitors
    from bot.knowledge.library import Library

    settings = agent.settings
    visitors = Visitors(
        settings.secret or stored_secret(settings.data), secure_cookie=settings.public_url.startswith("https://")
    )
    origins = Origins(settings.allowed_origins, settings.public_url)
    steering = WebSteering(agent.steering, Guard(agent.accounts, origins))
    page = ChatPage(settings.title, settings.greeting, settings.max_message_chars)
    links = article_links(settings)
    articles = ArticlePages(Library(agent.scope), links, settings.title)
    chat = ChatApi(
        agent.conversations, agent.feedback, visitors, page, agent.metrics, steering, links, agent.workspace_id
    )
    opinions = FeedbackApi(agent.conversations, visitors, agent.feedback, agent.consent, agent.workspace_id)
    # API callers set their own penalties; the default repetition penalty applies to chats only.
    sampling = replace(reply_policy(settings).sampling, repetition_penalty=settings.repetition_penalty or 1.0)
    models = OpenAiApi(agent.completions, agent.conversations, agent.access, sampling, links, agent.workspace_id)
    votes = OpenAiFeedback(agent.conversations, agent.feedback, agent.consent, agent.access, agent.workspace_id)
    apis: list[Api] = [chat, opinions, articles, models, votes, make_admin_api(agent, origins)]
    if agent.slack is not None:
        apis.append(agent.slack)
    return make_app(apis, origins, agent.metrics, agent.checks, {"/v1/": error_body})


def article_links(settings: Settings) -> ArticleLinks:
    """Return the links to articles: those that the web chat may cite have pages beside it."""
    from adapters.article_links import ArticleLinks

    return ArticleLinks(settings.public_url, settings.web_audience)


def make_admin_api(agent: Agent, origins: Origins) -> AdminApi:
    """Return the API of an agent's admin page."""
    from adapters.admin.assembly import assemble
    from bot.knowledge.knowledge_gaps import Gaps
    from bot.knowledge.library import Library
    from bot.privacy.erasure.erase_person import Erasure
    from bot.privacy.redaction.redactor import hide_personal_data

    settings = agent.settings
    erasure = Erasure(
        agent.scope, settings.data, secret_keys(settings), settings.erasure_policy, agent.released.note_change
    )
    library = Library(agent.scope)
    hide = hide_personal_data(settings.regions)
    gaps = Gaps(agent.scope, agent.grounding, library, hide)
    return assemble(
        agent.scope,
        title=settings.title,
        base=settings.model,
        origins=origins,
        accounts=agent.accounts,
        releases=agent.releases,
        consent=agent.consent,
        erasure=erasure,
        library=library,
        grounding=agent.grounding,
        gaps=gaps,
    )


async def serve(settings: Settings, generator: Generator, say: Say) -> None:
    """Serve until SIGTERM or SIGINT; a second signal ends running replies at once."""
    if warning := sqlite_is_unsafe(settings.resolved_database_url):
        log.warning(warning)
    if settings.api_keys == "off" and not _is_loopback(settings.host):
        raise MynaError(
            f"MYNA_API_KEYS=off would let everybody who reaches {settings.host} use the model. Create keys with "
            "`myna key create NAME`, or listen on 127.0.0.1."
        )
    from aiohttp import web

    stopping = _stop_on_signals()
    async with running_agent(settings, generator) as agent:
        workers = [WorkerProcess(agent.database, device) for device in DEVICES]
        runner = web.AppRunner(make_web_app(agent), access_log=None, shutdown_timeout=2.0)
        await runner.setup()
        try:
            say(f"Myna listens on {await _listen(runner, settings)} - loading the model {generator.model} ...")
            async with asyncio.TaskGroup() as group:
                loading = group.create_task(_load(agent, say), name="load-model")
                started = [loading]
                if agent.slack:
                    started.append(group.create_task(agent.slack.greet(say), name="greet-slack"))
                if settings.training == "on":
                    started += [group.create_task(worker.keep(), name="keep-worker") for worker in workers]
                await stopping.wait()
                for worker in workers:
                    worker.terminate()
                for task in started:
                    task.cancel()
            say("Stopping: running replies may finish.")
            await _drain_until_second_signal(agent, settings.grace_seconds, stopping)
        finally:
            await runner.cleanup()
            await asyncio.gather(*(worker.close(settings.grace_seconds) for worker in workers))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _load(agent: Agent, say: Say) -> None:
    """Load the model, and the versions put into the data folder by hand; `agent.released` loads the registered ones."""
    generator = agent.generator
    await generator.start()
    trained = {version.name for version in await Versions(agent.scope).list_all()}
    for folder in await asyncio.to_thread(_version_folders, agent.settings.data / "versions"):
        if folder.name in trained:
            continue
        try:
            await generator.load_version(folder.name, folder)
        except VersionError as error:
            say(f"The version {folder.name} is left out: {error.message}")
    try:
        await agent.grounding.warm()
    except MynaError as error:
        say(f"The articles can't be searched: {error.message}")
    loaded = ", ".join(generator.versions)
    say("The model is loaded; Myna answers." + (f" Versions beside it: {loaded}." if loaded else ""))


def _version_folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []


async def _listen(runner: web.AppRunner, settings: Settings) -> str:
    from aiohttp import web

    site = web.TCPSite(runner, settings.host, settings.port, backlog=1024)
    try:
        await site.start()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise MynaError(
            f"Myna can't listen on {settings.host}:{settings.port} ({reason}). "
            "Stop the program that listens there, or choose another MYNA_PORT or MYNA_HOST."
        ) from error
    host, port = runner.addresses[0][:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _stop_on_signals() -> asyncio.Event:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    return stopping


async def _drain_until_second_signal(agent: Agent, grace_seconds: float, stopping: asyncio.Event) -> None:
    stopping.clear()
    draining = asyncio.create_task(agent.drain(grace_seconds))
    again = asyncio.create_task(stopping.wait())
    await asyncio.wait({draining, again}, return_when=asyncio.FIRST_COMPLETED)
    again.cancel()
    if not draining.done():
        draining.cancel()
        await agent.drain(0.0)
    await asyncio.gather(draining, again, return_exceptions=True)
