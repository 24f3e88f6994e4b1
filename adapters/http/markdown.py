"""Model text to HTML that is safe to put into a page.

Knows: which elements a reply may have. Does not know: who asked. The model's text is untrusted: raw HTML is shown as
text, images become links (a picture's address can carry data away), and what is left passes an allow-list.
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
# The parser can need 50 microseconds for each character. What is longer than any reply is shown as it is.
MAX_PARSED_CHARS = 50_000

_LINK = re.compile(r"https?://|mailto:", re.IGNORECASE)  # no relative ones: the page may be anybody's


class _Parser(MarkdownIt):
    def validateLink(self, url: str) -> bool:
        return _LINK.match(url) is not None


_parser = _Parser("js-default", {"linkify": False, "breaks": True}).disable("image")
_parser.render("")  # the first time it completes its rules, and two threads must not do that at once


@dataclass(frozen=True, slots=True)
class Citation:
    """What a text means by `[number]`."""

    number: int
    title: str
    url: str


@lru_cache(maxsize=512)
def render_markdown(text: str, citations: tuple[Citation, ...] = ()) -> str:
    """Sanitised HTML of CommonMark with tables and strikethrough. Marks of citations become links."""
    if len(text) > MAX_PARSED_CHARS:
        return f"<p>{escapeHtml(text)}</p>\n".replace("\n", "<br>\n", text.count("\n"))
    # To CommonMark a mark is a shortcut reference link, and these are its definitions.
    references = {str(one.number): {"href": one.url, "title": one.title} for one in citations if _LINK.match(one.url)}
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
    """A link to nowhere would load the page again."""
    return value or None


def _bracket_citations(tokens: Sequence[Token], references: Mapping[str, Mapping[str, str]]) -> None:
    """Give links that are citations their brackets back, and a class to be drawn by."""
    for token in tokens:
        inside = token.children or []
        for link, label in pairwise(inside):
            if link.type == "link_open" and references.get(label.content, {}).get("href") == link.attrGet("href"):
                link.attrSet("class", "cite")
                label.content = f"[{label.content}]"


def settled_length(text: str) -> int:
    """How much of a growing text can be rendered now: up to its last blank line outside a code fence."""
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
