"""What has been said and used, out of the database: `myna export` and `myna usage`.

Knows: files, JSON lines and CSV. Does not know: what stands in a row.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from bot.commands.terminal import Commands, add, moment, print_value, say, with_database
from bot.errors import MynaError
from bot.settings import Settings

if TYPE_CHECKING:
    from storage.database import Database


def add_to(commands: Commands) -> None:
    """Add `export`."""
    export = add(commands, "export", "print all conversations as JSON lines", _export)
    export.add_argument("--out", type=Path, metavar="FILE", help="write to a file instead")
    export.add_argument("--json", action="store_true", help="with --out: print one JSON value for programs")
    export.add_argument(
        "--since", type=moment, default=0, metavar="DATE", help="only those used since, like 2026-11-22"
    )
    export.add_argument("--channel", help="only those of one channel: web, console, ...")


def add_usage_to(commands: Commands) -> None:
    """Add `usage`, which the help lists after the keys that it is about."""
    usage = add(commands, "usage", "print what the API was used for, as CSV", _usage)
    usage.add_argument("--out", type=Path, metavar="FILE", help="write to a file instead")
    usage.add_argument("--since", type=moment, default=0, metavar="DATE", help="only since, like 2026-11-22")
    usage.add_argument("--json", action="store_true", help="print JSON lines instead of CSV")


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
        print_value({"conversations": count, "file": str(arguments.out)})
    else:
        say(f"{count} conversation{'' if count == 1 else 's'} exported.")
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

    rows = with_database(settings, collect)
    if arguments.out is None:
        write(rows, sys.stdout)
    else:
        with arguments.out.open("w", encoding="utf-8", newline="") as file:
            write(rows, file)
        say(f"{len(rows)} request{'' if len(rows) == 1 else 's'} written.")
    return 0
