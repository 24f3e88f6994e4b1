"""Citations and a hallucination check for streamed replies.

Each sentence is marked with the passage that it draws on; a number or name that stands in no passage raises `Invented`.
A word is held back until it is complete, so that no part of it is shown before it is checked; all other text is
streamed as it comes.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from bot.knowledge.search.tokens import words
from storage.values import SeenPassage

# A sentence draws on a passage that contains at least this share and this number of its words.
LEAST_SHARE, LEAST_WORDS = 0.5, 2
# A reply with more words than this and no sentence from a passage is not from the articles.
MOST_UNCITED_WORDS = 1
LEAST_REPEATED_CHARS = 12
# A larger share of capitals within sentences means a language that capitalises nouns, where they mark no names.
MOST_CAPITALS = 0.2

_HAN = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
# Full stop, exclamation and question mark of Chinese; then comma, semicolon and the comma of lists.
_HAN_ENDS, _HAN_COMMAS = "\u3002\uff01\uff1f", "\uff0c\uff1b\u3001"
_WHOLE = re.compile(rf"[\s{_HAN}{_HAN_ENDS}{_HAN_COMMAS}]")
_MARK = re.compile(r" ?\[(\d{1,2})\]")
_LIST_NUMBER = re.compile(r"^[^\S\n]*+\d+[.)](?=\s|$)", re.MULTILINE)
_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")
_NAME = re.compile(r"(?<=[a-z0-9,;:)] )(?:[A-Z][a-z]{2,}|[A-Z]{2,})(?![a-z])")
_WITHIN = re.compile(r"(?<=[^\W\d_] )[^\W\d_]{2,}")
_END = rf"[.!?][\"'”)\]*_]*(?=\s|$)|[{_HAN_ENDS}]|\n"
_SENTENCE_END = re.compile(_END)
_AT_END = re.compile(rf"(?:{_END})\Z")
_NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
).split()
_TENS = {"thirty": "30", "forty": "40", "fifty": "50", "sixty": "60", "seventy": "70", "eighty": "80", "ninety": "90"}
_SAID_NUMBERS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS)} | _TENS | {"once": "1", "twice": "2"}


class Invented(Exception):
    """Raised for a number or name that the model was not shown (a hallucination)."""

    def __init__(self, facts: Sequence[str]) -> None:
        super().__init__(", ".join(facts))
        self.facts = tuple(facts)


class FactCheck:
    """Check of numbers and names against the texts that the model was `told`."""

    def __init__(self, told: Iterable[str]) -> None:
        whole = unicodedata.normalize("NFKC", "\n".join(told))
        self._lower = whole.lower()
        self._numbers = _numbers(whole)
        within = _WITHIN.findall(whole)
        capitals = sum(word[0].isupper() for word in within)
        self._knows_names = bool(within) and capitals <= MOST_CAPITALS * len(within)

    def invented(self, text: str) -> list[str]:
        """Return the numbers and names of `text` that were not told, in its spelling."""
        plain = unicodedata.normalize("NFKC", _LIST_NUMBER.sub("", _MARK.sub("", text)))
        found = [number for number in _NUMBER.findall(plain) if _canonical(number) not in self._numbers]
        if self._knows_names:
            found += [name for name in _NAME.findall(plain) if name.lower() not in self._lower]
        return found


def _numbers(text: str) -> set[str]:
    found = _NUMBER.findall(text)
    # Of "9:00-17:00", a reply may say 17:00 or 17.
    parts = [part for number in found for part in re.split(r"[:-]", number)]
    times = re.findall(r"(?<!\d)\d++:\d+", text)
    spelled = [_SAID_NUMBERS[word] for word in re.findall(r"[a-z]+", text.lower()) if word in _SAID_NUMBERS]
    return {_canonical(number) for number in (*found, *parts, *times, *spelled)}


def _canonical(number: str) -> str:
    """Return one spelling of equal numbers: 1,000 is 1000, and 9.50 is 9.5."""
    plain = re.sub(r",(?=\d{3}(?:\D|$))", "", number)
    return plain.rstrip("0").rstrip(".") if re.fullmatch(r"\d+\.\d+", plain) else plain.lstrip("0") or "0"


class CitedText:
    """Filter for a streamed reply: checks its facts and adds `[n]` to sentences that draw on a passage.

    Marks that the model writes itself are kept if the passage exists. `cited` are the passage numbers so far.
    `repeats` is True once the reply repeats a sentence, which is not shown again; the caller can then end the stream.
    """

    def __init__(self, passages: Sequence[SeenPassage], check: FactCheck) -> None:
        self._passages = {passage.number: frozenset(_words_of(passage)) for passage in passages}
        self._check = check
        self._held = ""
        self._line = ""
        self._sentence = ""
        self._last: int | None = None
        self._in_code = self._has_begun = False
        self._said: frozenset[str] = frozenset()
        self._sentences: set[str] = set()
        self._echo = ""
        self.cited: set[int] = set()
        self.repeats = False

    def add(self, piece: str) -> str:
        """Return the text that may be shown now. Raises `Invented` before any part of an invented fact is returned."""
        self._held += piece
        if not self._has_begun and self._held.isascii() and self._held.isalpha():
            # The first letters of a reply are never a fact, and a person waits for them.
            ready, self._held = self._held, ""
            return self._pass(ready)
        ends = [match.end() for match in _WHOLE.finditer(self._held)]
        if not ends:
            return ""
        # A space stays with the text behind it: it is dropped if that is the mark of an unknown passage.
        end = len(self._held[: ends[-1]].rstrip())
        ready, self._held = self._held[:end], self._held[end:]
        return self._pass(ready)

    def end(self) -> str:
        """Return the rest of the text. Raises `Invented` also if no sentence of the whole text draws on a passage."""
        ready, self._held = self._held, ""
        shown = self._pass(ready + "\n").removesuffix("\n")
        if not self.cited and len(self._said) > MOST_UNCITED_WORDS:
            raise Invented(["no sentence is from the articles"])
        if not self.cited and self._passages:  # "Yes, you can." has too few words to be compared
            self.cited.add(min(self._passages))
            return f"{shown} [{min(self._passages)}]"
        return shown

    def _pass(self, text: str) -> str:
        self._has_begun = True
        if invented := self._check.invented(self._line + text):
            raise Invented(invented)
        self._line = (self._line + text).rpartition("\n")[2]
        return "".join(self._marked(part) for part in _cut_after_sentences(text))

    def _marked(self, part: str) -> str:
        """Return a sentence or the received part of a sentence, with its mark if it ends here."""
        if "```" in part or self._in_code:
            self._in_code ^= part.count("```") % 2 == 1
            self._sentence = ""
            return self._released() + part
        part = _MARK.sub(self._keep_known, part)
        self._sentence += part
        plain, is_whole = " ".join(self._sentence.split()), _AT_END.search(part) is not None
        if len(plain) >= LEAST_REPEATED_CHARS and any(sentence.startswith(plain) for sentence in self._sentences):
            # It may be a repetition; that is known only when the sentence is complete.
            self._echo += part
            self.repeats |= is_whole
            return ""
        shown = self._released() + part
        return self._with_source(shown, plain) if is_whole else shown

    def _released(self) -> str:
        held, self._echo = self._echo, ""
        return held

    def _with_source(self, part: str, sentence: str) -> str:
        self._sentences.add(sentence)
        self._sentence = ""
        number = self._source_of(sentence)
        mark = f" [{number}]" if number is not None and number != self._last and not _MARK.search(sentence) else ""
        if number is not None:
            self._last = number
            self.cited.add(number)
        if part.endswith("\n"):
            self._last = None
        before = part.rstrip()
        return f"{before}{mark}{part[len(before) :]}" if mark else part

    def _keep_known(self, match: re.Match[str]) -> str:
        number = int(match[1])
        if number not in self._passages:
            return ""
        self.cited.add(number)
        return match[0]

    def _source_of(self, sentence: str) -> int | None:
        said = frozenset(words(sentence))
        self._said |= said
        if len(said) < LEAST_WORDS:
            return None
        shares = {number: len(said & own) for number, own in self._passages.items()}
        best = max(shares, key=lambda number: (shares[number], -number), default=None)
        if best is None or shares[best] < max(LEAST_WORDS, LEAST_SHARE * len(said)):
            return None
        return best


def _words_of(passage: SeenPassage) -> list[str]:
    return words(" . ".join((passage.title, *passage.headings, passage.text)))


def _cut_after_sentences(text: str) -> list[str]:
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True) if start < end]
