"""Documents to passages: pieces that follow the structure, fit the embedder, and can be cited.

Knows: how long a passage is, where a text may be cut. Does not know: formats, search, prompts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from bot.knowledge.reading.documents import Block, Document
from bot.knowledge.search.tokens import words

# MiniLM was trained on 128 word pieces, of which English has about 1.3 to a word, and the title comes on top. Of 90 and
# 130 words, 90 found more.
MAX_WORDS = 90
# A long table would be little but its head where that is repeated in each piece.
MAX_HEAD_WORDS = 30

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[\w\"'“(\[])|(?<=[。!?!?;])")
# Han and its like have no spaces: a character and a half stands for a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]{1,2}|[^\s\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+")


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document. `headings` lead to it, below the document's title."""

    headings: tuple[str, ...]
    text: str


def cut(document: Document, max_words: int = MAX_WORDS) -> list[Passage]:
    """The passages of a document, in order. A document that is nothing but a title has one without text."""
    passages: list[Passage] = []
    for headings, blocks in _sections(document.blocks):
        passages += (Passage(headings, text) for text in _pack(_pieces(blocks, max_words), max_words))
    return passages or [Passage((), "")]


def excerpt(text: str, asked: Mapping[str, float], max_words: int) -> str:
    """The lines and sentences of a text that have most of what is `asked` (words with weights), as many as fit.

    They stand side by side in the text, too, and so keep their sense.
    """
    if count_words(text) <= max_words:
        return text
    pieces = [(piece, between) for line in text.split("\n") for piece, between in _sentences(line)]
    sizes = [count_words(piece) for piece, _ in pieces]
    found = [asked.keys() & set(words(piece)) for piece, _ in pieces]
    best, most = (0, 1), -1.0
    for start in range(len(pieces)):
        end, size, has = start, 0, set[str]()
        while end < len(pieces) and (end == start or size + sizes[end] <= max_words):
            size += sizes[end]
            has |= found[end]
            end += 1
        weight = sum(asked[word] for word in has)
        if weight > most:
            best, most = (start, end), weight
    chosen = "".join(piece + between for piece, between in pieces[best[0] : best[1]]).strip()
    return next(_parts(chosen, max_words))


def _sentences(line: str) -> list[tuple[str, str]]:
    """The sentences of a line, each with what stands between it and the next."""
    parts = [one for one in _SENTENCE_END.split(line) if one]
    return [(part, "\n" if number == len(parts) else " ") for number, part in enumerate(parts, 1)]


def count_words(text: str) -> int:
    """Words of a text; of Han, two characters count as one."""
    return sum(1 for _ in _WORD.finditer(text))


def _sections(blocks: Iterable[Block]) -> Iterator[tuple[tuple[str, ...], list[Block]]]:
    """Runs of blocks that have the same headings."""
    run: list[Block] = []
    for one in blocks:
        if run and run[0].headings != one.headings:
            yield run[0].headings, run
            run = []
        run.append(one)
    if run:
        yield run[0].headings, run


def _pieces(blocks: Iterable[Block], max_words: int) -> Iterator[str]:
    """Texts of at most `max_words` words, cut between lines, else sentences, else words."""
    for one in blocks:
        head = one.lines[0] if one.kind == "table" and count_words(one.lines[0]) <= MAX_HEAD_WORDS else ""
        room = max_words - count_words(head)
        whole = "\n".join(one.lines)
        if count_words(whole) <= max_words:
            yield whole
            continue
        lines = one.lines[1:] if head else one.lines
        fine = [piece for line in lines for piece in _fitting(line, room)]
        yield from (f"{head}\n{piece}" if head else piece for piece in _pack(fine, room, "\n"))


def _fitting(line: str, max_words: int) -> Iterator[str]:
    if count_words(line) <= max_words:
        yield line
        return
    sentences = [one for one in _SENTENCE_END.split(line) if one]
    yield from _pack((part for one in sentences for part in _parts(one, max_words)), max_words, " ")


def _parts(sentence: str, max_words: int) -> Iterator[str]:
    """A sentence, or, of one that is too long, runs of its words."""
    ends = [match.end() for match in _WORD.finditer(sentence)]
    start = 0
    for end in [*ends[max_words - 1 : -1 : max_words], len(sentence)]:
        yield sentence[start:end].strip()
        start = end


def _pack(pieces: Iterable[str], max_words: int, between: str = "\n") -> Iterator[str]:
    """Neighbours together, as long as they fit."""
    held: list[str] = []
    size = 0
    for piece in pieces:
        count = count_words(piece)
        if held and size + count > max_words:
            yield between.join(held)
            held, size = [], 0
        held.append(piece)
        size += count
    if held:
        yield between.join(held)
