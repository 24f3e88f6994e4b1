"""Conversations from a file: all of it is read and checked first, then all that is good is taken in at once.

Knows: what is counted and reported, and that a row is taken once. Does not know: the terminal, SQL.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import IO, Any, BinaryIO

from bot.access.roles import Actor
from bot.learning.data.conversation_form import WrongRow, read_row
from bot.learning.data.import_lines import Form, Lines, read_rows
from storage import imports
from storage.imports import BATCH, ImportedConversation, ImportedFile, ImportedMessage, TakenIn
from storage.scope import Scope
from storage.votes import Vote

MAX_PROBLEMS_SHOWN = 20

Advance = Callable[[int], None]


def ignore_progress(_: int) -> None:
    """For whoever doesn't look."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with the row that begins in a line, counted from 1."""

    line: int
    what: str

    def __str__(self) -> str:
        return (
            f"line {self.line} {self.what}" if not self.what.startswith("message") else f"line {self.line}: {self.what}"
        )


class Spool:
    """Checked conversations, in a file that is gone when it is closed: it may be gone through again and again.

    While they are taken in, nobody else can write to a SQLite database, so nothing is left to do then but to read them.
    """

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - `close` does it
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, one: ImportedConversation) -> None:
        self._file.write(json.dumps(_packed(one)).encode() + b"\n")
        self._count += 1

    def __iter__(self) -> Iterator[ImportedConversation]:
        self._file.seek(0)
        return map(_unpacked, map(json.loads, self._file))

    def close(self) -> None:
        self._file.close()


def _packed(one: ImportedConversation) -> list[Any]:
    turns = [[each.author, each.text, each.draft, each.state, _opinion(each.vote)] for each in one.messages]
    return [one.key, turns, one.title, one.instructions, one.group, one.person, one.may_learn]


def _opinion(vote: Vote | None) -> list[Any] | None:
    return [vote.value, vote.reason, vote.better] if vote else None


def _unpacked(packed: list[Any]) -> ImportedConversation:
    key, turns, *others = packed
    messages = tuple(
        ImportedMessage(author, text, draft, state, Vote(*opinion) if opinion else None)
        for author, text, draft, state, opinion in turns
    )
    return ImportedConversation(key, messages, *others)


@dataclass(slots=True)
class CheckedFile:
    """A file that has been read to its end: what is good in it, and the first of what is wrong.

    `repeated` counts rows that stood in the file before, in the very same words.
    """

    good: Spool = field(default_factory=Spool)
    messages: int = 0
    repeated: int = 0
    wrong: int = 0
    problems: list[Problem] = field(default_factory=list)
    sha256: str = ""

    def note(self, line: int, what: str) -> None:
        self.wrong += 1
        if len(self.problems) < MAX_PROBLEMS_SHOWN:
            self.problems.append(Problem(line, what))


def check_file(file: BinaryIO, form: Form | None = None, advance: Advance = ignore_progress) -> CheckedFile:
    """Read all of a file. `form` is for one whose name says it; `advance` is told how many bytes have been read.

    The caller closes `good`. Raises `InvalidInput` for what is wrong with the file as a whole.
    """
    checked, lines = CheckedFile(), Lines(file, advance)
    seen: dict[str, tuple[int, int]] = {}
    try:
        for line, row in read_rows(lines, form):
            try:
                _take(checked, seen, line, row)
            except WrongRow as wrong:
                checked.note(line, str(wrong))
    except BaseException:
        checked.good.close()
        raise
    checked.sha256 = lines.sha256
    return checked


def _take(checked: CheckedFile, seen: dict[str, tuple[int, int]], line: int, row: dict[str, Any] | WrongRow) -> None:
    if isinstance(row, WrongRow):
        raise row
    one = read_row(row)
    first, words = seen.setdefault(one.key, (line, hash(one)))
    if first == line:
        checked.good.add(one)
        checked.messages += len(one.messages)
    elif words == hash(one):
        checked.repeated += 1
    else:
        raise WrongRow(f"has the id of line {first}, and other words; rows of one conversation stand together")


async def count_known(scope: Scope, checked: CheckedFile) -> int:
    """How many of a file's good conversations are here already; for a dry run."""
    keys = await asyncio.to_thread(lambda: [one.key for one in checked.good])
    known = 0
    for start in range(0, len(keys), BATCH):
        known += len(await scope.read(imports.known_keys, keys[start : start + BATCH]))
    return known


async def take_in(
    scope: Scope, actor: Actor, name: str, checked: CheckedFile, advance: Advance = ignore_progress
) -> TakenIn:
    """Store what is good in a file, in one transaction: all of it or, after any failure, nothing.

    Rows that are known, here or from earlier in the file, change nothing. Raises `NotAllowed`.
    """
    actor.check("trainer")
    file = ImportedFile(name, checked.sha256, actor.name)
    done = await scope.write(imports.take_in, checked.good, file, advance)
    return replace(done, known=done.known + checked.repeated)
