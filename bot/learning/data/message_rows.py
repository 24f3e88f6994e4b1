"""Lines of JSON with chat `messages`: parsed with care, and every bad line named.

Knows: the form. Does not know: what a row is for, files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from bot.errors import InvalidInput
from storage.values import storable

MAX_MESSAGES = 50
MAX_CHARACTERS = 16_000
MAX_PROBLEMS = 10

T = TypeVar("T")


def parse_lines(text: str, source: str, parse: Callable[[str, int], T]) -> list[T]:
    """Every line that is not empty. Raises `InvalidInput` that names the lines that `parse` refuses."""
    found: list[T] = []
    problems: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found.append(parse(line, number))
        except InvalidInput as error:
            problems.append(f"{source}, line {number}: {error.message}")
    if problems:
        more = [f"... and {len(problems) - MAX_PROBLEMS} more"] if len(problems) > MAX_PROBLEMS else []
        raise InvalidInput("\n".join([*problems[:MAX_PROBLEMS], *more]))
    if not found:
        raise InvalidInput(f"{source} holds no row.")
    return found


def parse_object(line: str) -> dict[str, Any]:
    """A JSON object. Raises `InvalidInput`."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"this is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise InvalidInput("this is not a JSON object")
    return row


def parse_messages(value: object) -> tuple[Mapping[str, str], ...]:
    """The chat `messages` form: `system` first if at all, texts in all, one turn of the user at least.

    Raises `InvalidInput` that says which message is wrong.
    """
    if not isinstance(value, list) or not value or len(value) > MAX_MESSAGES:
        raise InvalidInput(f'"messages" must be a list of 1 to {MAX_MESSAGES} messages')
    parsed = []
    for number, one in enumerate(value, 1):
        role, content = (one.get("role"), one.get("content")) if isinstance(one, dict) else (None, None)
        if role not in ("system", "user", "assistant") or not isinstance(content, str) or not content.strip():
            raise InvalidInput(f'message {number} needs a "role" (system, user, assistant) and "content" that is text')
        if role == "system" and number > 1:
            raise InvalidInput(f"message {number}: only the first may be the system's")
        if len(content) > MAX_CHARACTERS:
            raise InvalidInput(f"message {number} has more than {MAX_CHARACTERS} characters")
        parsed.append({"role": str(role), "content": storable(content)})
    if not any(one["role"] == "user" for one in parsed):
        raise InvalidInput('"messages" has none of the user')
    return tuple(parsed)
