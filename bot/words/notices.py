"""Notices in place of a model's reply, in English and Simplified Chinese."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bot.words.catalogue import Catalogue, language_of_text

_EN = {
    "failed": "Sorry, I could not answer this. The problem has been recorded. Please try again, or say it differently.",
    "too_long": "Sorry, this message is too long for me: I can read about {limit} words at once. Please shorten it.",
    "unknown": "I don't know: I found nothing about this in our articles.",
    "contact": "Here people can help you: {contact}",
    "related": "Perhaps one of these articles helps: ",
    "from_article": "Our article “{title}” says:",
}
_ZH = {
    "failed": "抱歉，我没能回答这个问题，问题已被记录。请重试，或换一种说法。",
    "too_long": "抱歉，这条消息太长了：我一次大约能读 {limit} 个字。请缩短后再发送。",
    "unknown": "这个我不知道：我在我们的文章里没有找到相关内容。",
    "contact": "您可以在这里找到人工帮助：{contact}",
    "related": "或许这些文章有帮助：",
    "from_article": "我们的文章《{title}》写道：",
}
TEXTS = Catalogue(en=_EN, zh=_ZH)
# A token is about 0.7 English words; a Chinese character takes one to two tokens in most vocabularies.
_UNITS_PER_TOKEN = {"en": 0.7, "zh": 0.6}


def failed(said: str) -> str:
    """Return the apology for a message that could not be answered, in the language of `said`."""
    return TEXTS.say("failed", language_of_text(said))


def too_long(said: str, limit_tokens: int) -> str:
    """Return the refusal of a message over the token limit, in the language of `said`."""
    language = language_of_text(said)
    return TEXTS.say("too_long", language, limit=_round_down(limit_tokens * _UNITS_PER_TOKEN[language]))


def unknown(said: str, contact: str, related: Sequence[tuple[int, str]]) -> str:
    """Say that the articles have no answer, and name a contact and related articles.

    `related` holds the numbers and titles of sources.
    """
    language = language_of_text(said)
    parts = [TEXTS.say("unknown", language)]
    if contact:
        parts.append(TEXTS.say("contact", language, contact=contact))
    if related:
        titles = ", ".join(f"{_plain(title)} [{number}]" for number, title in related)
        parts.append(TEXTS.say("related", language) + titles)
    return "\n\n".join(parts)


def from_article(said: str, title: str, text: str) -> str:
    """Quote an article in place of a reply that contradicted it. The article is source 1."""
    quoted = "\n".join(f"> {line}" for line in text.splitlines() if line.strip())
    return f"{TEXTS.say('from_article', language_of_text(said), title=_plain(title))} [1]\n\n{quoted}"


def _plain(title: str) -> str:
    """Escape Markdown in a title."""
    return re.sub(r"([\\`*_\[\]<>#|~])", r"\\\1", " ".join(title.split()))


def _round_down(number: float) -> int:
    """Round an estimate down to two significant digits, as too low is better than too high."""
    whole = max(int(number), 1)
    unit = int(10 ** max(len(str(whole)) - 2, 0))
    return whole // unit * unit
