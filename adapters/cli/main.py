"""Entry point of the `myna` command.

Exit codes: 0 done, 1 failed, 2 wrong use, 3 refused by the gate.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from adapters.cli import (
    account_commands,
    answer_commands,
    article_commands,
    dataset_commands,
    evaluation_commands,
    intent_commands,
    job_commands,
    key_commands,
    model_commands,
    record_commands,
    release_commands,
    serve_commands,
    slack_commands,
)
from adapters.cli.hint_words import told
from adapters.cli.terminal import Command, say
from bot.errors import MynaError, RefusedByGate, SettingsError
from bot.settings import load_settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    for given in vars(arguments).values():
        if isinstance(given, str) and not _is_text(given):
            parser.error(f"{os.fsencode(given)!r} is not text in UTF-8")
    try:
        settings = load_settings(os.environ)
        _set_up_logging(settings.log_level)
        command: Command = arguments.command
        code = command(settings, arguments)
        sys.stdout.flush()
        return code
    except SettingsError as error:
        say(f"myna: {error.message}")
        return 2
    except RefusedByGate as error:
        say(f"myna: {told(error)} {release_commands.override_hint(error)}")
        return 3
    except MynaError as error:
        say(f"myna: {told(error)}")
        return 1
    except BaseExceptionGroup as group:
        say(f"myna: {_first_error(group)}")
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has gone; without this, Python would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        logging.getLogger("myna").debug("the command failed", exc_info=True)
        say(f"myna: {error.filename}: {error.strerror}" if error.filename else f"myna: {error}")
        return 1


def _is_text(argument: str) -> bool:
    """Return False for bytes that are not UTF-8: Python turns them into lone surrogates, which no database stores."""
    return not any("\ud800" <= sign <= "\udfff" for sign in argument)


def _first_error(group: BaseExceptionGroup[BaseException]) -> str:
    """Return the first error of the group as a message; log the group if it is not one of ours."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            return _first_error(error)
        if isinstance(error, MynaError):
            return told(error)
    logging.getLogger("myna").critical("a background task failed", exc_info=group)
    return f"a background task failed: {group.exceptions[0]!r}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="myna",
        description="Run and manage Myna, a self-hosted chat agent that learns from its own conversations.",
        epilog="`myna COMMAND --help` explains a command. Settings come from the environment "
        "and myna.toml; `myna settings` lists them.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    # The help lists the commands in this order.
    serve_commands.add_to(commands)
    model_commands.add_to(commands)
    record_commands.add_to(commands)
    answer_commands.add_to(article_commands.add_to(commands))
    intent_commands.add_to(commands)
    release_commands.add_to(commands)
    key_commands.add_to(commands)
    record_commands.add_usage_to(commands)
    dataset_commands.add_to(commands)
    job_commands.add_to(commands)
    slack_commands.add_to(commands)
    evaluation_commands.add_to(commands)
    account_commands.add_to(commands)
    account_commands.add_audit_to(commands)
    serve_commands.add_settings_to(commands)
    return parser


def _set_up_logging(level: str) -> None:
    logging.basicConfig(
        stream=sys.stderr, level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)


if __name__ == "__main__":
    sys.exit(main())
