"""Redaction of personal data to typed placeholders, such as [EMAIL_1]."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from bot.privacy.redaction.person_names import names_given
from bot.privacy.redaction.personal_data import STRUCTURED, DetectedSpan, Kind, PersonalDataFinder

_PLACEHOLDER = re.compile(r"\[([A-Z]{2,7})_(\d{1,6})\]")


def hide_personal_data(regions: Sequence[str]) -> Callable[[str], str]:
    """Return a function that redacts texts, each by itself, for the phone numbers of these regions."""
    finder = PersonalDataFinder(regions)
    return lambda text: Redactor(finder).redact(text)


class Redactor:
    """Redacts the texts of one conversation, in order; the same value gets the same placeholder throughout.

    `names` are the participants' names as their channel gives them. Redaction is idempotent. A placeholder that
    somebody typed stays as it is, and no value gets its number.
    """

    def __init__(self, finder: PersonalDataFinder, names: Iterable[str] = ()) -> None:
        self._finder = finder
        self._names = list(names)
        self._numbers: dict[tuple[Kind, str], int] = {}
        self._used: set[tuple[str, int]] = set()

    def learn_names(self, texts: Iterable[str]) -> None:
        """Remember the names that people give in these texts, so that earlier texts are redacted for them, too."""
        for text in texts:
            self._names += [name for name in names_given(text) if name not in self._names]

    def redact(self, text: str) -> str:
        """Return `text` with placeholders in place of personal data."""
        self.learn_names([text])
        self._used |= {(match[1], int(match[2])) for match in _PLACEHOLDER.finditer(text)}
        pieces, end = [], 0
        for span in self._finder.find(text, self._names):
            pieces += [text[end : span.start], self._placeholder(span)]
            end = span.end
        return "".join([*pieces, text[end:]])

    def leftover(self, text: str) -> Kind | None:
        """Return the first structured kind that a redacted text still holds; None if there is none."""
        kinds = (span.kind for span in self._finder.find(text, self._names))
        return next((kind for kind in kinds if kind in STRUCTURED), None)

    def _placeholder(self, span: DetectedSpan) -> str:
        number = self._numbers.get((span.kind, span.key))
        if number is None:
            number = 1
            while (span.kind, number) in self._used:
                number += 1
            self._used.add((span.kind, number))
            self._numbers[span.kind, span.key] = number
        return f"[{span.kind}_{number}]"
