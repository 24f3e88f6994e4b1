"""Redaction: personal data becomes typed, numbered placeholders, as [EMAIL_1]."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from bot.privacy.redaction.person_names import names_given
from bot.privacy.redaction.personal_data import STRUCTURED, Finding, Kind, PersonalDataFinder

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
        for finding in self._finder.find(text, self._names):
            pieces += [text[end : finding.start], self._placeholder(finding)]
            end = finding.end
        return "".join([*pieces, text[end:]])

    def leftover(self, text: str) -> Kind | None:
        """Return the first structured kind that a redacted text still holds; None if there is none."""
        kinds = (finding.kind for finding in self._finder.find(text, self._names))
        return next((kind for kind in kinds if kind in STRUCTURED), None)

    def _placeholder(self, finding: Finding) -> str:
        number = self._numbers.get((finding.kind, finding.key))
        if number is None:
            number = 1
            while (finding.kind, number) in self._used:
                number += 1
            self._used.add((finding.kind, number))
            self._numbers[finding.kind, finding.key] = number
        return f"[{finding.kind}_{number}]"
