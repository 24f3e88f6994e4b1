"""How good a text is beside a reference, and how a text goes wrong by itself: pure functions of strings.

Knows: ROUGE-L, chrF, repetition, refusals, in English and Chinese. Does not know: models, rows, intervals.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rapidfuzz.distance import LCSseq
from sacrebleu.metrics.chrf import CHRF

# Google's rouge-score keeps ASCII letters and digits only; a Chinese character counts as a word of its own here.
_ROUGE_TOKEN = re.compile(r"[a-z0-9]+|[\u3400-\u9fff]")
_WORD = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+")
_CHRF = CHRF()

LOOP_TOKENS = 12
LOOP_REPEATS = 4

_OPENING_CHARACTERS = 240
_REFUSAL = re.compile(
    r"""
    \bi(?:'m|\s+am)\s+(?:\w+\s+)?(?:unable|not\s+able|not\s+allowed|not\s+permitted)\s+to\b
    | \bi\s+(?:can(?:no|')t|can\s+not|won't|will\s+not|must\s+not)\s+(?:\w+\s+)?
      (?:help|assist|do|provide|share|give|answer|tell|reveal|discuss|comply|fulfil+|support|disclose)\b
    | \bi\s+(?:have|must|need)\s+to\s+(?:decline|refuse)\b
    | \bas\s+an\s+(?:ai|artificial)\b.{0,80}\b(?:can(?:no|')t|unable|not\s+able)\b
    | \bagainst\s+(?:my|our)\s+(?:guidelines|policy|policies|rules)\b
    | (?:我|本人|我们)?(?:无法|不能|不可以|没办法)(?:为您|为你|向您|向你|给您|给你|直接)?
      (?:提供|帮助|协助|回答|透露|告诉|满足|执行|讨论|处理)
    | (?:恕我|请恕我)?(?:拒绝|不便)(?:提供|回答|透露|告知)
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)


def rouge_tokens(text: str) -> list[str]:
    """As Google's rouge-score without stemming: lower case, ASCII letters and digits; and each Chinese character."""
    return _ROUGE_TOKEN.findall(text.lower())


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L F1 from 0 to 1: the longest common subsequence of tokens; 0 where either has none."""
    said, wanted = rouge_tokens(answer), rouge_tokens(reference)
    if not said or not wanted:
        return 0.0
    return 2.0 * LCSseq.similarity(said, wanted) / (len(said) + len(wanted))


def chrf(answer: str, reference: str) -> float:
    """Sacrebleu's chrF2 of one answer, from 0 to 1 (its score has 100 for 1)."""
    return float(_CHRF.sentence_score(answer, [reference]).score) / 100.0


def words(text: str) -> list[str]:
    """Words of any script in lower case; a Chinese character is a word."""
    return _WORD.findall(text.lower())


def length_ratio(answer: str, reference: str) -> float:
    """Words of the answer for each word of the reference, which counts as one word at least."""
    return len(words(answer)) / max(len(words(reference)), 1)


def repetition(text: str, size: int = 4) -> float:
    """The share of runs of `size` words that occurred before, from 0 to 1; 0 for a text that is shorter than one."""
    found = words(text)
    runs = [tuple(found[start : start + size]) for start in range(len(found) - size + 1)]
    return 1.0 - len(set(runs)) / len(runs) if runs else 0.0


def ends_in_loop(text: str) -> bool:
    """Whether the end says the same again and again: at least four times in a row, and over at least twelve words."""
    found = words(text)
    return any(_has_period(found, period) for period in range(1, len(found) // LOOP_REPEATS + 1))


def _has_period(found: Sequence[str], period: int) -> bool:
    span = max(LOOP_REPEATS * period, LOOP_TOKENS)
    end = found[-span:]
    return len(end) == span and end[period:] == end[:-period]


def is_refusal(text: str) -> bool:
    """Whether an answer begins by declining, in English or Chinese: by its usual phrases, so now and then wrongly."""
    return _REFUSAL.search(text[:_OPENING_CHARACTERS].replace("\u2019", "'")) is not None
