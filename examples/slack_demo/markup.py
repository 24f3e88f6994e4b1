"""Text as people write and read it, to Slack's markup and back.

Knows: mentions, links, and the three characters that Slack escapes. Does not know: bold, lists, code; the page shows
those.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping

_LINK = re.compile(r"<((?:https?|mailto|tel):[^|>]*)(?:\|([^>]*))?>")


def to_slack(text: str, ids: Mapping[str, str]) -> str:
    """`@Myna, is 1 < 2?` as Slack keeps it. `ids` are those of the names."""
    escaped = html.escape(text, quote=False)
    for name, user_id in ids.items():
        escaped = re.sub(rf"(?<![\w@])@{re.escape(name)}\b", f"<@{user_id}>", escaped, flags=re.IGNORECASE)
    return escaped


def with_names(text: str, ids: Mapping[str, str]) -> str:
    """Mentions by name. All else stays, as in Markdown, where Slack escapes nothing."""
    for name, user_id in ids.items():
        text = text.replace(f"<@{user_id}>", f"@{name}")
    return text


def to_people(text: str, ids: Mapping[str, str]) -> str:
    """Slack's markup as people read it."""
    named = _LINK.sub(lambda link: f"{link[2]} ({link[1]})" if link[2] else link[1], with_names(text, ids))
    return html.unescape(named)
