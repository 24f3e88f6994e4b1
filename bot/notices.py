"""What Myna itself says to people when the model can't, in English and Simplified Chinese.

Knows: the words. Does not know: when they are said.
"""

from __future__ import annotations

import re
from typing import Literal

Notice = Literal["failed", "too_long"]

_TEXTS: dict[Notice, dict[str, str]] = {
    "failed": {
        "en": "Sorry, I could not answer this. The problem has been recorded. Please try again, or say it differently.",
        "zh": "抱歉，我没能回答这个问题，问题已被记录。请重试，或换一种说法。",
    },
    "too_long": {
        "en": "Sorry, this message is too long for me: I can read about {limit} words at once. Please shorten it.",
        "zh": "抱歉，这条消息太长了：我一次大约能读 {limit} 个字。请缩短后再发送。",
    },
}
_CHINESE = re.compile(r"[\u4e00-\u9fff]")
# A token is about 0.7 English words; a Chinese character takes one to two tokens in most vocabularies.
_UNITS_PER_TOKEN = {"en": 0.7, "zh": 0.6}


def language_of(text: str) -> str:
    """`zh` if the text has Chinese characters, else `en`."""
    return "zh" if _CHINESE.search(text) else "en"


def failed(said: str) -> str:
    """The apology for a message that could not be answered, in the language of `said`."""
    return _TEXTS["failed"][language_of(said)]


def too_long(said: str, limit_tokens: int) -> str:
    """The refusal of a message over the limit, in the language of `said`."""
    language = language_of(said)
    return _TEXTS["too_long"][language].format(limit=_round_down(limit_tokens * _UNITS_PER_TOKEN[language]))


def _round_down(number: float) -> int:
    """Two digits are all that an estimate is good for, and too low is better than too high."""
    whole = max(int(number), 1)
    unit = int(10 ** max(len(str(whole)) - 2, 0))
    return whole // unit * unit
