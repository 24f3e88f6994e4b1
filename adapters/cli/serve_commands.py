"""Running Myna on this machine: `myna serve`, `chat`, `migrate` and `settings`."""

from __future__ import annotations

import argparse
import asyncio
import logging
from pathlib import Path

from adapters.cli.terminal import Commands, add, print_value, say, shell_actor
from bot.generation.port import Generator
from bot.settings import Settings, describe_settings


def add_to(commands: Commands) -> None:
    """Add `serve`, `chat` and `migrate`."""
    add(commands, "serve", "run the server: web chat, admin page, API and Slack", _serve)
    add(commands, "chat", "chat in this terminal", _chat)
    add(
        commands,
        "migrate",
        "migrate the database to the schema of this Myna; SQLite is backed up first",
        _migrate,
        reports=True,
    )


def add_settings_to(commands: Commands) -> None:
    """Add `settings`; the help lists it last."""
    add(commands, "settings", "list all settings with their values and meanings", _settings, reports=True)


def _serve(settings: Settings, _: argparse.Namespace) -> int:
    from adapters.cli import serving, wiring
    from bot.access import installation

    with installation.exclusive_use(settings):
        installation.migrate_database(settings, say)
        asyncio.run(serving.serve(settings, wiring.make_generator(settings, say), say))
    say("Stopped.")
    return 0


def _chat(settings: Settings, _: argparse.Namespace) -> int:
    from adapters.cli import chat_console, wiring
    from bot.access import installation

    async def run(generator: Generator) -> None:
        async with wiring.running_agent(settings, generator) as agent:
            say("Loading the model ...")
            await generator.start()
            await chat_console.chat(
                agent.conversations, agent.feedback, agent.consent, agent.steering, shell_actor(), agent.workspace_id
            )

    logging.getLogger("myna.turn").setLevel(logging.WARNING)  # the terminal shows the conversation itself
    with installation.exclusive_use(settings):
        installation.migrate_database(settings, say)
        asyncio.run(run(wiring.make_generator(settings, say)))
    return 0


def _migrate(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot.access import installation

    with installation.exclusive_use(settings):
        done = installation.migrate_database(settings, say)
    backup = str(done.backup) if done.backup else None
    if arguments.json:
        print_value({"before": done.before, "after": done.after, "backup": backup})
    elif done.before == done.after:
        print_value(f"The database is up to date (revision {done.after}).")
    return 0


def _settings(settings: Settings, arguments: argparse.Namespace) -> int:
    shown = []
    for setting in describe_settings():
        value = getattr(settings, setting.field)
        shown.append(
            {
                "name": setting.name,
                "value": "(set)" if setting.secret and value else _plain(value),
                "type": setting.type,
                "default": setting.default,
                "help": setting.help,
            }
        )
    if arguments.json:
        print_value(shown)
    for row in () if arguments.json else shown:
        print_value(f"{row['name']} = {row['value']!s}\n    {row['help']}")
    return 0


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
