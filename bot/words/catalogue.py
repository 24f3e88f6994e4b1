"""Catalogue of texts: a name, the language of a person, and the values to fill in.

Each channel keeps the texts of its own topic in a catalogue, with a table for each language.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

LANGUAGES = ("en", "zh")
DEFAULT_LANGUAGE = "en"
_CHINESE = re.compile(r"[\u4e00-\u9fff]")


class Catalogue:
    """A table of texts by name for each language, with `{placeholders}` as `str.format` fills them."""

    def __init__(self, *, en: Mapping[str, str], **others: Mapping[str, str]) -> None:
        self.tables: Mapping[str, Mapping[str, str]] = {"en": en, **others}

    def __iter__(self) -> Iterator[str]:
        return iter(self.tables[DEFAULT_LANGUAGE])

    def __contains__(self, name: object) -> bool:
        return name in self.tables[DEFAULT_LANGUAGE]

    def say(self, name: str, language: str, /, **values: object) -> str:
        """Return a text in a language, in English where that language has none. Raises `KeyError` for no such text."""
        in_english = self.tables[DEFAULT_LANGUAGE][name]
        return self.tables.get(language, {}).get(name, in_english).format(**values)


def language_of_locale(locale: str | None) -> str:
    """Return the language of a locale such as `zh-CN`, English for one that has no texts."""
    language = re.split(r"[-_]", (locale or "").lower(), maxsplit=1)[0]
    return language if language in LANGUAGES else DEFAULT_LANGUAGE


def language_of_text(text: str) -> str:
    """Return the language that a text is answered in: Chinese if it has Chinese characters, else English."""
    return "zh" if _CHINESE.search(text) else DEFAULT_LANGUAGE
