"""Helpers of all commands: parsers, output, confirmation, and access to the database."""

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
    """Add a command and return its parser, for its options; with `reports` it takes `--json`."""
    parser = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
    parser.set_defaults(command=command)
    if reports:
        parser.add_argument("--json", action="store_true", help="print the result as one JSON value")
    return parser


def add_group(commands: Commands, name: str, help: str) -> Commands:
    """Add a command that only holds others, such as `myna kb`, and return the parsers to add them to."""
    parser = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
    return parser.add_subparsers(required=True, metavar="ACTION")


def moment(text: str) -> int:
    """Parse an ISO 8601 date or time into milliseconds since 1970; local time unless it names a zone."""
    try:
        written = datetime.datetime.fromisoformat(text)
        return round(written.astimezone(datetime.UTC).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a date like 2026-11-22 or 2026-11-22T10:30") from None


def say(text: str) -> None:
    """Print a notice to standard error, apart from the result."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def reason_of(error: OSError | UnicodeDecodeError) -> str:
    """Return the reason why a file can't be read, without its name."""
    return error.strerror or str(error) if isinstance(error, OSError) else "it is not text in UTF-8"


def read_stdin() -> str:
    """Read all of standard input. Raises `InvalidInput` if it is not UTF-8."""
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"Standard input is not text in UTF-8 (byte {error.start}).") from error


def print_value(value: object) -> None:
    """Print a result to standard output: text as it is, any other value as one line of JSON."""
    print(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), flush=True)  # noqa: T201


class ProgressBar:
    """Progress bar on standard error; shows nothing where that is not a terminal."""

    def __init__(self, bar: Progress | None, what: str, total: int | None) -> None:
        self._bar = bar
        self._task = bar.add_task(what, total=total) if bar is not None else None

    def advance(self, step: int) -> None:
        """Count `step` more units as done."""
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, step)

    def reach(self, done: int, total: int) -> None:
        """Set the number of units done, and their total."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total)


@contextlib.contextmanager
def progress_bar(what: str, total: int | None = None) -> Iterator[ProgressBar]:
    """Show a progress bar for `total` units of work; None if their number is not known yet."""
    if not sys.stderr.isatty():
        yield ProgressBar(None, what, total)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        yield ProgressBar(bar, what, total)


def add_yes(parser: argparse.ArgumentParser) -> None:
    """Add the option `--yes`, which `confirm` reads."""
    parser.add_argument("--yes", action="store_true", help="don't ask for confirmation")


def confirm(arguments: argparse.Namespace, question: str) -> None:
    """Ask for a yes on the terminal, unless `--yes` is given. Raises `MynaError` for a no, or without a terminal."""
    if arguments.yes:
        return
    if not sys.stdin.isatty():
        raise MynaError(f"{question} There is no terminal to ask on: add --yes.")
    say(f"{question} [y/N]")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise MynaError("Nothing was changed.")


def shell_actor() -> Actor:
    """Return the shell's user as an admin: anybody who can read the database file may do everything anyway."""
    from bot.access.roles import Actor

    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have a number and no name
        name = "unknown"
    return Actor(f"shell:{name}", "admin")


def with_database(settings: Settings, work: Callable[[Scope], Awaitable[T]]) -> T:
    """Run `work` on the installation's database, whether Myna runs or not; create the database if there is none."""
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
    except AlreadyRunning:  # the running Myna has migrated the database already
        return asyncio.run(run(guest=True))
