"""Parsers of the chat `messages` form: imported conversations, evaluation rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_args

from bot.errors import InvalidInput
from storage.imports import ImportedConversation, ImportedMessage
from storage.values import Author, ReplyState, storable
from storage.votes import Value, Vote

T = TypeVar("T")

MAX_NAME_CHARS = 500
MAX_MESSAGES = 50
MAX_CHARACTERS = 16_000
MAX_PROBLEMS = 10
_AUTHORS: dict[str, Author] = {"agent": "agent", "bot": "bot"}
_STATES: dict[str, ReplyState] = {state: state for state in get_args(ReplyState)}
_OF_ASSISTANTS = ("author", "draft", "rating", "reason", "better", "state")


class WrongRow(Exception):
    """An invalid row, with the reason for the person who wrote the file."""


def read_row(row: Mapping[str, Any]) -> ImportedConversation:
    """Parse a conversation of `{"messages": [{"role", "content"}, ...]}`; ignore unknown keys. Raises `WrongRow`."""
    turns = row.get("messages")
    if not isinstance(turns, list) or not turns:
        raise WrongRow(_without_messages(row))
    instructions = _instructions(turns[0])
    said = turns if instructions is None else turns[1:]
    first = len(turns) - len(said) + 1
    messages = tuple(_message(turn, number, first) for number, turn in enumerate(said, first))
    if not messages or messages[-1].author == "person":
        raise WrongRow('must end with a message from "assistant"')
    named = {key: _name(row, key) for key in ("id", "group", "person")}
    return ImportedConversation(
        key=named["id"] or _hash_of(row, named, messages),
        messages=messages,
        title=_text(row, "title"),
        instructions=instructions,
        group=named["group"],
        person=named["person"],
        may_learn=_flag(row, "may_learn"),
    )


def _without_messages(row: Mapping[str, Any]) -> str:
    if isinstance(row.get("messages"), list):
        return "has no messages: the list is empty"
    if "messages" in row:
        return f"messages is {_kind(row['messages'])}, not a list"
    keys = ", ".join(list(row)[:6]) or "none"
    return f'has no "messages"; its keys: {storable(keys)[:200]}'


def _instructions(turn: object) -> str | None:
    if not isinstance(turn, dict) or turn.get("role") != "system":
        return None
    return _content(turn, 1)


def _message(turn: object, number: int, first: int) -> ImportedMessage:
    if not isinstance(turn, dict):
        raise WrongRow(f"message {number} is {_kind(turn)}, not an object with role and content")
    role, expected = turn.get("role"), ("user", "assistant")[(number - first) % 2]
    if role not in ("system", "user", "assistant"):
        raise WrongRow(f"message {number}: role is {_quoted(role)}, not system, user or assistant")
    if role == "system":
        raise WrongRow(f"message {number}: only the first message may be from system")
    if role != expected:
        raise WrongRow(f'message {number} is from "{role}" where "{expected}" must follow: the two take turns')
    text = _content(turn, number)
    if role == "assistant":
        return _answer(turn, number, text)
    if strange := [key for key in _OF_ASSISTANTS if turn.get(key) is not None and key not in ("author", "state")]:
        raise WrongRow(f"message {number}: {strange[0]} belongs to a message from assistant")
    return ImportedMessage("person", text)


def _answer(turn: Mapping[str, Any], number: int, text: str) -> ImportedMessage:
    """Parse an answer. Its author is a human, unless it names the author or has a rating or a reply state."""
    draft, vote = _text(turn, "draft", number), _vote(turn, number)
    state = _one_of(_STATES, turn, "state", number)
    is_bots = vote is not None or state is not None
    author = _one_of(_AUTHORS, turn, "author", number) or ("bot" if is_bots else "agent")
    if author == "agent" and is_bots:
        raise WrongRow(f"message {number}: rating, better and state are of the bot's replies, and author is agent")
    if author == "bot" and draft is not None:
        raise WrongRow(f"message {number}: a draft belongs to a human's answer, and this is the bot's")
    return ImportedMessage(author, text, draft, state or "answered", vote)


def _one_of(allowed: Mapping[str, T], turn: Mapping[str, Any], key: str, number: int) -> T | None:
    value = turn.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or value not in allowed:
        raise WrongRow(f"message {number}: {key} is {_quoted(value)}, not one of {', '.join(allowed)}")
    return allowed[value]


def _vote(turn: Mapping[str, Any], number: int) -> Vote | None:
    rating, reason, better = turn.get("rating"), _text(turn, "reason", number), _text(turn, "better", number)
    if rating is None and better is not None:
        rating = -1  # a better answer implies a vote against this reply
    if rating is None:
        if reason is not None:
            raise WrongRow(f"message {number}: a reason needs a rating")
        return None
    value: Value = 1 if rating == 1 else -1
    if isinstance(rating, bool) or rating not in (1, -1):
        raise WrongRow(f"message {number}: rating is {_quoted(rating)}, not 1 or -1")
    return Vote(value, reason, better)


def _content(turn: Mapping[str, Any], number: int) -> str:
    content = turn.get("content")
    if not isinstance(content, str):
        raise WrongRow(f"message {number}: content is {_kind(content)}, not text")
    if not content.strip():
        raise WrongRow(f"message {number}: content is empty")
    return storable(content)


def _text(values: Mapping[str, Any], key: str, number: int | None = None) -> str | None:
    value = values.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        place = f"message {number}: " if number else ""
        raise WrongRow(f"{place}{key} is {_kind(value)}, not text")
    return storable(value) if value.strip() else None


def _name(row: Mapping[str, Any], key: str) -> str | None:
    """Parse an identifying name; numbers are accepted, as many files number their rows."""
    value = row.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    name = _text({key: value}, key)
    if name is not None and len(name) > MAX_NAME_CHARS:
        raise WrongRow(f"{key} is longer than {MAX_NAME_CHARS} characters")
    return name


def _flag(row: Mapping[str, Any], key: str) -> bool | None:
    value = row.get(key)
    if value is not None and not isinstance(value, bool):
        raise WrongRow(f"{key} is {_quoted(value)}, not true or false")
    return value


def _hash_of(row: Mapping[str, Any], named: Mapping[str, str | None], messages: tuple[ImportedMessage, ...]) -> str:
    """Hash all stored content of a conversation without an id, to recognise it in another import."""
    turns = [[each.author, each.text, each.draft, each.state, _opinion(each)] for each in messages]
    content = [turns, _instructions(row["messages"][0]), named["group"], named["person"], row.get("may_learn")]
    return "sha256:" + hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()


def _opinion(message: ImportedMessage) -> list[Any] | None:
    return [message.vote.value, message.vote.reason, message.vote.better] if message.vote else None


def _kind(value: object) -> str:
    if value is None:
        return "missing"
    names = {bool: "true or false", dict: "an object", list: "a list", str: "text"}
    return names.get(type(value), "a number")


def _quoted(value: object) -> str:
    if value is None:
        return "missing"
    return storable(json.dumps(value, ensure_ascii=False))[:80]


def parse_lines(text: str, source: str, parse: Callable[[str, int], T]) -> list[T]:
    """Parse every line that is not empty. Raises `InvalidInput` that lists the lines that `parse` refuses."""
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
    """Parse a JSON object. Raises `InvalidInput`."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"this is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise InvalidInput("this is not a JSON object")
    return row


def parse_messages(value: object) -> tuple[Mapping[str, str], ...]:
    """Parse chat `messages`: only the first may be the system's, all have text, and at least one is the user's.

    Raises `InvalidInput` that names the wrong message.
    """
    if not isinstance(value, list) or not value or len(value) > MAX_MESSAGES:
        raise InvalidInput(f'"messages" must be a list of 1 to {MAX_MESSAGES} messages')
    parsed = []
    for number, message in enumerate(value, 1):
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if role not in ("system", "user", "assistant") or not isinstance(content, str) or not content.strip():
            raise InvalidInput(f'message {number} needs a "role" (system, user, assistant) and "content" that is text')
        if role == "system" and number > 1:
            raise InvalidInput(f"message {number}: only the first may be the system's")
        if len(content) > MAX_CHARACTERS:
            raise InvalidInput(f"message {number} has more than {MAX_CHARACTERS} characters")
        parsed.append({"role": str(role), "content": storable(content)})
    if not any(message["role"] == "user" for message in parsed):
        raise InvalidInput('"messages" has none of the user')
    return tuple(parsed)
