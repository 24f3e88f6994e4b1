"""Catalogues of texts: every language has every text, with the same placeholders."""

from __future__ import annotations

import string

import pytest

from adapters.slack import words
from bot.steering import line_words
from bot.words import notices
from bot.words.catalogue import LANGUAGES, Catalogue, language_of_locale, language_of_text

CATALOGUES = {"notices": notices.TEXTS, "steering": line_words.WORDS, "hints": line_words.HINTS, "slack": words.WORDS}


def placeholders(text: str) -> list[str]:
    return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name is not None)


@pytest.mark.parametrize("topic", CATALOGUES)
def test_every_language_has_every_text(topic: str) -> None:
    tables = CATALOGUES[topic].tables
    assert list(tables) == list(LANGUAGES)
    assert len(tables["en"]) > 4
    for table in tables.values():
        assert table.keys() == tables["en"].keys()
        assert all(table.values())


@pytest.mark.parametrize("topic", CATALOGUES)
def test_texts_of_all_languages_have_the_same_placeholders(topic: str) -> None:
    english, *others = CATALOGUES[topic].tables.values()
    for table in others:
        assert [name for name in english if placeholders(table[name]) != placeholders(english[name])] == []
        assert [name for name in english if table[name] == english[name]] == [], "not translated"


def test_a_text_is_filled_in_the_language_asked_for_or_in_english() -> None:
    catalogue = Catalogue(en={"greeting": "Hello, {name}", "bye": "Bye"}, zh={"greeting": "你好，{name}"})
    assert catalogue.say("greeting", "zh", name="Ada") == "你好，Ada"
    assert catalogue.say("greeting", "fr", name="Ada") == "Hello, Ada"
    assert catalogue.say("bye", "zh") == "Bye"
    with pytest.raises(KeyError):
        catalogue.say("nothing", "en")


@pytest.mark.parametrize(
    ("locale", "language"),
    [("zh-CN", "zh"), ("zh_TW", "zh"), ("ZH", "zh"), ("en-GB", "en"), ("de", "en"), (None, "en")],
)
def test_a_locale_has_a_language(locale: str | None, language: str) -> None:
    assert language_of_locale(locale) == language


@pytest.mark.parametrize(
    ("text", "language"), [("Where is it?", "en"), ("在哪里？", "zh"), ("order 退货", "zh"), ("", "en")]
)
def test_a_text_has_a_language(text: str, language: str) -> None:
    assert language_of_text(text) == language
