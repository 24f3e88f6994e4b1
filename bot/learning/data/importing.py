"""Import of conversations from JSON lines or CSV.

The whole file is read and checked first; then its valid rows are stored in one transaction.
"""

from __future__ import annotations

import asyncio
import csv
import hashlib
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import IO, Any, BinaryIO, Literal, Protocol

from bot.access.roles import Actor
from bot.errors import InvalidInput
from bot.learning.data.conversation_form import WrongRow, read_row
from storage import imports
from storage.imports import BATCH, ImportedConversation, ImportedFile, ImportedMessage, TakenIn
from storage.scope import Scope
from storage.votes import Vote

MAX_PROBLEMS_SHOWN = 20

Advance = Callable[[int], None]


def ignore_progress(_: int) -> None:
    """Do nothing: the default where no progress is shown."""


@dataclass(frozen=True, slots=True)
class Problem:
    """An invalid row, with the line (from 1) on which it begins."""

    line: int
    what: str

    def __str__(self) -> str:
        return (
            f"line {self.line} {self.what}" if not self.what.startswith("message") else f"line {self.line}: {self.what}"
        )


class Spool:
    """Valid conversations in a temporary file, which can be iterated several times and is deleted by `close`.

    A SQLite database is locked for writing during the import, so all parsing is done before it.
    """

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - `close` does it
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, conversation: ImportedConversation) -> None:
        self._file.write(json.dumps(_packed(conversation)).encode() + b"\n")
        self._count += 1

    def __iter__(self) -> Iterator[ImportedConversation]:
        self._file.seek(0)
        return map(_unpacked, map(json.loads, self._file))

    def close(self) -> None:
        self._file.close()


def _packed(conversation: ImportedConversation) -> list[Any]:
    turns = [[turn.author, turn.text, turn.draft, turn.state, _opinion(turn.vote)] for turn in conversation.messages]
    return [
        conversation.key,
        turns,
        conversation.title,
        conversation.instructions,
        conversation.group,
        conversation.person,
        conversation.may_learn,
    ]


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
    """A file that has been read to its end: its valid conversations, and its first problems.

    `repeated` counts exact repetitions of earlier rows of the file.
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
    """Read all of a file. `form` is None to detect it; `advance` is called with the size of each part read, in bytes.

    The caller closes `good`. Raises `InvalidInput` if the file as a whole can't be read.
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
    conversation = read_row(row)
    first, words = seen.setdefault(conversation.key, (line, hash(conversation)))
    if first == line:
        checked.good.add(conversation)
        checked.messages += len(conversation.messages)
    elif words == hash(conversation):
        checked.repeated += 1
    else:
        raise WrongRow(f"has the id of line {first}, and other words; rows of one conversation stand together")


async def count_known(scope: Scope, checked: CheckedFile) -> int:
    """Count the file's valid conversations that are stored already, for a dry run."""
    keys = await asyncio.to_thread(lambda: [conversation.key for conversation in checked.good])
    known = 0
    for start in range(0, len(keys), BATCH):
        known += len(await scope.read(imports.known_keys, keys[start : start + BATCH]))
    return known


async def take_in(
    scope: Scope, actor: Actor, name: str, checked: CheckedFile, advance: Advance = ignore_progress
) -> TakenIn:
    """Store the valid conversations of a file in one transaction: all of them or, after a failure, none.

    Conversations that are stored already are counted and left as they are. Raises `NotAllowed`.
    """
    actor.check("trainer")
    file = ImportedFile(name, checked.sha256, actor.name)
    done = await scope.write(imports.take_in, checked.good, file, advance)
    return replace(done, known=done.known + checked.repeated)


MAX_LINE_BYTES = 1_000_000
FORMS = (
    'a JSON object a line, {"messages": [{"role", "content"}, ...]}, or CSV with the header '
    "question,answer[,id,group,person] or conversation,role,content"
)
_ENCODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_BOM = b"\xef\xbb\xbf"

NumberedRow = tuple[int, dict[str, Any] | WrongRow]
Form = Literal["json lines", "csv"]


class Lines:
    """The lines of a file, numbered from 1; None for a line that is too long. `sha256` covers all bytes read."""

    def __init__(self, file: BinaryIO, advance: Callable[[int], None]) -> None:
        self._file = file
        self._advance = advance
        self._digest = hashlib.sha256()
        self.number = 0

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def __iter__(self) -> Iterator[bytes | None]:
        while line := self._read():
            self.number += 1
            is_whole = len(line) <= MAX_LINE_BYTES
            while not is_whole and not line.endswith(b"\n") and (rest := self._read()):
                line = rest
            if self.number == 1:
                _check_start(line)
                line = line.removeprefix(_BOM)
            yield line if is_whole else None

    def _read(self) -> bytes:
        chunk = self._file.readline(MAX_LINE_BYTES + 1)
        self._digest.update(chunk)
        self._advance(len(chunk))
        return chunk


def _check_start(line: bytes) -> None:
    if name := _ENCODINGS.get(line[:2]):
        raise InvalidInput(f"The file is in {name}. Save it as UTF-8 and import it again.")
    if b"\0" in line:
        raise InvalidInput(f"This is not a text file. It should be {FORMS}.")


def read_rows(lines: Lines, form: Form | None = None) -> Iterator[NumberedRow]:
    """Yield each row with the number of its first line, as an object or as a `WrongRow`.

    Raises `InvalidInput` if the file as a whole can't be read.
    """
    left = iter(lines)
    first = next((line for line in left if line is None or line.strip()), b"")
    if first == b"":
        raise InvalidInput("The file is empty.")
    start = (first or b"").lstrip()
    if form is None:
        form = "json lines" if first is None or start.startswith(b"{") else "csv"
    if start.startswith(b"["):
        raise InvalidInput(f"The file is one JSON list. It should be {FORMS}; `jq -c '.[]' FILE` makes lines of it.")
    again = itertools.chain([first], left)
    return _json_rows(lines, again) if form == "json lines" else _csv_rows(lines, again)


def _json_rows(lines: Lines, left: Iterator[bytes | None]) -> Iterator[NumberedRow]:
    for line in left:
        if line is None or line.strip():
            yield lines.number, _json_row(line)


def _json_row(line: bytes | None) -> dict[str, Any] | WrongRow:
    if line is None:
        return WrongRow("is longer than 1 MB")
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return _not_utf8(error)
    except json.JSONDecodeError as error:
        return WrongRow(f"is not JSON: {error.msg} (column {error.colno})")
    except (ValueError, RecursionError):
        return WrongRow("is not JSON that can be read: a number is too long, or it is nested too deeply")
    return row if isinstance(row, dict) else WrongRow("is not a JSON object")


def _not_utf8(error: UnicodeDecodeError) -> WrongRow:
    return WrongRow(f"is not UTF-8 (byte 0x{error.object[error.start]:02X} in place {error.start + 1})")


def _csv_rows(lines: Lines, left: Iterator[bytes | None]) -> Iterator[NumberedRow]:
    wrong: list[WrongRow] = []
    csv.field_size_limit(MAX_LINE_BYTES)
    before = lines.number - 1
    records = _records(csv.reader(_decoded(lines, left, wrong), strict=True), before)
    header = [name.strip().lower() for name in next(records)[1]]
    if wrong:
        raise InvalidInput(f"The first line {wrong[0]}. Save the file as UTF-8 and import it again.")
    if len(set(header)) < len(header):
        raise InvalidInput(f"The header names a column twice: {','.join(header)[:200]}")
    rows = _mapped(records, header, wrong)
    if {"question", "answer"} <= set(header):
        return _questions(rows)
    if {"conversation", "role", "content"} <= set(header):
        return _turns(rows)
    raise InvalidInput(f"The first line is {','.join(header)[:200]!r}. The file should be {FORMS}.")


def _decoded(lines: Lines, left: Iterator[bytes | None], wrong: list[WrongRow]) -> Iterator[str]:
    for line in left:
        if line is None:
            raise InvalidInput(f"Line {lines.number} is longer than 1 MB, so that the rows after it can't be read.")
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            wrong.append(_not_utf8(error))
            yield line.decode(errors="replace")


class _Table(Protocol):
    """Reader of the csv module."""

    line_num: int

    def __next__(self) -> list[str]: ...


def _records(table: _Table, before: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that aren't blank, each with the number of its first line: quoted fields may hold line breaks."""
    while True:
        start = before + table.line_num + 1
        try:
            record = next(table)
        except StopIteration:
            return
        except csv.Error as error:
            raise InvalidInput(f"Line {start} opens a quote that is never closed, or is no CSV: {error}.") from error
        if record:
            yield start, record


def _mapped(
    records: Iterator[tuple[int, list[str]]], header: list[str], wrong: list[WrongRow]
) -> Iterator[NumberedRow]:
    for start, record in records:
        if wrong:
            yield start, wrong[0]
            wrong.clear()
        elif len(record) != len(header):
            hint = "; text with commas needs quotes" if len(record) > len(header) else ""
            yield start, WrongRow(f"has {len(record)} columns where the header has {len(header)}{hint}")
        else:
            yield start, dict(zip(header, record, strict=True))


def _questions(rows: Iterator[NumberedRow]) -> Iterator[NumberedRow]:
    for start, row in rows:
        if isinstance(row, WrongRow):
            yield start, row
            continue
        turns = [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]
        yield start, {"messages": turns, **{key: row[key] for key in ("id", "group", "person") if key in row}}


def _turns(rows: Iterator[NumberedRow]) -> Iterator[NumberedRow]:
    """Join adjacent rows of the same conversation.

    An invalid row may belong to either neighbour, so the conversations on both sides of it are refused.
    """
    name, start, turns, is_spoilt, was_wrong = "", 0, list[dict[str, str]](), False, False
    for line, row in rows:
        if not isinstance(row, WrongRow) and not row["conversation"].strip():
            row = WrongRow("names no conversation")
        if isinstance(row, WrongRow):
            yield line, row
            is_spoilt = was_wrong = True
            continue
        if row["conversation"].strip() != name:
            if turns:
                yield start, _conversation(name, turns, is_spoilt)
            name, start, turns, is_spoilt = row["conversation"].strip(), line, [], was_wrong
        turns.append({"role": row["role"].strip().lower(), "content": row["content"]})
        was_wrong = False
    if turns:
        yield start, _conversation(name, turns, is_spoilt)


def _conversation(name: str, turns: list[dict[str, str]], is_spoilt: bool) -> dict[str, Any] | WrongRow:
    if is_spoilt:
        return WrongRow("is a conversation with a wrong row in it or beside it")
    return {"id": name, "messages": turns}
