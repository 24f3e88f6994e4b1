"""Parsing and validation of JSON bodies and the AI SDK's chat requests."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from bot.errors import InvalidInput, TooLarge
from storage.values import storable

MAX_BODY_BYTES = 2 * 1024 * 1024
_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}", re.ASCII)
ID_SCHEMA = {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[A-Za-z0-9_.:-]+$"}
# Control characters are useless in a chat, but can control terminals and break databases. Line ends and tabs stay.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class SubmitRequest:
    """A new message, or an edit of the message `replaces`. `may_learn` is the consent for the whole chat, if given."""

    chat_id: str
    message_id: str
    text: str
    replaces: str | None
    may_learn: bool | None = None


@dataclass(frozen=True, slots=True)
class RegenerateRequest:
    """A request for another reply. `target` is the old reply or its message; None means the last reply.

    `asked` is the message to answer, if the client sent it. The AI SDK also retries a failed send this way.
    """

    chat_id: str
    target: str | None
    asked: SubmitRequest | None


async def read_json(request: web.Request) -> dict[str, Any]:
    """Read the body as a JSON object. Raises `InvalidInput`, or `TooLarge` over 2 MB."""
    if request.content_type != "application/json":
        raise InvalidInput("Send JSON, with the header `Content-Type: application/json`.", field="content-type")
    try:
        body = await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise TooLarge(f"The request is over {MAX_BODY_BYTES} bytes.", limit=MAX_BODY_BYTES) from None
    except (web.RequestPayloadError, ConnectionError):
        raise InvalidInput("The body broke off, or its encoding is not the one in the headers.") from None
    try:
        value = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise InvalidInput("The body is not valid UTF-8.") from None
    except (ValueError, RecursionError):
        raise InvalidInput("The body is not valid JSON.") from None
    if not isinstance(value, dict):
        raise InvalidInput("The body must be a JSON object.")
    return value


def parse_chat(body: dict[str, Any], max_chars: int) -> SubmitRequest | RegenerateRequest:
    """Parse the AI SDK's chat request. Only its newest user message is read; earlier ones come from our database."""
    chat_id = parse_id(body.get("id"), "id")
    trigger = body.get("trigger", "submit-message")
    target = body.get("messageId")
    target = None if target is None else parse_id(target, "messageId")
    if trigger == "regenerate-message":
        asked = _parse_message(chat_id, body, max_chars, None) if body.get("messages") else None
        return RegenerateRequest(chat_id, target, asked)
    if trigger != "submit-message":
        raise InvalidInput("`trigger` must be submit-message or regenerate-message.", field="trigger")
    return _parse_message(chat_id, body, max_chars, target)


def _parse_message(chat_id: str, body: dict[str, Any], max_chars: int, replaces: str | None) -> SubmitRequest:
    message = _last_message(body.get("messages"))
    message_id = parse_id(message.get("id"), "messages[-1].id")
    return SubmitRequest(chat_id, message_id, _text_of(message, max_chars), replaces, parse_choice(body))


def parse_choice(body: Mapping[str, Any]) -> bool | None:
    """Parse the learning consent `mayLearn`: true, false, or null for no choice. Raises `InvalidInput`."""
    choice = body.get("mayLearn")
    if choice is not None and not isinstance(choice, bool):
        raise InvalidInput("`mayLearn` must be true, false, or null to take back what you said.", field="mayLearn")
    return choice


def parse_id(value: Any, field: str) -> str:
    """Check an id made by a client: 1 to 128 letters, digits and `_.:-`. Raises `InvalidInput`."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise InvalidInput(f"`{field}` must be 1 to 128 letters, digits, or the signs _ . : -", field=field)
    return value


def parse_words(body: Mapping[str, Any], field: str, most: int) -> str | None:
    """Parse an optional text of at most `most` characters: None if it is missing, "" if it is empty.

    Raises `InvalidInput`, or `TooLarge` for a longer text.
    """
    words = body.get(field)
    if words is None:
        return None
    if not isinstance(words, str):
        raise InvalidInput(f"`{field}` must be a text.", field=field)
    words = clean_text(words)
    if len(words) > most:
        raise TooLarge(f"`{field}` has {len(words):,} characters; at most {most:,} are kept.", limit=most)
    return words


def _last_message(messages: Any) -> dict[str, Any]:
    if not isinstance(messages, list) or not messages or not isinstance(messages[-1], dict):
        raise InvalidInput("`messages` must be a list whose last entry is the new message.", field="messages")
    message: dict[str, Any] = messages[-1]
    if message.get("role") != "user":
        raise InvalidInput("The last message must have the role `user`.", field="messages[-1].role")
    return message


def _text_of(message: dict[str, Any], max_chars: int) -> str:
    parts = message.get("parts")
    if not isinstance(parts, list) or not parts or len(parts) > 100:
        raise InvalidInput("`parts` must be a list of 1 to 100 parts.", field="messages[-1].parts")
    texts = []
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text":
            raise InvalidInput("Only parts of type `text` can be read so far.", field="messages[-1].parts")
        if not isinstance(part.get("text"), str):
            raise InvalidInput("A text part needs a string `text`.", field="messages[-1].parts")
        texts.append(part["text"])
    text = clean_text("\n\n".join(texts))
    if not text:
        raise InvalidInput("The message is empty.", field="messages[-1].parts")
    if len(text) > max_chars:
        raise TooLarge(f"The message has {len(text):,} characters; at most {max_chars:,} can be sent.", limit=max_chars)
    return text


def clean_text(text: str) -> str:
    """Normalise text for storage: line ends to "\\n", no control characters, no lone surrogates, no outer space."""
    text = _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return storable(text).strip()
