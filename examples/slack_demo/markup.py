"""Conversion between plain text and Slack's markup: mentions, links and escapes.

Bold, lists and code are left as they are: the page shows them.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping

_LINK = re.compile(r"<((?:https?|mailto|tel):[^|>]*)(?:\|([^>]*))?>")


def to_slack(text: str, ids: Mapping[str, str]) -> str:
    """Convert text such as `@Myna, is 1 < 2?` to Slack's markup; `ids` are by name."""
    escaped = html.escape(text, quote=False)
    for name, user_id in ids.items():
        escaped = re.sub(rf"(?<![\w@])@{re.escape(name)}\b", f"<@{user_id}>", escaped, flags=re.IGNORECASE)
    return escaped


def with_names(text: str, ids: Mapping[str, str]) -> str:
    """Replace mentions with names, and nothing else: in Markdown, Slack escapes nothing."""
    for name, user_id in ids.items():
        text = text.replace(f"<@{user_id}>", f"@{name}")
    return text


def to_people(text: str, ids: Mapping[str, str]) -> str:
    """Convert Slack's markup to text as people read it."""
    named = _LINK.sub(lambda link: f"{link[2]} ({link[1]})" if link[2] else link[1], with_names(text, ids))
    return html.unescape(named)
