"""Import and export of conversations and usage: `myna import`, `myna export` and `myna usage`."""

from __future__ import annotations

import argparse
import asyncio
import csv
import functools
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from adapters.cli.terminal import Commands, add, moment, print_value, progress_bar, say, shell_actor, with_database
from bot.errors import MynaError
from bot.settings import Settings

if TYPE_CHECKING:
    from bot.learning.data.importing import CheckedFile, Form
    from storage.imports import TakenIn
    from storage.scope import Scope

_FORM_OF_SUFFIX: dict[str, Form] = {".jsonl": "json lines", ".ndjson": "json lines", ".csv": "csv"}


def add_to(commands: Commands) -> None:
    """Add `import` and `export`."""
    take = add(commands, "import", "import conversations from a file", _import, reports=True)
    take.add_argument("file", help="a file of JSON lines or CSV; - reads standard input")
    take.add_argument("--skip-bad", action="store_true", help="leave out invalid rows, and import the others")
    take.add_argument(
        "--dry-run", action="store_true", help="check the file and count its conversations, but import nothing"
    )
    export = add(commands, "export", "export conversations as JSON lines", _export)
    export.add_argument("--out", type=Path, metavar="FILE", help="write to this file; default: standard output")
    export.add_argument("--json", action="store_true", help="with --out: print the result as one JSON value")
    export.add_argument(
        "--since",
        type=moment,
        default=0,
        metavar="DATE",
        help="only conversations used since this date, like 2026-11-22",
    )
    export.add_argument("--channel", help="only conversations of this channel: web, console, import, ...")
    export.add_argument("--learnable", action="store_true", help="leave out messages that may not be learnt from")
    export.add_argument(
        "--pairs",
        action="store_true",
        help="export preference pairs (prompt, chosen, rejected) instead; only messages that may be learnt from",
    )


def add_usage_to(commands: Commands) -> None:
    """Add `usage`; the help lists it after `key`, whose use it reports."""
    usage = add(commands, "usage", "export the requests to the API and their tokens as CSV", _usage)
    usage.add_argument("--out", type=Path, metavar="FILE", help="write to this file; default: standard output")
    usage.add_argument(
        "--since", type=moment, default=0, metavar="DATE", help="only requests since this date, like 2026-11-22"
    )
    usage.add_argument("--json", action="store_true", help="print JSON lines instead of CSV")


def _import(settings: Settings, arguments: argparse.Namespace) -> int:
    checked = _check(arguments.file)
    try:
        return _take_in(settings, arguments, checked)
    finally:
        checked.good.close()


def _check(name: str) -> CheckedFile:
    from bot.learning.data.importing import check_file

    if name == "-":
        with progress_bar("Checking") as bar:
            return check_file(sys.stdin.buffer, None, bar.advance)
    path = Path(name)
    if path.is_dir():
        raise MynaError(f"{path} is a folder; name a file in it.")
    with path.open("rb") as file, progress_bar("Checking", path.stat().st_size or None) as bar:
        return check_file(file, _FORM_OF_SUFFIX.get(path.suffix.lower()), bar.advance)


def _take_in(settings: Settings, arguments: argparse.Namespace, checked: CheckedFile) -> int:
    _show_problems(checked)
    if checked.wrong and (not arguments.skip_bad or not checked.good):
        if arguments.json:
            print_value(_report(checked, dry_run=arguments.dry_run))
        rows = f"{checked.wrong:,} row{' is' if checked.wrong == 1 else 's are'} invalid"
        hint = "Correct the file, or skip them with --skip-bad." if checked.good else "There is no valid row."
        raise MynaError(f"Nothing was imported: {rows}, {len(checked.good):,} valid. {hint}")
    done = _count_new(settings, checked) if arguments.dry_run else _store(settings, arguments.file, checked)
    if arguments.json:
        print_value(_report(checked, done, dry_run=arguments.dry_run))
        return 0
    verb = "would be imported" if arguments.dry_run else "imported"
    left_out = f" {checked.wrong:,} left out." if checked.wrong else ""
    messages = f" with {done.messages:,} messages" if done.messages else ""
    word = "conversation" if done.conversations == 1 else "conversations"
    print_value(f"{done.conversations:,} {word}{messages} {verb}, {done.known:,} already known.{left_out}")
    return 0


def _store(settings: Settings, name: str, checked: CheckedFile) -> TakenIn:
    from bot.learning.data.importing import take_in

    file_name = "standard input" if name == "-" else Path(name).name
    with progress_bar("Importing", len(checked.good)) as bar:
        return with_database(settings, lambda scope: take_in(scope, shell_actor(), file_name, checked, bar.advance))


def _count_new(settings: Settings, checked: CheckedFile) -> TakenIn:
    from bot.learning.data.importing import count_known
    from storage.imports import TakenIn

    known = with_database(settings, lambda scope: count_known(scope, checked))
    return TakenIn(None, len(checked.good) - known, 0, known + checked.repeated)


def _show_problems(checked: CheckedFile) -> None:
    for problem in checked.problems:
        say(str(problem))
    if checked.wrong > len(checked.problems):
        say(f"and {checked.wrong - len(checked.problems):,} more")


def _report(checked: CheckedFile, done: TakenIn | None = None, *, dry_run: bool) -> dict[str, Any]:
    return {
        "import_id": done.import_id if done else None,
        "conversations": done.conversations if done else 0,
        "messages": done.messages if done else 0,
        "known": done.known if done else 0,
        "good": len(checked.good),
        "wrong": checked.wrong,
        "problems": [{"line": problem.line, "problem": problem.what} for problem in checked.problems],
        "dry_run": dry_run,
    }


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
            draft.unlink(missing_ok=True)  # an export that fails leaves an earlier file as it was
    if arguments.json and arguments.out is not None:
        print_value({"pairs" if arguments.pairs else "conversations": count, "file": str(arguments.out)})
    else:
        say(f"{count} {'pair' if arguments.pairs else 'conversation'}{'' if count == 1 else 's'} exported.")
    return 0


async def _write_export(settings: Settings, arguments: argparse.Namespace, file: TextIO) -> int:
    from bot.access import installation
    from bot.learning.data.export import export_rows, pair_rows
    from bot.privacy.learning_consent import may_learn
    from storage.schema import DEFAULT_WORKSPACE
    from storage.scope import Scope

    count, narrowed = 0, {"since_ms": arguments.since, "channel": arguments.channel}
    only_allowed = functools.partial(may_learn, settings.learning_consent)
    async with installation.open_database(settings, read_only=True) as database:
        await _record_export(settings, arguments)
        scope = Scope(database, DEFAULT_WORKSPACE)
        if arguments.pairs:
            rows = pair_rows(scope, may_learn=only_allowed, **narrowed)
        else:
            wanted = only_allowed if arguments.learnable else None
            rows = export_rows(scope, may_learn=wanted, **narrowed)
        async for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


async def _record_export(settings: Settings, arguments: argparse.Namespace) -> None:
    """Record the export in the audit log before the first row leaves: rows may be read even if it fails later."""
    from bot.access import installation
    from storage import audit
    from storage.schema import DEFAULT_WORKSPACE

    details = {
        "channel": arguments.channel,
        "since": arguments.since,
        "learnable": arguments.learnable,
        "pairs": arguments.pairs,
    }
    async with installation.open_database(settings, guest=True) as database:
        actor = shell_actor().name
        await database.write(audit.record, DEFAULT_WORKSPACE, actor, "conversations.export", None, details)


def _usage(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot.learning.data.export import USAGE_COLUMNS, usage_rows

    def write(rows: Iterable[dict[str, Any]], file: TextIO) -> None:
        if arguments.json:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        else:
            table = csv.DictWriter(file, USAGE_COLUMNS)
            table.writeheader()
            table.writerows(rows)

    async def collect(scope: Scope) -> list[dict[str, Any]]:
        return [row async for row in usage_rows(scope, arguments.since)]

    rows = with_database(settings, collect)
    if arguments.out is None:
        write(rows, sys.stdout)
    else:
        with arguments.out.open("w", encoding="utf-8", newline="") as file:
            write(rows, file)
        say(f"{len(rows)} request{'' if len(rows) == 1 else 's'} written.")
    return 0
