"""Intent files: read, check and write CSV with phrases and intents."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bot.errors import InvalidInput
from storage.values import storable

FORM = "text,intent[,reply]"
MAX_PHRASES, MAX_INTENTS = 50_000, 1_000
MAX_PHRASE_CHARS, MAX_NAME_CHARS, MAX_REPLY_CHARS = 1_000, 100, 4_000
MIN_PHRASES, MIN_INTENTS = 2, 2
MAX_PROBLEMS = 10


@dataclass(frozen=True, slots=True)
class Phrases:
    """Content of a file: `(phrase, intent)` in its order, and the verbatim replies by intent.

    An empty intent marks an out-of-scope phrase.
    """

    rows: tuple[tuple[str, str], ...]
    replies: Mapping[str, str]


def read_phrases(content: bytes, name: str = "the file", *, to_learn: bool = False) -> Phrases:
    """Read a CSV with the header `text,intent[,reply]`; a reply may stand in any row of its intent.

    With `to_learn`, each phrase needs an intent. Raises `InvalidInput`, which names up to ten bad lines.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{name} is not text in UTF-8 (byte {error.start}).", field="file") from error
    table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [str(column).strip().lower() for column in table.fieldnames or ()]
        if not {"text", "intent"} <= set(header):
            raise InvalidInput(f"{name} must be CSV with the header {FORM}.", field="file")
        table.fieldnames = header
        return _checked(((table.line_num, row) for row in table), name, to_learn)
    except csv.Error as error:
        raise InvalidInput(f"{name}, line {table.line_num}: {error}.", field="file") from error


def _checked(rows: Iterable[tuple[int, dict[str | None, Any]]], name: str, to_learn: bool) -> Phrases:
    found: dict[str, str] = {}
    replies: dict[str, str] = {}
    problems: list[str] = []
    num_problems = 0
    for line, row in rows:
        phrase, intent, reply = (_plain(row.get(key)) for key in ("text", "intent", "reply"))
        problem = _problem(phrase, intent, reply, found, replies)
        if None in row:
            problem = "there are more columns than in the header; put a text with a comma in quotes"
        elif to_learn and not intent:
            problem = problem or "a training phrase needs an intent"
        if problem:
            num_problems += 1
            if num_problems <= MAX_PROBLEMS:
                problems.append(f"{name}, line {line}: {problem}")
            continue
        found[phrase] = intent
        if len(found) > MAX_PHRASES:
            raise InvalidInput(f"{name} has more than {MAX_PHRASES:,} phrases, the limit.", field="file")
        if reply:
            replies[intent] = reply
    if problems:
        more = [f"... and {num_problems - MAX_PROBLEMS} more"] if num_problems > MAX_PROBLEMS else []
        raise InvalidInput("\n".join([*problems, *more]), field="file")
    if not found:
        raise InvalidInput(f"{name} contains no phrases.", field="file")
    return Phrases(tuple(found.items()), replies)


def _plain(cell: str | None) -> str:
    return storable("\n".join((cell or "").splitlines()).strip())


def _problem(phrase: str, intent: str, reply: str, found: Mapping[str, str], replies: Mapping[str, str]) -> str | None:
    if not phrase:
        return "the text is missing"
    if len(phrase) > MAX_PHRASE_CHARS:
        return f"the text has more than {MAX_PHRASE_CHARS} characters"
    if len(intent) > MAX_NAME_CHARS:
        return f"the intent's name has more than {MAX_NAME_CHARS} characters"
    if len(reply) > MAX_REPLY_CHARS:
        return f"the reply has more than {MAX_REPLY_CHARS} characters"
    if found.get(phrase, intent) != intent:
        return f'"{phrase[:60]}" has the intent "{found[phrase]}" on another line'
    if reply and replies.get(intent, reply) != reply:
        return f'the intent "{intent}" has a different reply on another line'
    if reply and not intent:
        return "a reply needs an intent"
    return None


def check_enough(phrases: Phrases) -> None:
    """Raise `InvalidInput` for too few or too many phrases or intents."""
    counts = Counter(intent for _, intent in phrases.rows)
    if "" in counts:
        raise InvalidInput("Every training phrase needs an intent.", field="file")
    if len(counts) < MIN_INTENTS:
        raise InvalidInput(f"There must be at least {MIN_INTENTS} intents.", field="file")
    if few := sorted(intent for intent, count in counts.items() if count < MIN_PHRASES):
        named = ", ".join(few[:5]) + (" ..." if len(few) > 5 else "")
        raise InvalidInput(f"Each intent needs at least {MIN_PHRASES} phrases; too few: {named}.", field="file")
    if len(counts) > MAX_INTENTS:
        raise InvalidInput(f"There are {len(counts):,} intents; the limit is {MAX_INTENTS:,}.", field="file")


def write_phrases(rows: Sequence[tuple[str, str]], replies: Mapping[str, str]) -> str:
    """Write the CSV that `read_phrases` reads. Each reply stands once, so that it can be changed in one place."""
    file = io.StringIO(newline="")
    table = csv.writer(file, lineterminator="\n")
    table.writerow(["text", "intent", "reply"])
    left = dict(replies)
    table.writerows([phrase, intent, left.pop(intent, "")] for phrase, intent in rows)
    return file.getvalue()
