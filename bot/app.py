"""Composition: puts the parts together and runs them until told to stop.

Knows: every part, the order of start and stop. Does not know: what any part does inside. Only `bot.cli` imports this.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from adapters.web.chat_api import ChatApi, ChatPage
from adapters.web.server import make_app
from adapters.web.visitors import Origins, Visitors
from bot.conversation import Conversations, ReplyPolicy
from bot.delivery import Delivery, Poster
from bot.errors import AlreadyRunning, MynaError, Unavailable
from bot.generator import Generator, Sampling
from bot.metrics import Metrics
from bot.settings import Settings
from storage import health, inbox, migrate, outbox
from storage.database import Database, StorageUnavailable, sqlite_is_unsafe
from storage.process_lock import ProcessLock
from storage.schema import DEFAULT_WORKSPACE

log = logging.getLogger("myna")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Agent:
    """The running agent, without any channel."""

    settings: Settings
    database: Database
    generator: Generator
    conversations: Conversations
    delivery: Delivery
    metrics: Metrics
    workspace_id: str

    async def checks(self) -> dict[str, bool]:
        """What readiness depends on."""
        return {
            "database": await health.answers(self.database),
            "model": self.generator.ready,
            "accepting": self.conversations.accepting,
        }


def make_generator(settings: Settings, say: Say) -> Generator:
    """The generator that the settings name."""
    if settings.generator == "remote":
        from bot.remote import RemoteGenerator

        return RemoteGenerator(
            settings.remote_url, model=settings.model, key=settings.remote_key, context_tokens=settings.context_tokens
        )
    from bot.engine.local import LocalGenerator
    from bot.engine.model_store import resolve_model

    return LocalGenerator(
        resolve_model(settings.model, settings.data, say),
        name=settings.model,
        device=settings.device,
        context_tokens=settings.context_tokens,
        queue_limit=settings.max_waiting,
        threads=settings.threads or None,
    )


def reply_policy(settings: Settings, pushed_channels: frozenset[str] = frozenset()) -> ReplyPolicy:
    """How replies are made, out of the settings."""
    return ReplyPolicy(
        system_prompt=settings.system_prompt,
        sampling=Sampling(
            max_tokens=settings.max_reply_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            repetition_penalty=settings.repetition_penalty,
        ),
        context_tokens=settings.context_tokens,
        lease_seconds=settings.lease_seconds,
        max_replies=settings.max_replies,
        pushed_channels=pushed_channels,
    )


@contextlib.contextmanager
def exclusive_use(settings: Settings) -> Iterator[None]:
    """The data folder's lock, where the database allows one process only. Raises `AlreadyRunning`."""
    settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not settings.resolved_database_url.startswith("sqlite"):
        yield
        return
    lock = ProcessLock(settings.data)
    if not lock.acquire():
        raise AlreadyRunning(
            f"Another Myna (process {lock.holder()}) already uses {settings.data}. Stop it first, give this one its own "
            "folder with MYNA_DATA, or let both share a PostgreSQL database with MYNA_DATABASE_URL."
        )
    try:
        yield
    finally:
        lock.release()


def migrate_database(settings: Settings, say: Say) -> migrate.Migrated:
    """Bring the database up to date, and say so if that meant something."""
    try:
        done = migrate.upgrade(settings.resolved_database_url)
    except migrate.WrongRevision as error:
        raise MynaError(str(error)) from error
    except StorageUnavailable as error:
        raise Unavailable(f"The database can't be used: {error}") from error
    if done.before != done.after:
        say(f"Database migrated from {done.before or 'nothing'} to {done.after}." + _backup_note(done))
    return done


def _backup_note(done: migrate.Migrated) -> str:
    return f" A copy of the old one is at {done.backup}." if done.backup else ""


@contextlib.asynccontextmanager
async def running_agent(
    settings: Settings, generator: Generator, posters: dict[str, Poster] | None = None
) -> AsyncIterator[Agent]:
    """An agent that works: its database migrated, its tasks watched. A task that fails ends the `async with` with its error."""
    database, metrics = Database(settings.resolved_database_url), Metrics()
    conversations = Conversations(database, generator, reply_policy(settings, frozenset(posters or {})), metrics)
    delivery = Delivery(database, posters or {})
    agent = Agent(settings, database, generator, conversations, delivery, metrics, DEFAULT_WORKSPACE)
    if not database.many_processes:
        await database.write(inbox.free_all_leases, None)
        await database.write(outbox.free_all_leases, None)
    tasks: list[Coroutine[Any, Any, None]] = [conversations.work(), conversations.keep_leases()]
    if posters:
        tasks.append(delivery.work())
    try:
        async with asyncio.TaskGroup() as group:
            started = [group.create_task(task) for task in tasks]
            try:
                yield agent
                await conversations.drain(settings.grace_seconds)
                await delivery.drain()
            finally:
                for task in started:
                    task.cancel()
    finally:
        await generator.close()
        await database.close()


def make_web_app(agent: Agent) -> web.Application:
    """The web channel of an agent."""
    settings = agent.settings
    visitors = Visitors(
        settings.secret or _stored_secret(settings.data), secure_cookie=settings.public_url.startswith("https://")
    )
    page = ChatPage(settings.title, settings.greeting, settings.max_message_chars)
    api = ChatApi(agent.conversations, visitors, page, agent.metrics, agent.workspace_id)
    return make_app(api, Origins(settings.allowed_origins, settings.public_url), agent.metrics, agent.checks)


def _stored_secret(data: Path) -> str:
    """The signing key of this installation, made at the first start. It must outlive restarts, or visitors lose their chats."""
    path = data / "secret.key"
    with (
        contextlib.suppress(FileExistsError),
        os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file,
    ):
        file.write(secrets.token_urlsafe(32))
    return path.read_text(encoding="utf-8").strip()


async def serve(settings: Settings, generator: Generator, say: Say) -> None:
    """Serve the web chat until SIGTERM or SIGINT; a second signal doesn't wait for running replies."""
    if warning := sqlite_is_unsafe(settings.resolved_database_url):
        log.warning(warning)
    stopping = _stop_on_signals()
    async with running_agent(settings, generator) as agent:
        runner = web.AppRunner(make_web_app(agent), access_log=None, shutdown_timeout=2.0)
        await runner.setup()
        try:
            say(f"Myna listens on {await _listen(runner, settings)} - loading the model {generator.model} ...")
            async with asyncio.TaskGroup() as group:
                loading = group.create_task(_load(generator, say), name="load-model")
                await stopping.wait()
                loading.cancel()
            say("Stopping: running replies may finish.")
            await _drain_until_second_signal(agent, settings.grace_seconds, stopping)
        finally:
            await runner.cleanup()


async def _load(generator: Generator, say: Say) -> None:
    await generator.start()
    say("The model is loaded; Myna answers.")


async def _listen(runner: web.AppRunner, settings: Settings) -> str:
    site = web.TCPSite(runner, settings.host, settings.port, backlog=1024)
    try:
        await site.start()
    except OSError as error:
        raise MynaError(
            f"Myna can't listen on {settings.host}:{settings.port}: {error.strerror}. Choose another MYNA_PORT."
        ) from error
    host, port = runner.addresses[0][:2]
    return f"http://{host}:{port}"


def _stop_on_signals() -> asyncio.Event:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    return stopping


async def _drain_until_second_signal(agent: Agent, grace_seconds: float, stopping: asyncio.Event) -> None:
    stopping.clear()
    draining = asyncio.create_task(agent.conversations.drain(grace_seconds))
    again = asyncio.create_task(stopping.wait())
    await asyncio.wait({draining, again}, return_when=asyncio.FIRST_COMPLETED)
    again.cancel()
    if not draining.done():
        draining.cancel()
        await agent.conversations.drain(0.0)
    await asyncio.gather(draining, again, return_exceptions=True)
