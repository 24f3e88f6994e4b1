"""Splitting of long Markdown into messages, with code fences repaired.

Code fences are those of CommonMark 0.31, section 4.5.
"""

from __future__ import annotations

import re

# A message ends at a paragraph from the first length on, at a line from the second, at a word from the third, and
# anywhere at the last. A cut depends only on the text before it, so that a message already shown never changes.
PARAGRAPH_FROM, LINE_FROM, WORD_FROM, MAX_CHARS = 9_000, 10_000, 10_500, 11_000
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})(.*)$", re.MULTILINE)


def next_cut(text: str, start: int) -> int | None:
    """Return the end of the message that begins at `start`; None if the rest of the text fits into it."""
    cuts = [
        _after(text, "\n\n", start + PARAGRAPH_FROM),
        _after(text, "\n", start + LINE_FROM),
        _after(text, " ", start + WORD_FROM),
        start + MAX_CHARS,
    ]
    return min((cut for cut in cuts if cut is not None and cut < len(text)), default=None)


def cut_soon(text: str, start: int, shown: int) -> int | None:
    """Return a good end for a message that must end soon; None if there is none yet.

    The message shows `text[start:shown]` already.
    """
    cut = _after(text, "\n\n", shown) or _after(text, "\n", shown)
    limit = next_cut(text, start)
    return limit if cut is None or (limit is not None and limit < cut) else cut


def _after(text: str, mark: str, begin: int) -> int | None:
    found = text.find(mark, begin)
    return None if found < 0 else found + len(mark)


def split(text: str) -> list[str]:
    """Split a text into messages of at most `MAX_CHARS`, with code fences closed and opened again at the cuts."""
    cuts = [0]
    while (cut := next_cut(text, cuts[-1])) is not None:
        cuts.append(cut)
    ends = [*cuts[1:], len(text)]
    return [piece(text, start, end, is_cut=end < len(text)) for start, end in zip(cuts, ends, strict=True)]


def piece(text: str, start: int, end: int, *, is_cut: bool) -> str:
    """Return the message that shows `text[start:end]`; `is_cut` if another message continues it."""
    opening, fence = open_fence(text[:start]), open_fence(text[:end]) if is_cut else ""
    return (f"{opening}\n" if opening else "") + text[start:end] + (fence_end(text[start:end], fence) if fence else "")


def open_fence(text: str) -> str:
    """Return the opening line of the code block in which `text` ends, "" if it ends outside of code."""
    opened = ""
    for mark in _FENCE.finditer(text):
        if not opened:
            if mark[1][0] == "~" or "`" not in mark[2]:
                opened = mark[0].strip()
        elif mark[1].startswith(_marks(opened)) and not mark[2].strip():
            opened = ""
    return opened


def fence_end(before: str, opening: str) -> str:
    """Return the text that closes a code block after `before`."""
    return ("" if before.endswith("\n") else "\n") + _marks(opening)


def _marks(opening: str) -> str:
    return opening[: len(opening) - len(opening.lstrip(opening[0]))]
