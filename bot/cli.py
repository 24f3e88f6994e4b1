"""The `myna` command.

Knows: names of commands and their options, exit codes (0 done, 1 failed, 2 wrong use). Does not know: how anything is
done.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import dataclasses
import datetime
import json
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from bot.errors import AlreadyRunning, MynaError, SettingsError
from bot.generator import Generator
from bot.settings import Settings, describe_settings, load_settings

if TYPE_CHECKING:
    from storage.database import Database

T = TypeVar("T")
Command = Callable[[Settings, argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        settings = load_settings(os.environ)
        _set_up_logging(settings.log_level)
        command: Command = arguments.command
        code = command(settings, arguments)
        sys.stdout.flush()
        return code
    except SettingsError as error:
        _say(f"myna: {error.message}")
        return 2
    except MynaError as error:
        _say(f"myna: {error.message}")
        return 1
    except BaseExceptionGroup as group:
        _say(f"myna: {_first_error(group)}")
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone; without this, Python would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        logging.getLogger("myna").debug("the command failed", exc_info=True)
        _say(f"myna: {error.filename}: {error.strerror}" if error.filename else f"myna: {error}")
        return 1


def _first_error(group: BaseExceptionGroup[BaseException]) -> str:
    """What to tell the person; the rest goes to the log."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            return _first_error(error)
        if isinstance(error, MynaError):
            return error.message
    logging.getLogger("myna").critical("a background task failed", exc_info=group)
    return f"a background task failed: {group.exceptions[0]!r}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="myna", description="A self-hosted chat agent that learns from its own conversations.",
        epilog="Settings come from the environment and myna.toml; `myna settings` lists them.",
    )  # fmt: skip
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add(commands, "serve", "serve the web chat", _serve)
    _add(commands, "chat", "chat in this terminal", _chat)
    _add(commands, "migrate", "bring the database up to date", _migrate, reports=True)
    model = commands.add_parser("model", help="fetch or list models").add_subparsers(required=True, metavar="ACTION")
    pull = _add(model, "pull", "fetch a model, or make the starter model", _model_pull, reports=True)
    pull.add_argument("name", nargs="?", help="default: MYNA_MODEL")
    _add(model, "list", "list the models in MYNA_DATA", _model_list, reports=True)
    export = _add(commands, "export", "print all conversations as JSON lines", _export)
    export.add_argument("--out", type=Path, metavar="FILE", help="write to a file instead")
    export.add_argument("--json", action="store_true", help="with --out: print one JSON value for programs")
    export.add_argument(
        "--since", type=_moment, default=0, metavar="DATE", help="only those used since, like 2026-11-22"
    )
    export.add_argument("--channel", help="only those of one channel: web, console, ...")
    key = commands.add_parser("key", help="make, list or revoke API keys").add_subparsers(
        required=True, metavar="ACTION"
    )
    create = _add(key, "create", "make a key and print its secret, once", _key_create, reports=True)
    create.add_argument("name", help="whose it is, like shop-backend")
    create.add_argument("--requests-per-minute", type=int, metavar="N", help="default: no limit")
    create.add_argument("--tokens-per-day", type=int, metavar="N", help="prompt and reply together; default: no limit")
    _add(key, "list", "list all keys", _key_list, reports=True)
    revoke = _add(key, "revoke", "make a key invalid at once", _key_revoke, reports=True)
    revoke.add_argument("which", help="its name or id")
    usage = _add(commands, "usage", "print what the API was used for, as CSV", _usage)
    usage.add_argument("--out", type=Path, metavar="FILE", help="write to a file instead")
    usage.add_argument("--since", type=_moment, default=0, metavar="DATE", help="only since, like 2026-11-22")
    usage.add_argument("--json", action="store_true", help="print JSON lines instead of CSV")
    slack = commands.add_parser("slack", help="connect to Slack").add_subparsers(required=True, metavar="ACTION")
    manifest = _add(slack, "manifest", "print the manifest to make the Slack app from", _slack_manifest)
    manifest.add_argument("--socket-mode", action="store_true", help="for a machine that Slack can't reach")
    manifest.add_argument("--many-workspaces", action="store_true", help="for an app that others install, too")
    doctor = _add(slack, "doctor", "check everything between Myna and Slack", _slack_doctor, reports=True)
    doctor.add_argument("--config-token", default="", metavar="TOKEN", help="app configuration token, to see events")
    _add(slack, "installations", "list where the app is installed", _slack_installations, reports=True)
    _add(slack, "rotate-key", "encrypt all stored tokens with a new key", _slack_rotate_key, reports=True)
    _add(commands, "settings", "list all settings and their values", _settings, reports=True)
    return parser


def _add(commands: Any, name: str, help: str, command: Command, *, reports: bool = False) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
    parser.set_defaults(command=command)
    if reports:
        parser.add_argument("--json", action="store_true", help="print one JSON value for programs")
    return parser


def _moment(text: str) -> int:
    try:
        moment = datetime.datetime.fromisoformat(text)
        return round(moment.astimezone(datetime.UTC).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a date like 2026-11-22 or 2026-11-22T10:30") from None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def _print(value: object) -> None:
    print(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), flush=True)  # noqa: T201


def _set_up_logging(level: str) -> None:
    logging.basicConfig(
        stream=sys.stderr, level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _serve(settings: Settings, _: argparse.Namespace) -> int:
    from bot import app

    with app.exclusive_use(settings):
        app.migrate_database(settings, _say)
        asyncio.run(app.serve(settings, app.make_generator(settings, _say), _say))
    _say("Stopped.")
    return 0


def _chat(settings: Settings, _: argparse.Namespace) -> int:
    from adapters import console
    from bot import app

    async def run(generator: Generator) -> None:
        async with app.running_agent(settings, generator) as agent:
            _say("Loading the model ...")
            await generator.start()
            await console.chat(agent.conversations, agent.workspace_id)

    with app.exclusive_use(settings):
        app.migrate_database(settings, _say)
        asyncio.run(run(app.make_generator(settings, _say)))
    return 0


def _migrate(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot import app

    with app.exclusive_use(settings):
        done = app.migrate_database(settings, _say)
    backup = str(done.backup) if done.backup else None
    if arguments.json:
        _print({"before": done.before, "after": done.after, "backup": backup})
    elif done.before == done.after:
        _print(f"The database is up to date (revision {done.after}).")
    return 0


def _model_pull(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot.engine.model_store import resolve_model

    path = resolve_model(arguments.name or settings.model, settings.data, _say)
    _print({"path": str(path)} if arguments.json else str(path))
    return 0


def _model_list(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot.engine.model_store import list_models

    found = list_models(settings.data)
    if arguments.json:
        _print(
            [{"name": one.name, "path": str(one.path), "bytes": one.size_bytes, "source": one.source} for one in found]
        )
    elif not found:
        _print("No model yet. `myna model pull` fetches the starter model.")
    for one in () if arguments.json else found:
        _print(f"{one.name}  {one.size_bytes / 1e6:,.0f} MB  {one.path}  ({one.source})")
    return 0


def _export(settings: Settings, arguments: argparse.Namespace) -> int:
    if arguments.out is None:
        count = asyncio.run(_write_export(settings, arguments, sys.stdout))
    else:
        draft = arguments.out.with_name(arguments.out.name + ".part")
        try:
            with draft.open("w", encoding="utf-8") as file:
                count = asyncio.run(_write_export(settings, arguments, file))
            draft.replace(arguments.out)
        except OSError as error:
            raise MynaError(f"{arguments.out} can't be written: {error.strerror}") from error
        finally:
            draft.unlink(missing_ok=True)  # an export that fails leaves an earlier one as it was
    if arguments.json and arguments.out is not None:
        _print({"conversations": count, "file": str(arguments.out)})
    else:
        _say(f"{count} conversation{'' if count == 1 else 's'} exported.")
    return 0


async def _write_export(settings: Settings, arguments: argparse.Namespace, file: TextIO) -> int:
    from bot import app
    from bot.export import export_rows
    from storage.schema import DEFAULT_WORKSPACE

    count = 0
    async with app.open_database(settings, read_only=True) as database:
        rows = export_rows(database, DEFAULT_WORKSPACE, since_ms=arguments.since, channel=arguments.channel)
        async for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def _key_create(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot.api_access import create_key

    secret = _with_database(
        settings,
        lambda database, workspace_id: create_key(
            database, workspace_id, arguments.name, arguments.requests_per_minute, arguments.tokens_per_day
        ),
    )
    _print({"name": arguments.name, "secret": secret} if arguments.json else secret)
    if not arguments.json:
        _say("Keep it safe: it is not stored and can't be shown again.")
    return 0


def _key_list(settings: Settings, arguments: argparse.Namespace) -> int:
    from storage import api_keys

    found = _with_database(settings, lambda database, workspace_id: database.read(api_keys.list_keys, workspace_id))
    if arguments.json:
        _print([dataclasses.asdict(one) for one in found])
    elif not found:
        _print("No key yet. `myna key create NAME` makes one.")
    for one in () if arguments.json else found:
        limits = [
            f"{one.requests_per_minute:,} requests a minute" if one.requests_per_minute else "",
            f"{one.tokens_per_day:,} tokens a day" if one.tokens_per_day else "",
        ]
        state = "revoked" if one.revoked_at else ", ".join(filter(None, limits)) or "no limit"
        _print(f"{one.name}  {one.hint}...  {state}  ({one.id})")
    return 0


def _key_revoke(settings: Settings, arguments: argparse.Namespace) -> int:
    from storage import api_keys

    revoked = _with_database(
        settings, lambda database, workspace_id: database.write(api_keys.revoke_key, workspace_id, arguments.which)
    )
    if not revoked:
        raise MynaError(f'There is no valid key "{arguments.which}". `myna key list` shows all.')
    _print({"revoked": arguments.which} if arguments.json else f"The key {arguments.which} is no longer valid.")
    return 0


def _usage(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot.export import USAGE_COLUMNS, usage_rows

    def write(rows: Iterable[dict[str, Any]], file: TextIO) -> None:
        if arguments.json:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        else:
            table = csv.DictWriter(file, USAGE_COLUMNS)
            table.writeheader()
            table.writerows(rows)

    async def collect(database: Database, workspace_id: str) -> list[dict[str, Any]]:
        return [row async for row in usage_rows(database, workspace_id, arguments.since)]

    rows = _with_database(settings, collect)
    if arguments.out is None:
        write(rows, sys.stdout)
    else:
        with arguments.out.open("w", encoding="utf-8", newline="") as file:
            write(rows, file)
        _say(f"{len(rows)} request{'' if len(rows) == 1 else 's'} written.")
    return 0


def _slack_manifest(settings: Settings, arguments: argparse.Namespace) -> int:
    from adapters.slack.manifest import make_manifest

    socket_mode = arguments.socket_mode or bool(settings.slack_app_token)
    many_workspaces = arguments.many_workspaces or bool(settings.slack_client_id)
    manifest = make_manifest(
        settings.title, settings.public_url.rstrip("/"), socket_mode=socket_mode, many_workspaces=many_workspaces
    )
    _print(json.dumps(manifest, ensure_ascii=False, indent=2))
    if not socket_mode and not settings.public_url:
        _say("Replace https://your.address by the address of this machine, or set MYNA_PUBLIC_URL.")
    return 0


def _slack_doctor(settings: Settings, arguments: argparse.Namespace) -> int:
    from adapters.slack.doctor import Doctor
    from bot import app

    config = app.slack_config(settings)

    async def examine(database: Database | None) -> list[dict[str, str]]:
        installations = app.make_installations(settings, database) if database else None
        findings = []
        async for one in Doctor(config, installations, arguments.config_token).examine():
            findings.append({"state": one.state, "text": one.text})
            if not arguments.json:
                _print(f"{_MARKS[one.state]}  {one.text}")
        return findings

    if config.takes_many_workspaces:
        findings = _with_database(settings, lambda database, _: examine(database))
    else:
        findings = asyncio.run(examine(None))
    if arguments.json:
        _print(findings)
    return 1 if any(one["state"] == "wrong" for one in findings) else 0


_MARKS = {"ok": "ok ", "wrong": "FIX", "unknown": " ? "}


def _slack_installations(settings: Settings, arguments: argparse.Namespace) -> int:
    from storage import slack_installs

    found = _with_database(
        settings, lambda database, workspace_id: database.read(slack_installs.list_all, workspace_id)
    )
    if arguments.json:
        _print([{"tenant": one.tenant, "name": one.name, "scopes": one.scopes.split(",")} for one in found])
    elif not found:
        _print("The Slack app is installed nowhere yet. Open /slack/install in a browser.")
    for one in () if arguments.json else found:
        _print(f"{one.name}  {one.tenant}")
    return 0


def _slack_rotate_key(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot import app
    from bot.vault import add_key, forget_old_keys

    if not settings.encryption_keys:
        add_key(settings.data)
    elif len(settings.encryption_keys) < 2:
        raise MynaError("Put the new key before the old one in MYNA_ENCRYPTION_KEYS, restart Myna, and say this again.")
    count = _with_database(settings, lambda database, _: app.make_installations(settings, database).encrypt_anew())
    if not settings.encryption_keys:
        forget_old_keys(settings.data)
    if arguments.json:
        _print({"encrypted_anew": count})
    else:
        _print(f"The tokens of {count} workspace{'' if count == 1 else 's'} are encrypted with the new key now.")
    return 0


def _with_database(settings: Settings, work: Callable[[Database, str], Awaitable[T]]) -> T:
    """Work on the database of an installation, running or not. One that doesn't exist yet is made."""
    from bot import app
    from storage.schema import DEFAULT_WORKSPACE

    async def run(*, guest: bool) -> T:
        async with app.open_database(settings, guest=guest) as database:
            return await work(database, DEFAULT_WORKSPACE)

    try:
        with app.exclusive_use(settings):
            app.migrate_database(settings, _say)
            return asyncio.run(run(guest=False))
    except AlreadyRunning:  # then it has migrated its database, too
        return asyncio.run(run(guest=True))


def _settings(settings: Settings, arguments: argparse.Namespace) -> int:
    shown = []
    for one in describe_settings():
        value = getattr(settings, one.field)
        shown.append(
            {"name": one.name, "value": "(set)" if one.secret and value else _plain(value), "type": one.type,
             "default": one.default, "help": one.help}
        )  # fmt: skip
    if arguments.json:
        _print(shown)
    for row in () if arguments.json else shown:
        _print(f"{row['name']} = {row['value']!s}\n    {row['help']}")
    return 0


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value


if __name__ == "__main__":
    sys.exit(main())
