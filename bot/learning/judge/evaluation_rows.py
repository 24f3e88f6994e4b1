"""Rows to evaluate on: out of files of chat `messages`, out of a dataset, and the suites that come with Myna.

Knows: their forms, and what to say of a bad line. Does not know: models, figures.
"""

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
    """A JSONL file of chat `messages`: each row's last answer is the reference, and what was said before is asked.

    Rows are put into the order of a hash over what is asked, so that the first ones are a fair sample; the same rows
    are taken once. Raises `InvalidInput` that names the line of everything wrong, up to ten.
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
    """Over what is asked and the reference."""
    said = [f"{one['role']}\x00{one['content']}" for one in row.messages] + [one.text for one in row.passages]
    return hashlib.sha256("\x01".join([*said, row.reference or ""]).encode()).hexdigest()


def rows_of_examples(examples: Sequence[Example]) -> list[EvaluationRow]:
    """Held-out examples of a dataset, one a conversation: the answers of one say nothing independent of each other.

    Which one, the hash says, and so nobody; what is asked twice with the same answer is taken once.
    """
    chosen: dict[str, EvaluationRow] = {}
    for one in examples:
        row = EvaluationRow(
            one.message_id, tuple(one.messages), one.chosen, person_id=one.person_id, passages=one.passages
        )
        chosen[one.conversation_id] = min(row, chosen.get(one.conversation_id, row), key=hash_of)
    return sorted({hash_of(row): row for row in chosen.values()}.values(), key=hash_of)


def rows_of_golden(questions: Sequence[GoldenQuestion]) -> list[EvaluationRow]:
    """Golden questions have rules and no reference."""
    return [EvaluationRow(one.id, tuple(one.messages), rules=parse_rules(one.rules)) for one in questions]


@functools.cache
def load_suite(name: Literal["general", "safety", "kept"]) -> tuple[EvaluationRow, ...]:
    """A suite that comes with Myna: `general` has references, `safety` has rules."""
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
    """What was asked, and the last answer to it; whatever a person said after that is left out.

    One answer a conversation, so that rows say something independent of each other.
    """
    for place in range(len(messages) - 1, 0, -1):
        if messages[place]["role"] == "assistant" and messages[place - 1]["role"] == "user":
            return messages[:place], messages[place]["content"]
    raise InvalidInput("no message of the assistant follows one of the user, so there is nothing to compare with")
