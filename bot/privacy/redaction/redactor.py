"""Personal data to typed placeholders: [EMAIL_1], [CARD_1], the same for the same value throughout a conversation.

Knows: how placeholders are numbered. Does not know: how personal data looks, or where texts come from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from bot.privacy.redaction.person_names import names_given
from bot.privacy.redaction.personal_data import STRUCTURED, Found, Kind, PersonalDataFinder

_PLACEHOLDER = re.compile(r"\[([A-Z]{2,7})_(\d{1,6})\]")


def hide_personal_data(regions: Sequence[str]) -> Callable[[str], str]:
    """A function that puts placeholders into a text, each text by itself."""
    finder = PersonalDataFinder(regions)
    return lambda text: Redactor(finder).redact(text)


class Redactor:
    """Redacts one conversation, its texts in order. `names` are the people's own, as their channel knows them.

    Doing it again changes nothing. A placeholder that somebody wrote stays, and no value gets its number.
    """

    def __init__(self, finder: PersonalDataFinder, names: Iterable[str] = ()) -> None:
        self._finder = finder
        self._names = list(names)
        self._numbers: dict[tuple[Kind, str], int] = {}
        self._used: set[tuple[str, int]] = set()

    def learn_names(self, texts: Iterable[str]) -> None:
        """Look for names that are given in some text, so that they are known in those before it, too."""
        for text in texts:
            self._names += [one for one in names_given(text) if one not in self._names]

    def redact(self, text: str) -> str:
        """`text` with placeholders."""
        self.learn_names([text])
        self._used |= {(match[1], int(match[2])) for match in _PLACEHOLDER.finditer(text)}
        pieces, end = [], 0
        for found in self._finder.find(text, self._names):
            pieces += [text[end : found.start], self._placeholder(found)]
            end = found.end
        return "".join([*pieces, text[end:]])

    def leftover(self, text: str) -> Kind | None:
        """The kind of something structured that a redacted text still holds; None if there is nothing."""
        return next((one.kind for one in self._finder.find(text, self._names) if one.kind in STRUCTURED), None)

    def _placeholder(self, found: Found) -> str:
        known = self._numbers.get((found.kind, found.key))
        if known is None:
            known = 1
            while (found.kind, known) in self._used:
                known += 1
            self._used.add((found.kind, known))
            self._numbers[found.kind, found.key] = known
        return f"[{found.kind}_{known}]"
