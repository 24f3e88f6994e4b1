"""Conversion between dataclasses and JSON, and validated body fields."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from aiohttp import web

from adapters.http.requests import clean_text
from bot.errors import InvalidInput, TooLarge

Word = TypeVar("Word", bound=str)


def json_response(value: Mapping[str, Any], status: int = 200) -> web.Response:
    """Return a JSON response; dataclasses in `value` become objects."""
    return web.json_response(to_json(value), status=status)


def to_json(value: Any) -> Any:
    """Convert dataclasses to objects with camelCase names; keys of mappings are data and stay as they are."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {camel(field.name): to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(member) for key, member in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [to_json(member) for member in value]
    return value


def camel(name: str) -> str:
    """Return `created_at` as `createdAt`."""
    first, *rest = name.split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in rest)


def text_of(body: Mapping[str, Any], field: str, most: int, *, optional: bool = False) -> str:
    """Return a text of a body. Raises `InvalidInput`, or `TooLarge` over `most` characters."""
    value = body.get(field, "" if optional else None)
    if not isinstance(value, str):
        raise InvalidInput(f"`{field}` must be a text.", field=field)
    if len(value) > most:
        raise TooLarge(f"`{field}` has {len(value):,} characters; at most {most:,} can be sent.", limit=most)
    # Passwords stay as they are: cleaning would make another password.
    value = value if field in ("password", "old", "new") else clean_text(value)
    if not value and not optional:
        raise InvalidInput(f"`{field}` is empty.", field=field)
    return value


def choice_of(body: Mapping[str, Any], field: str, choices: Sequence[Word]) -> Word:
    """Return a word of a body that must be one of `choices`. Raises `InvalidInput`."""
    value = body.get(field)
    for choice in choices:
        if choice == value:
            return choice
    raise InvalidInput(f"`{field}` must be one of {', '.join(choices)}.", field=field)


def flag_of(body: Mapping[str, Any], field: str) -> bool:
    """Return a boolean of a body. Raises `InvalidInput`."""
    value = body.get(field)
    if not isinstance(value, bool):
        raise InvalidInput(f"`{field}` must be true or false.", field=field)
    return value


def number_in_query(request: web.Request, name: str, default: int | None = None) -> int | None:
    """Return a whole number of the query, not negative. Raises `InvalidInput`."""
    text = request.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise InvalidInput(f"`{name}` must be a whole number.", field=name)
    return int(text)


def number_of(body: Mapping[str, Any], field: str) -> int:
    """Return a whole number of a body. Raises `InvalidInput`."""
    value = optional_number(body, field)
    if value is None:
        raise InvalidInput(f"`{field}` must be a whole number.", field=field)
    return value


def optional_number(body: Mapping[str, Any], field: str) -> int | None:
    """Return a whole number of a body, None if it is absent. Raises `InvalidInput`."""
    value = body.get(field)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or abs(value) > 2**53):
        raise InvalidInput(f"`{field}` must be a whole number.", field=field)
    return value
