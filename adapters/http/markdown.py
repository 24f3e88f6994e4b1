"""Markdown rendering of untrusted model text, sanitised against XSS.

Raw HTML is shown as text, images become links (loading a picture can leak data through its address), and the result
passes an allow-list of elements and attributes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import nh3
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.token import Token

_TAGS = {
    "p",
    "br",
    "hr",
    "strong",
    "em",
    "s",
    "code",
    "pre",
    "blockquote",
    "ul",
    "ol",
    "li",
    "a",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
}
_ATTRIBUTES = {"a": {"href", "title"}, "ol": {"start"}}
_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})")
# The parser can need 50 microseconds a character. Longer texts, which no reply reaches, are shown unparsed.
MAX_PARSED_CHARS = 50_000

_LINK = re.compile(r"https?://|mailto:", re.IGNORECASE)  # no relative links: the page may belong to any site


class _Parser(MarkdownIt):
    def validateLink(self, url: str) -> bool:
        return _LINK.match(url) is not None


_parser = _Parser("js-default", {"linkify": False, "breaks": True}).disable("image")
_parser.render("")  # the first call completes the rules, which two threads must not do at once


@dataclass(frozen=True, slots=True)
class Citation:
    """Target of the mark `[number]` in a text."""

    number: int
    title: str
    url: str


@lru_cache(maxsize=512)
def render_markdown(text: str, citations: tuple[Citation, ...] = ()) -> str:
    """Render CommonMark with tables and strikethrough as sanitised HTML. Marks of citations become links."""
    if len(text) > MAX_PARSED_CHARS:
        return f"<p>{escapeHtml(text)}</p>\n".replace("\n", "<br>\n", text.count("\n"))
    # To CommonMark a mark is a shortcut reference link, and these are its definitions.
    references = {
        str(cited.number): {"href": cited.url, "title": cited.title} for cited in citations if _LINK.match(cited.url)
    }
    tokens = _parser.parse(text, {"references": dict(references)})
    _bracket_citations(tokens, references)
    return nh3.clean(
        _parser.renderer.render(tokens, _parser.options, {}),
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        attribute_filter=_without_empty,
        allowed_classes={"a": {"cite"}},
        url_schemes={"http", "https", "mailto"},
        link_rel="nofollow noopener noreferrer",
    )


def _without_empty(_tag: str, _name: str, value: str) -> str | None:
    """Drop empty attributes: a link to nowhere would reload the page."""
    return value or None


def _bracket_citations(tokens: Sequence[Token], references: Mapping[str, Mapping[str, str]]) -> None:
    """Give links that are citations their brackets back, and a CSS class."""
    for token in tokens:
        inside = token.children or []
        for link, label in pairwise(inside):
            if link.type == "link_open" and references.get(label.content, {}).get("href") == link.attrGet("href"):
                link.attrSet("class", "cite")
                label.content = f"[{label.content}]"


def settled_length(text: str) -> int:
    """Return the length of a growing text up to its last blank line outside a code fence: it renders the same later."""
    settled, position, fence = 0, 0, ""
    for line in text.split("\n")[:-1]:
        position += len(line) + 1
        mark = _FENCE.match(line)
        if mark and not fence:
            fence = mark[1]
        elif mark and line.strip().startswith(fence) and not line.strip().strip(fence[0]):
            fence = ""
        if not fence and not line.strip():
            settled = position
    return settled
