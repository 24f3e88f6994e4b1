"""Document model: blocks under headings, independent of the file format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BlockKind = Literal["text", "items", "table", "code"]


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive lines of one kind, and the headings above them, outermost first.

    `lines` are paragraphs, items of a list, rows of a table (the first is its head) or lines of code. The answer of a
    question-and-answer table is a text whose last heading is the question.
    """

    kind: BlockKind
    headings: tuple[str, ...]
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """Article as read from a file or page."""

    title: str
    blocks: tuple[Block, ...]
    # From the document's own metadata; empty if it has none.
    url: str = ""
    language: str = ""
    id: str = ""
