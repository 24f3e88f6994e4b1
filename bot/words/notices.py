"""Notices in place of a model's reply, in English and Simplified Chinese."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

Notice = Literal["failed", "too_long", "unknown", "contact", "related", "from_article"]

_TEXTS: dict[Notice, dict[str, str]] = {
    "failed": {
        "en": "Sorry, I could not answer this. The problem has been recorded. Please try again, or say it differently.",
        "zh": "抱歉，我没能回答这个问题，问题已被记录。请重试，或换一种说法。",
    },
    "too_long": {
        "en": "Sorry, this message is too long for me: I can read about {limit} words at once. Please shorten it.",
        "zh": "抱歉，这条消息太长了：我一次大约能读 {limit} 个字。请缩短后再发送。",
    },
    "unknown": {
        "en": "I don't know: I found nothing about this in our articles.",
        "zh": "这个我不知道：我在我们的文章里没有找到相关内容。",
    },
    "contact": {"en": "Here people can help you: {contact}", "zh": "您可以在这里找到人工帮助：{contact}"},
    "related": {"en": "Perhaps one of these articles helps: ", "zh": "或许这些文章有帮助："},
    "from_article": {"en": "Our article “{title}” says:", "zh": "我们的文章《{title}》写道："},
}
_CHINESE = re.compile(r"[\u4e00-\u9fff]")
# A token is about 0.7 English words; a Chinese character takes one to two tokens in most vocabularies.
_UNITS_PER_TOKEN = {"en": 0.7, "zh": 0.6}


def language_of(text: str) -> str:
    """Return `zh` if the text has Chinese characters, else `en`."""
    return "zh" if _CHINESE.search(text) else "en"


def failed(said: str) -> str:
    """Return the apology for a message that could not be answered, in the language of `said`."""
    return _TEXTS["failed"][language_of(said)]


def too_long(said: str, limit_tokens: int) -> str:
    """Return the refusal of a message over the token limit, in the language of `said`."""
    language = language_of(said)
    return _TEXTS["too_long"][language].format(limit=_round_down(limit_tokens * _UNITS_PER_TOKEN[language]))


def unknown(said: str, contact: str, related: Sequence[tuple[int, str]]) -> str:
    """Say that the articles have no answer, and name a contact and related articles.

    `related` holds the numbers and titles of sources.
    """
    texts = {name: of[language_of(said)] for name, of in _TEXTS.items()}
    parts = [texts["unknown"]]
    if contact:
        parts.append(texts["contact"].format(contact=contact))
    if related:
        parts.append(texts["related"] + ", ".join(f"{_plain(title)} [{number}]" for number, title in related))
    return "\n\n".join(parts)


def from_article(said: str, title: str, text: str) -> str:
    """Quote an article in place of a reply that contradicted it. The article is source 1."""
    quoted = "\n".join(f"> {line}" for line in text.splitlines() if line.strip())
    return f"{_TEXTS['from_article'][language_of(said)].format(title=_plain(title))} [1]\n\n{quoted}"


def _plain(title: str) -> str:
    """Escape Markdown in a title."""
    return re.sub(r"([\\`*_\[\]<>#|~])", r"\\\1", " ".join(title.split()))


def _round_down(number: float) -> int:
    """Round an estimate down to two significant digits, as too low is better than too high."""
    whole = max(int(number), 1)
    unit = int(10 ** max(len(str(whole)) - 2, 0))
    return whole // unit * unit
