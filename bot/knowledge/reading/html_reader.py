"""HTML reader: main content as blocks, without navigation and scripts.

Markdown and DOCX are converted to HTML and read here, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import lxml.html
from lxml import etree

from bot.knowledge.reading.documents import Block, BlockKind, Document

# Elements that surround an article on a page, or that people do not read.
_LEFT_OUT = frozenset(
    "script style noscript template svg math iframe object embed nav footer aside form button select textarea input "
    "canvas audio video head".split()
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
# In an accordion of questions, the summary is a heading below all other levels.
_SUMMARY_LEVEL = 7
_BLOCKS = frozenset(
    "p div section article main header ul ol li table tr td th pre dl dt dd blockquote figure figcaption details "
    "summary body html center fieldset address hr".split()
) | frozenset(_HEADINGS)
MAX_DEPTH = 200


def read_html(html: str, *, title: str = "") -> Document:
    """Read a page's title, language and blocks. `title` is the fallback. Never raises for bad HTML."""
    root = _parse(html)
    if root is None:
        return Document(title, ())
    language = (root.get("lang") or "").split("-")[0].lower()[:8]
    own_title = _text(root.find(".//title")) if root.find(".//title") is not None else ""
    reader = _Reader()
    reader.read(_main_part(root))
    first = next((text for level, text in reader.seen_headings if level == 1), "")
    chosen = first or own_title or title
    return Document(chosen, tuple(_below_title(reader.blocks, chosen)), _canonical(root), language)


def _parse(html: str) -> lxml.html.HtmlElement | None:
    # The declared encoding applies to bytes; lxml refuses it in decoded text.
    text = re.sub(r"^\s*<\?xml[^>]*\?>", "", html.replace("\0", ""))
    try:
        return lxml.html.document_fromstring(text, parser=lxml.html.HTMLParser(no_network=True, remove_comments=True))
    except (etree.ParserError, ValueError):
        return None


def _main_part(root: lxml.html.HtmlElement) -> lxml.html.HtmlElement:
    """Return the element that the page marks as its main content, or else its body."""
    for path in (".//main", ".//*[@role='main']", ".//article"):
        found = root.findall(path)
        if len(found) == 1 and len(_text(found[0])) > 200:
            return found[0]
    body = root.find(".//body")
    return root if body is None else body


def _canonical(root: lxml.html.HtmlElement) -> str:
    link = root.find(".//link[@rel='canonical']")
    href = "" if link is None else str(link.get("href") or "")
    return href if href.startswith(("https://", "http://")) else ""


def _below_title(blocks: list[Block], title: str) -> Iterator[Block]:
    """Yield blocks without the title among their headings, as every passage carries the title anyhow."""
    for block in blocks:
        headings = block.headings[1:] if block.headings[:1] == (title,) else block.headings
        yield Block(block.kind, headings, block.lines)


class _Reader:
    """Walker through elements that collects blocks."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.seen_headings: list[tuple[int, str]] = []
        self._path: list[tuple[int, str]] = []
        self._inline: list[str] = []

    def read(self, element: lxml.html.HtmlElement, depth: int = 0) -> None:
        self._children(element, depth)
        self._end_paragraph()

    def _children(self, element: lxml.html.HtmlElement, depth: int) -> None:
        self._inline.append(element.text or "")
        for child in element:
            if isinstance(child.tag, str) and child.tag not in _LEFT_OUT and depth < MAX_DEPTH:
                self._element(child, depth + 1)
            self._inline.append(child.tail or "")

    def _element(self, element: lxml.html.HtmlElement, depth: int) -> None:
        tag = str(element.tag)
        if tag in ("ul", "ol"):
            self._add("items", _items(element))
        elif tag == "table" and _is_data(element):
            self._add("table", _rows(element))
        elif tag == "pre":
            self._add("code", [line.rstrip() for line in element.text_content().strip("\n").split("\n")])
        elif tag in _HEADINGS or tag in ("summary", "dt"):
            self._end_paragraph()
            self._heading(_HEADINGS.get(tag, _SUMMARY_LEVEL), _text(element))
        elif tag == "br":
            self._inline.append("\n")
        elif tag == "img":
            self._inline.append(f" {element.get('alt') or ''} ")
        elif tag in _BLOCKS:
            self._end_paragraph()
            self._children(element, depth)
            self._end_paragraph()
            if tag in ("details", "dd"):
                self._close(_SUMMARY_LEVEL)
        else:
            self._children(element, depth)

    def _heading(self, level: int, text: str) -> None:
        if not text:
            return
        self._close(level)
        self._path.append((level, text))
        self.seen_headings.append((level, text))

    def _close(self, level: int) -> None:
        while self._path and self._path[-1][0] >= level:
            self._path.pop()

    def _end_paragraph(self) -> None:
        lines = [_squeeze(line) for line in "".join(self._inline).split("\n")] if self._inline else []
        self._inline = []
        joined = " ".join(line for line in lines if line)
        if joined:
            self._append("text", [joined])

    def _add(self, kind: BlockKind, lines: list[str]) -> None:
        self._end_paragraph()
        if any(line.strip() for line in lines):
            self._append(kind, lines)

    def _append(self, kind: BlockKind, lines: list[str]) -> None:
        self.blocks.append(Block(kind, tuple(text for _, text in self._path), tuple(lines)))


def _items(element: lxml.html.HtmlElement, depth: int = 0) -> list[str]:
    """Return the lines of a list; nested lists are indented."""
    lines: list[str] = []
    for number, item in enumerate(child for child in element if child.tag == "li"):
        mark = f"{number + 1}." if element.tag == "ol" else "-"
        own = _text(item, without=frozenset(("ul", "ol")))
        lines.append(f"{'  ' * depth}{mark} {own}")
        if depth < 8:
            for inner in item.iter("ul", "ol"):
                if next(inner.iterancestors("li"), None) is item:
                    lines += _items(inner, depth + 1)
    return lines or ([_text(element)] if _text(element) else [])


def _is_data(table: lxml.html.HtmlElement) -> bool:
    """Return False for a layout table, which contains headings, lists or code."""
    return next(table.iter(*_HEADINGS, "ul", "ol", "pre"), None) is None


def _rows(table: lxml.html.HtmlElement) -> list[str]:
    rows = []
    for row in table.iter("tr"):
        cells = [_text(cell) for cell in row if cell.tag in ("td", "th")]
        if any(cells):
            rows.append(" | ".join(cells))
    return rows


def _text(element: lxml.html.HtmlElement, without: frozenset[str] = frozenset()) -> str:
    """Return all text of an element in one line."""
    parts: list[str] = []
    skipped = 0
    for event, node in etree.iterwalk(element, events=("start", "end")):
        is_out = isinstance(node.tag, str) and (node.tag in _LEFT_OUT or node.tag in without) and node is not element
        if event == "start":
            skipped += is_out
            if not skipped and isinstance(node.tag, str):
                parts.append(" " if node.tag in _BLOCKS or node.tag == "br" else "")
                parts.append(node.text or "")
        else:
            skipped -= is_out
            if not skipped and node is not element:
                parts.append(" " if node.tag in _BLOCKS else "")
                parts.append(node.tail or "")
    return _squeeze("".join(parts))


def _squeeze(text: str) -> str:
    return " ".join(text.split())
