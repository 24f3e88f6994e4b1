"""Tool calls in a model's text, however the text is split into pieces."""

from __future__ import annotations

import pytest

from bot.generation.engine.tool_calls import ToolCallParser
from bot.generation.port import Piece, ToolCall

CALL = '<tool_call>\n{"name": "find", "arguments": {"order": 7, "über": "ja"}}\n</tool_call>'


def parse(text: str, size: int) -> tuple[str, list[tuple[str, str]]]:
    """Return text and calls of a reply that comes in pieces of `size` characters."""
    parser = ToolCallParser()
    events = [event for start in range(0, len(text), size) for event in parser.push(text[start : start + size])]
    events += parser.flush()
    assert all(isinstance(event, ToolCall) or event.text for event in events)
    calls = [event for event in events if isinstance(event, ToolCall)]
    assert len({call.id for call in calls}) == len(calls) == parser.num_calls
    said = "".join(event.text for event in events if isinstance(event, Piece))
    return said, [(call.name, call.arguments) for call in calls]


FOUND = ("find", '{"order": 7, "über": "ja"}')


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
@pytest.mark.parametrize(
    ("text", "said", "calls"),
    [
        ("Just text, with < and <tool> and <tool_cal.", "Just text, with < and <tool> and <tool_cal.", []),
        (CALL, "", [FOUND]),
        (f"I look.\n{CALL}", "I look.\n", [FOUND]),
        (f"{CALL}\n{CALL}\n", "", [FOUND, FOUND]),
        (f"{CALL} and more", " and more", [FOUND]),
        (CALL.removesuffix("\n</tool_call>"), "", [FOUND]),
        ('<tool_call>{"name": "f"}</tool_call>', "", [("f", "{}")]),
        ('<tool_call>{"name": "f", "arguments": "{}"}</tool_call>', "", [("f", "{}")]),
        ("<tool_call>no JSON</tool_call>", "<tool_call>no JSON</tool_call>", []),
        ('<tool_call>{"name": 5}</tool_call>', '<tool_call>{"name": 5}</tool_call>', []),
        ("<tool_call>[]</tool_call>", "<tool_call>[]</tool_call>", []),
        ("", "", []),
    ],
)
def test_text_and_calls_are_separated(text: str, said: str, calls: list[tuple[str, str]], size: int) -> None:
    assert parse(text, size) == (said, calls)


def test_text_is_released_once_it_can_be_no_call() -> None:
    parser = ToolCallParser()
    assert [piece.text for piece in parser.push("Hello <b") if isinstance(piece, Piece)] == ["Hello <b"]
    assert list(parser.push(" <tool")) == [Piece(" ")]
    assert list(parser.push("box>")) == [Piece("<toolbox>")]
