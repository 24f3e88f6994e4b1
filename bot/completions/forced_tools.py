"""Forced tool calls (`tool_choice="required"`).

Instructions, JSON Schema and parsing of the call; they work with any model. Calls that a model chooses by itself are
left to its template and the engine (`bot.generation.engine.tool_calls`).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Any

from bot.errors import InvalidInput
from bot.generation.port import ChatMessage, Event, Finish, Piece, ToolCall
from storage.values import new_id

# Depth of nested objects and lists. Real schemas have five or ten; Python's recursion limit is a little above.
MAX_NESTING = 256


def schema_of_call(tools: Sequence[dict[str, Any]]) -> str:
    """Return the JSON Schema of a call of any of `tools`. Raises `InvalidInput` for parameters nested too deeply."""
    return json.dumps(_any_of([_schema_of_one(tool, place, len(tools)) for place, tool in enumerate(tools)]))


def _schema_of_one(tool: dict[str, Any], place: int, count: int) -> dict[str, Any]:
    where = "/properties/arguments" if count == 1 else f"/anyOf/{place}/properties/arguments"
    parameters = _closed(tool["function"].get("parameters") or {"type": "object"})
    return {
        "type": "object",
        "properties": {
            "name": {"const": tool["function"]["name"]},
            "arguments": _with_moved_references(parameters, where),
        },
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _any_of(calls: list[dict[str, Any]]) -> dict[str, Any]:
    return calls[0] if len(calls) == 1 else {"anyOf": calls}


def _with_moved_references(schema: Any, where: str, depth: int = 0) -> Any:
    """Rewrite local `$ref`s for a schema that moves to `where` in another schema."""
    if depth > MAX_NESTING:
        raise InvalidInput(f"The functions' parameters are nested more than {MAX_NESTING} deep.", field="tools")
    if isinstance(schema, list):
        return [_with_moved_references(item, where, depth + 1) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: f"#{where}{value[1:]}"
        if name == "$ref" and isinstance(value, str) and value.startswith("#")
        else _with_moved_references(value, where, depth + 1)
        for name, value in schema.items()
    }


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """Forbid arguments that are not described; a small model would invent them endlessly."""
    return {"additionalProperties": False, **schema} if "properties" in schema else schema


def with_tools_described(messages: Sequence[ChatMessage], tools: Sequence[dict[str, Any]]) -> tuple[ChatMessage, ...]:
    """Describe the functions in the system message.

    Not every template can, and a remote server may refuse tools together with a schema.
    """
    described = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    note = (
        "Answer with a call of one of these functions, as JSON with `name` and `arguments`. Take the arguments from "
        f"what the user says.\n{described}"
    )
    before = [message.content for message in messages if message.role == "system"]
    rest = [message for message in messages if message.role != "system"]
    return (ChatMessage("system", "\n\n".join([*before, note])), *rest)


def with_calls_as_text(message: ChatMessage) -> ChatMessage:
    """Write earlier calls into the message's text, for templates without tools."""
    if not message.tool_calls:
        return message
    calls = [f'{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}}}' for call in message.tool_calls]
    return ChatMessage(message.role, "\n".join([message.content, *calls]).strip())


async def as_tool_call(stream: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    """Convert a reply that is the JSON of a call to a `ToolCall`. A reply that was cut off stays text."""
    text = ""
    async with contextlib.aclosing(stream):
        async for event in stream:
            if isinstance(event, Piece):
                text += event.text
                continue
            if isinstance(event, Finish) and text:
                try:
                    call = json.loads(text)
                    arguments = json.dumps(call["arguments"], ensure_ascii=False)
                    yield ToolCall(f"call_{new_id()}", call["name"], arguments)
                    event = replace(event, reason="tool_calls")
                except (ValueError, KeyError, TypeError, RecursionError):
                    yield Piece(text)
            yield event
