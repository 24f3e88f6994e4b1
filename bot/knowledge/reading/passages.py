"""Chunking: cut documents into passages that fit the embedder.

Cuts follow the structure: between headings, then lines, then sentences, then words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from bot.knowledge.reading.documents import Block, Document
from bot.knowledge.search.tokens import words

# MiniLM was trained on 128 word pieces, about 1.3 for an English word, and the title comes on top. Passages of 90 words
# were found more often than passages of 130.
MAX_WORDS = 90
# Each piece of a table repeats its head; a longer head would leave little room for rows.
MAX_HEAD_WORDS = 30

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[\w\"'“(\[])|(?<=[。!?!?;])")
# Han and kana have no spaces: up to two characters count as a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]{1,2}|[^\s\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+")


@dataclass(frozen=True, slots=True)
class Passage:
    """Piece of a document, with the `headings` above it below the document's title."""

    headings: tuple[str, ...]
    text: str


def cut(document: Document, max_words: int = MAX_WORDS) -> list[Passage]:
    """Cut a document into passages, in order. A document with only a title has one passage without text."""
    passages: list[Passage] = []
    for headings, blocks in _sections(document.blocks):
        passages += (Passage(headings, text) for text in _pack(_pieces(blocks, max_words), max_words))
    return passages or [Passage((), "")]


def excerpt(text: str, asked: Mapping[str, float], max_words: int) -> str:
    """Return the run of sentences with the largest weight of `asked` words (word to weight) that fits `max_words`.

    The sentences are neighbours in the text and so keep their sense.
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
    """Return the sentences of a line, each with its separator from the next."""
    parts = [part for part in _SENTENCE_END.split(line) if part]
    return [(part, "\n" if number == len(parts) else " ") for number, part in enumerate(parts, 1)]


def count_words(text: str) -> int:
    """Count the words of a text; two Han characters count as one word."""
    return sum(1 for _ in _WORD.finditer(text))


def _sections(blocks: Iterable[Block]) -> Iterator[tuple[tuple[str, ...], list[Block]]]:
    """Yield runs of blocks with the same headings."""
    run: list[Block] = []
    for block in blocks:
        if run and run[0].headings != block.headings:
            yield run[0].headings, run
            run = []
        run.append(block)
    if run:
        yield run[0].headings, run


def _pieces(blocks: Iterable[Block], max_words: int) -> Iterator[str]:
    """Yield texts of at most `max_words` words, cut between lines, else sentences, else words."""
    for block in blocks:
        head = block.lines[0] if block.kind == "table" and count_words(block.lines[0]) <= MAX_HEAD_WORDS else ""
        room = max_words - count_words(head)
        whole = "\n".join(block.lines)
        if count_words(whole) <= max_words:
            yield whole
            continue
        lines = block.lines[1:] if head else block.lines
        fine = [piece for line in lines for piece in _fitting(line, room)]
        yield from (f"{head}\n{piece}" if head else piece for piece in _pack(fine, room, "\n"))


def _fitting(line: str, max_words: int) -> Iterator[str]:
    if count_words(line) <= max_words:
        yield line
        return
    sentences = [sentence for sentence in _SENTENCE_END.split(line) if sentence]
    yield from _pack((part for sentence in sentences for part in _parts(sentence, max_words)), max_words, " ")


def _parts(sentence: str, max_words: int) -> Iterator[str]:
    """Yield a sentence whole, or in runs of `max_words` words if it is longer."""
    ends = [match.end() for match in _WORD.finditer(sentence)]
    start = 0
    for end in [*ends[max_words - 1 : -1 : max_words], len(sentence)]:
        yield sentence[start:end].strip()
        start = end


def _pack(pieces: Iterable[str], max_words: int, between: str = "\n") -> Iterator[str]:
    """Join neighbours while they fit `max_words`."""
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
