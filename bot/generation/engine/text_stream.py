"""Token ids to text, one at a time: whole characters only, and nothing of a stop string.

Knows: a function that decodes a few token ids. Does not know: models, torch, or the rest of the reply; the work for one
token stays the same however long the reply grows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

Decode = Callable[[Sequence[int]], str]

# A character has at most four bytes, so the last three marks of a decoded text may still become one.
UNDECIDED = 3
BROKEN = "\ufffd"
# Three undecided marks are at most nine tokens of a byte each; the rest lets the decoder find its step again.
KEPT_TOKENS = 16


class Detokenizer:
    """Decodes a sliding window of the latest tokens and gives out what can't change any more."""

    def __init__(self, decode: Decode, silent_ids: Collection[int] = ()) -> None:
        self._decode = decode
        self._silent_ids = silent_ids
        self._window: list[int] = []
        self._num_given = 0  # characters of the window's text that are out already

    def push(self, token_id: int) -> str:
        if token_id in self._silent_ids:
            return ""
        self._window.append(token_id)
        text = self._decode(self._window)
        new = self._give(text, _settled_length(text))
        if len(self._window) >= 2 * KEPT_TOKENS:
            self._shorten(text)
        return new

    def flush(self) -> str:
        """What was held back, as it stands."""
        text = self._decode(self._window)
        return self._give(text, len(text))

    def _give(self, text: str, end: int) -> str:
        new = text[self._num_given : end]
        self._num_given = max(self._num_given, end)
        return new

    def _shorten(self, text: str) -> None:
        """Forget old tokens, unless what is still held back would read differently without them."""
        held = len(text) - self._num_given
        kept = self._window[-KEPT_TOKENS:]
        kept_text = self._decode(kept)
        if len(kept_text) > held and kept_text.endswith(text[-held - 1 :]):
            self._window = kept
            self._num_given = len(kept_text) - held


class StopFilter:
    """Cuts a text at the stop string that is complete first, wherever the text's pieces begin and end."""

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
        """Where the stop string with the earliest end begins; of two with one end, the longer."""
        found = [(start + len(stop), start) for stop in self._stop if (start := self._held.find(stop)) >= 0]
        return min(found)[1] if found else None

    def _num_undecided(self) -> int:
        """How many characters at the end may be the beginning of a stop string."""
        longest = min(len(self._held), max(map(len, self._stop), default=1) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stop):
                return length
        return 0


class TextStream:
    """A reply's text as its tokens come. Pieces are never cut inside a character; `stopped` tells of a stop string."""

    def __init__(self, decode: Decode, stop: Sequence[str] = (), silent_ids: Collection[int] = ()) -> None:
        self._detokenizer = Detokenizer(decode, silent_ids)
        self._filter = StopFilter(stop)

    @property
    def stopped(self) -> bool:
        return self._filter.stopped

    def push(self, token_id: int) -> str:
        return self._filter.push(self._detokenizer.push(token_id))

    def flush(self) -> str:
        """The rest of the text, once no more tokens come."""
        return self._filter.push(self._detokenizer.flush()) + self._filter.flush()


def _settled_length(text: str) -> int:
    undecided = 0
    while undecided < min(UNDECIDED, len(text)) and text[-1 - undecided] == BROKEN:
        undecided += 1
    return len(text) - undecided
