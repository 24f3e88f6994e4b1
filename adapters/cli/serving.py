"""The server of `myna serve`: start, model loading, workers, and an orderly stop on signals."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from adapters.cli.web_wiring import make_web_app
from adapters.cli.wiring import Agent, running_agent
from bot.access.installation import Say
from bot.errors import MynaError, VersionError
from bot.generation.port import Generator
from bot.jobs.worker_process import WorkerProcess
from bot.learning.versions import Versions
from bot.settings import Settings
from storage.engines import sqlite_is_unsafe
from storage.jobs import DEVICES

if TYPE_CHECKING:
    from aiohttp import web

log = logging.getLogger("myna")


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
