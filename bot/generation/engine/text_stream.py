"""Streaming detokenizer: whole characters only, cut at stop strings.

The work per token stays the same however long the reply grows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

Decode = Callable[[Sequence[int]], str]

# A character has at most four bytes, so up to three replacement marks at the end may still become a character.
UNDECIDED = 3
BROKEN = "\ufffd"
# Three undecided marks are at most nine tokens of a byte each; the other tokens let the decoder resynchronise.
KEPT_TOKENS = 16


class Detokenizer:
    """Decode a sliding window of the latest tokens, and release the text that can't change any more."""

    def __init__(self, decode: Decode, silent_ids: Collection[int] = ()) -> None:
        self._decode = decode
        self._silent_ids = silent_ids
        self._window: list[int] = []
        self._num_released = 0  # characters of the window's text

    def push(self, token_id: int) -> str:
        if token_id in self._silent_ids:
            return ""
        self._window.append(token_id)
        text = self._decode(self._window)
        new = self._release(text, _settled_length(text))
        if len(self._window) >= 2 * KEPT_TOKENS:
            self._shorten(text)
        return new

    def flush(self) -> str:
        """Release the rest, broken characters included."""
        text = self._decode(self._window)
        return self._release(text, len(text))

    def _release(self, text: str, end: int) -> str:
        new = text[self._num_released : end]
        self._num_released = max(self._num_released, end)
        return new

    def _shorten(self, text: str) -> None:
        """Drop old tokens of the window, unless the text still held would decode differently without them."""
        held = len(text) - self._num_released
        kept = self._window[-KEPT_TOKENS:]
        kept_text = self._decode(kept)
        if len(kept_text) > held and kept_text.endswith(text[-held - 1 :]):
            self._window = kept
            self._num_released = len(kept_text) - held


class StopFilter:
    """Cut a text at the stop string that is complete first, however the text is split into pieces."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        if self.stopped:
            return ""
        self._held += text
        start = self._first_stop()
        if start is not None:
            self.stopped = True
            return self._release(start)
        return self._release(len(self._held) - self._num_undecided())

    def flush(self) -> str:
        return "" if self.stopped else self._release(len(self._held))

    def _release(self, end: int) -> str:
        ready, self._held = self._held[:end], self._held[end:]
        return ready

    def _first_stop(self) -> int | None:
        """Return the start of the stop string that ends first; of two with the same end, the longer."""
        found = [(start + len(stop), start) for stop in self._stop if (start := self._held.find(stop)) >= 0]
        return min(found)[1] if found else None

    def _num_undecided(self) -> int:
        """Return the number of characters at the end that may begin a stop string."""
        longest = min(len(self._held), max(map(len, self._stop), default=1) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stop):
                return length
        return 0


class TextStream:
    """Text of a reply, token by token. Pieces hold whole characters; `stopped` is True after a stop string."""

    def __init__(self, decode: Decode, stop: Sequence[str] = (), silent_ids: Collection[int] = ()) -> None:
        self._detokenizer = Detokenizer(decode, silent_ids)
        self._filter = StopFilter(stop)

    @property
    def stopped(self) -> bool:
        return self._filter.stopped

    def push(self, token_id: int) -> str:
        return self._filter.push(self._detokenizer.push(token_id))

    def flush(self) -> str:
        """Return the rest of the text when no more tokens come."""
        return self._filter.push(self._detokenizer.flush()) + self._filter.flush()


def _settled_length(text: str) -> int:
    undecided = 0
    while undecided < min(UNDECIDED, len(text)) and text[-1 - undecided] == BROKEN:
        undecided += 1
    return len(text) - undecided
