"""Model text to HTML that is safe to put into a page.

Knows: which elements a reply may have. Does not know: who asked. The model's text is untrusted: raw HTML is shown as text,
images become links (a picture's address can carry data away), and what is left passes an allow-list.
"""

from __future__ import annotations

import re
from functools import lru_cache

import nh3
from markdown_it import MarkdownIt

_TAGS = {
    "p", "br", "hr", "strong", "em", "s", "code", "pre", "blockquote", "ul", "ol", "li", "a",
    "h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td",
}  # fmt: skip
_ATTRIBUTES = {"a": {"href", "title"}, "ol": {"start"}}
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")

_parser = MarkdownIt("js-default", {"linkify": False, "breaks": True}).disable("image")


@lru_cache(maxsize=2048)
def render_markdown(text: str) -> str:
    """Sanitised HTML of CommonMark with tables and strikethrough."""
    return nh3.clean(
        _parser.render(text),
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        url_schemes={"http", "https", "mailto"},
        link_rel="nofollow noopener noreferrer",
    )


def settled_length(text: str) -> int:
    """How much of a growing text can be rendered now: up to its last blank line outside a code fence."""
    settled, position, fence = 0, 0, ""
    for line in text.splitlines(keepends=True):
        position += len(line)
        mark = _FENCE.match(line)
        if mark and not fence:
            fence = mark[1]
        elif mark and line.strip().startswith(fence) and not line.strip().strip(fence[0]):
            fence = ""
        if not fence and not line.strip() and line.endswith("\n"):
            settled = position
    return settled
