"""What a file or page says, in blocks under its headings, whatever its format was.

Knows: the parts of a text that matter to a reader. Does not know: formats, how long a passage may be, where it is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BlockKind = Literal["text", "items", "table", "code"]


@dataclass(frozen=True, slots=True)
class Block:
    """Some lines that belong together, and the headings above them, outermost first.

    `lines`: sentences or paragraphs, items of a list, rows of a table (the first is its head), lines of code. An
    answer is a text whose last heading is its question.
    """

    kind: BlockKind
    headings: tuple[str, ...]
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """One article as it was read."""

    title: str
    blocks: tuple[Block, ...]
    # What the document says of itself; empty if it says nothing.
    url: str = ""
    language: str = ""
    id: str = ""
