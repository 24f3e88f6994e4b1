"""Streaming parser of tool calls in the Hermes and Qwen format.

A call is `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` inside the model's text.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence

from bot.generation.port import Piece, TokenLogprob, ToolCall

BEGIN, END = "<tool_call>", "</tool_call>"


class ToolCallParser:
    """Split a reply's text, piece by piece, into text and calls in order. A call that does not parse stays text."""

    def __init__(self) -> None:
        self._held = ""
        self._blank = ""  # white space between calls, dropped unless text follows
        self._logprobs: list[TokenLogprob] = []  # of text that is still held
        self.num_calls = 0

    def push(self, text: str, logprobs: Sequence[TokenLogprob] = ()) -> Iterator[Piece | ToolCall]:
        self._held += text
        self._logprobs += logprobs
        while (start := self._held.find(BEGIN)) >= 0 and (end := self._held.find(END, start)) >= 0:
            yield from self._piece(self._held[:start])
            yield self._parse(self._held[start : end + len(END)])
            self._held = self._held[end + len(END) :]
        if start < 0:
            ready = len(self._held) - _undecided_length(self._held)
            yield from self._piece(self._held[:ready])
            self._held = self._held[ready:]

    def flush(self) -> Iterator[Piece | ToolCall]:
        """Yield the rest when the text is complete. A model may leave out the last `END`."""
        held, self._held = self._held, ""
        if BEGIN in held:
            before, _, rest = held.partition(BEGIN)
            yield from self._piece(before)
            yield self._parse(BEGIN + rest)
        else:
            yield from self._piece(held)

    def _piece(self, text: str) -> Iterator[Piece]:
        self._blank += text
        if self._blank.strip() or (self._blank and not self.num_calls):
            yield Piece(self._blank, tuple(self._logprobs))
            self._blank = ""
            self._logprobs.clear()

    def _parse(self, block: str) -> Piece | ToolCall:
        try:
            call = json.loads(block.removeprefix(BEGIN).removesuffix(END))
            name, arguments = call["name"], call.get("arguments", {})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return Piece(block)
        if not isinstance(name, str):
            return Piece(block)
        self.num_calls += 1
        self._blank = ""
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        return ToolCall(f"call_{uuid.uuid4().hex[:24]}", name, text)


def _undecided_length(text: str) -> int:
    """Return the number of characters at the end that may begin `BEGIN`."""
    return next((length for length in range(len(BEGIN) - 1, 0, -1) if text.endswith(BEGIN[:length])), 0)
