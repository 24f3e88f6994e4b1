"""Evaluation rows from JSONL files, from a dataset's held-out examples, and from the built-in suites."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from bot.errors import InvalidInput
from bot.learning.data.conversation_form import parse_lines, parse_messages, parse_object
from bot.learning.judge.answer_rules import parse_rules
from bot.learning.judge.measures import EvaluationRow
from storage.golden import GoldenQuestion
from storage.learning_values import Example

SUITES = Path(__file__).parent / "suites"
MAX_FILE_BYTES = 256 * 2**20


def read_rows(path: Path) -> list[EvaluationRow]:
    """Read a JSONL file of chat `messages`: a row's last answer is the reference, the messages before it the prompt.

    Rows are sorted by `hash_of`, so that the first rows are a fair sample, and duplicates are dropped. Raises
    `InvalidInput` that lists up to ten bad lines.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InvalidInput(f"{path} is larger than {MAX_FILE_BYTES // 2**20} MiB.")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InvalidInput(f"{path} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not text in UTF-8: byte {error.start} is not part of any character.") from error
    rows = parse_lines(text, str(path), _answered_row)
    return sorted({hash_of(row): row for row in rows}.values(), key=hash_of)


def hash_of(row: EvaluationRow) -> str:
    """Hash the prompt and the reference (SHA-256)."""
    said = [f"{message['role']}\x00{message['content']}" for message in row.messages]
    said += [passage.text for passage in row.passages]
    return hashlib.sha256("\x01".join([*said, row.reference or ""]).encode()).hexdigest()


def rows_of_examples(examples: Sequence[Example]) -> list[EvaluationRow]:
    """Make rows of held-out examples, one a conversation, since answers of a conversation depend on each other.

    The smallest hash chooses the example, so that nobody does; duplicates are dropped.
    """
    chosen: dict[str, EvaluationRow] = {}
    for example in examples:
        row = EvaluationRow(
            example.message_id,
            tuple(example.messages),
            example.chosen,
            person_id=example.person_id,
            passages=example.passages,
        )
        chosen[example.conversation_id] = min(row, chosen.get(example.conversation_id, row), key=hash_of)
    return sorted({hash_of(row): row for row in chosen.values()}.values(), key=hash_of)


def rows_of_golden(questions: Sequence[GoldenQuestion]) -> list[EvaluationRow]:
    """Make rows of golden questions, which have rules and no reference."""
    return [
        EvaluationRow(question.id, tuple(question.messages), rules=parse_rules(question.rules))
        for question in questions
    ]


@functools.cache
def load_suite(name: Literal["general", "safety", "kept"]) -> tuple[EvaluationRow, ...]:
    """Load a built-in suite: `general` and `kept` have references, `safety` has rules."""
    path = SUITES / f"{name}.jsonl"
    return tuple(parse_lines(path.read_text(encoding="utf-8"), path.name, _suite_row))


def _answered_row(line: str, number: int) -> EvaluationRow:
    row = parse_object(line)
    messages = parse_messages(row.get("messages"))
    asked, answer = _split_at_last_answer(messages)
    return EvaluationRow(str(row.get("id") or f"line-{number}"), asked, answer)


def _suite_row(line: str, number: int) -> EvaluationRow:
    row = parse_object(line)
    if "rules" in row:
        return EvaluationRow(str(row["id"]), parse_messages(row["messages"]), rules=parse_rules(row["rules"]))
    return _answered_row(line, number)


def _split_at_last_answer(messages: tuple[Mapping[str, str], ...]) -> tuple[tuple[Mapping[str, str], ...], str]:
    """Split into the messages before the last answer, and that answer; later messages are dropped.

    A conversation gives one row, so that rows are independent of each other.
    """
    for place in range(len(messages) - 1, 0, -1):
        if messages[place]["role"] == "assistant" and messages[place - 1]["role"] == "user":
            return messages[:place], messages[place]["content"]
    raise InvalidInput("no message of the assistant follows one of the user, so there is nothing to compare with")
