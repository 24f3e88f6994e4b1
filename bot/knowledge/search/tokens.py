"""Search tokens: case folding, stemming, stop words, Chinese segmentation.

Tokens are made here and not by a database's text search, so that SQLite and PostgreSQL rank alike.
"""

from __future__ import annotations

import functools
import re
import threading
import unicodedata
from collections.abc import Iterator
from itertools import pairwise

import rjieba
import snowballstemmer

# Han is segmented; other scripts without spaces, for which there is no dictionary here, become pairs of characters.
_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff"
_RUN = re.compile(rf"[{_HAN}]+|[{_UNSPACED}]+|[^\W_{_HAN}{_UNSPACED}]+(?:['’][^\W\d_]+)*")
_HAN_RUN = re.compile(rf"[{_HAN}]+")
_UNSPACED_LETTER = re.compile(rf"[{_HAN}{_UNSPACED}]")
_WRITTEN = re.compile(rf"[{_HAN}{_UNSPACED}]|[^\W{_HAN}{_UNSPACED}]+")
_UNSPACED_RUN = re.compile(rf"[{_UNSPACED}]+")
# Names of settings, versions and paths are also kept whole.
_COMPOUND = re.compile(r"(?<![^\W_])[^\W_]++(?:[._\-/@][^\W_]++)+")
_CLITIC = re.compile(r"(?:n['’]t|['’](?:s|re|ve|ll|d|m))$")
MAX_WORD_CHARS = 40

# Function words of English, also in stemmed form: a word of nearly every question does not distinguish questions.
STOP_WORDS = frozenset(
    """a about after again all also am an and any are as at be because been before being both but by can cannot could
    did do doe does doing don down each few for from further get go had has have having he her here hers him his how i
    if in into is isn it its itself just let like me more most my myself need no nor not now of off on once only or
    other our ours out over own please same she should so some such than that the their theirs them then there these
    they this those through to too under until up us very want was we were what when where which while who whom why
    will with would you your yours""".split()
)
# Function words of Chinese. Texts are split at them, as pairs across them would be noise.
_HAN_STOPS = re.compile(
    "为什么|什么|如何|怎么样|怎么办|怎么|怎样|是否|可以|能否|能不能|哪些|哪个|请问|多少|应该|需要"
    "|[吗呢的了是在有和与或我你会要及时把被也都]"
)


def words(text: str) -> list[str]:
    """Return the search tokens of a text in their order.

    Latin words are stemmed as English; words of other languages change in the same way in questions and articles. Han
    becomes pairs of characters and the dictionary's long words: on questions about `faq_zh`, pairs ranked the answer
    first for 72 in 100, the dictionary's words for 68 to 70.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    compounds = (re.sub(r"\W", "_", match.group())[:MAX_WORD_CHARS] for match in _COMPOUND.finditer(folded))
    return [*_words(folded), *compounds]


def neighbours(text: str) -> set[tuple[str, str]]:
    """Return the pairs of adjacent words, unstemmed; for Han, the pairs of characters."""
    parts = _WRITTEN.findall(unicodedata.normalize("NFKC", text).casefold())
    return set(pairwise(parts))


def is_mostly_unspaced(text: str) -> bool:
    """Return True if most of a text is in Han or another script without spaces; it may contain Latin names."""
    parts = _WRITTEN.findall(text)
    return sum(1 for part in parts if _UNSPACED_LETTER.match(part)) * 2 > len(parts)


def _words(text: str) -> Iterator[str]:
    for match in _RUN.finditer(text):
        run = match.group()
        if _HAN_RUN.match(run):
            yield from _han(run)
        elif _UNSPACED_RUN.match(run):
            yield from _pairs(run)
        elif (word := _stem(_CLITIC.sub("", run)[:MAX_WORD_CHARS])) not in STOP_WORDS:
            yield word


def _han(run: str) -> Iterator[str]:
    for part in _HAN_STOPS.split(run):
        yield from (word for word in rjieba.cut(part, False) if len(word) > 3)
        yield from _pairs(part)


def _pairs(run: str) -> Iterator[str]:
    if len(run) == 1:
        yield run
    yield from (run[at : at + 2] for at in range(len(run) - 1))


@functools.lru_cache(maxsize=50_000)
def _stem(word: str) -> str:
    if word in STOP_WORDS:
        return word
    return str(_stemmer.english.stemWord(re.sub(r"['’]", "", word)))


class _Stemmer(threading.local):
    """Stemmer of each thread: a stemmer stores the word that it works on and is not thread-safe."""

    def __init__(self) -> None:
        self.english = snowballstemmer.stemmer("english")


_stemmer = _Stemmer()
