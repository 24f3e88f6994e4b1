"""What all commands share: how they are added, what they print and where, and the database they work on.

Knows: argparse, standard output and standard error, whether the installation is running meanwhile. Does not know: any
command.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import getpass
import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from bot.errors import AlreadyRunning, InvalidInput, MynaError
from bot.settings import Settings

if TYPE_CHECKING:
    from rich.progress import Progress

    from bot.access.roles import Actor
    from storage.scope import Scope

T = TypeVar("T")
Command: TypeAlias = Callable[[Settings, argparse.Namespace], int]
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add(
    commands: Commands, name: str, help: str, command: Command, *, reports: bool = False
) -> argparse.ArgumentParser:
    """Add a command, and return its parser for its options. One that reports has `--json`."""
    parser = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
    parser.set_defaults(command=command)
    if reports:
        parser.add_argument("--json", action="store_true", help="print one JSON value for programs")
    return parser


def moment(text: str) -> int:
    """A date or time that a person wrote, in milliseconds since 1970; without a zone it is this machine's."""
    try:
        written = datetime.datetime.fromisoformat(text)
        return round(written.astimezone(datetime.UTC).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a date like 2026-11-22 or 2026-11-22T10:30") from None


def say(text: str) -> None:
    """Tell the person something that is not the result."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def read_stdin() -> str:
    """All of standard input. Raises `InvalidInput` for what is no text."""
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"Standard input is not text in UTF-8 (byte {error.start}).") from error


def print_value(value: object) -> None:
    """Print a result: text as it is, all else as one line of JSON."""
    print(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), flush=True)  # noqa: T201


class ProgressBar:
    """A bar on standard error, which is told of each step or of all that is done; nothing where nobody watches."""

    def __init__(self, bar: Progress | None, what: str, total: int | None) -> None:
        self._bar = bar
        self._task = bar.add_task(what, total=total) if bar is not None else None

    def advance(self, step: int) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, step)

    def reach(self, done: int, total: int) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total)


@contextlib.contextmanager
def progress_bar(what: str, total: int | None = None) -> Iterator[ProgressBar]:
    """Show a bar for work of `total` units, or of a number that is not known yet."""
    if not sys.stderr.isatty():
        yield ProgressBar(None, what, total)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        yield ProgressBar(bar, what, total)


def add_yes(parser: argparse.ArgumentParser) -> None:
    """Add `--yes`, for `confirm`."""
    parser.add_argument("--yes", action="store_true", help="don't ask for confirmation")


def confirm(arguments: argparse.Namespace, question: str) -> None:
    """Ask on a terminal. Raises `MynaError` for a no, and where nobody can be asked."""
    if arguments.yes:
        return
    if not sys.stdin.isatty():
        raise MynaError(f"{question} Nobody can be asked here: add --yes.")
    say(f"{question} [y/N]")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise MynaError("Nothing was changed.")


def shell_actor() -> Actor:
    """Who types here. Whoever can read the database's file may do everything anyway."""
    from bot.access.roles import Actor

    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user that has a number only
        name = "unknown"
    return Actor(f"shell:{name}", "admin")


def with_database(settings: Settings, work: Callable[[Scope], Awaitable[T]]) -> T:
    """Work on the database of an installation, running or not. One that doesn't exist yet is made."""
    from bot.access import installation
    from storage.schema import DEFAULT_WORKSPACE
    from storage.scope import Scope

    async def run(*, guest: bool) -> T:
        async with installation.open_database(settings, guest=guest) as database:
            return await work(Scope(database, DEFAULT_WORKSPACE))

    try:
        with installation.exclusive_use(settings):
            installation.migrate_database(settings, say)
            return asyncio.run(run(guest=False))
    except AlreadyRunning:  # then it has migrated its database, too
        return asyncio.run(run(guest=True))
