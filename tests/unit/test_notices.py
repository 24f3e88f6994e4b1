"""Myna's own notices: language of the person, readable numbers, quoted articles."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.words import notices
from bot.words.catalogue import language_of_text


@pytest.mark.parametrize(
    ("text", "language"),
    [("Where is my parcel?", "en"), ("我的包裹在哪里？", "zh"), ("¿Dónde?", "en"), ("", "en"), ("order 订单 42", "zh")],
)
def test_the_language_is_chinese_where_there_are_chinese_characters(text: str, language: str) -> None:
    assert language_of_text(text) == language


def test_the_apology_is_in_the_language_of_the_person() -> None:
    assert notices.failed("Hello").startswith("Sorry")
    assert notices.failed("你好").startswith("抱歉")


@pytest.mark.parametrize(
    ("said", "tokens", "number"),
    [("Hello", 1536, "1000"), ("你好", 1536, "920"), ("Hello", 100, "70"), ("Hello", 10, "7"), ("Hello", 0, "1")],
)
def test_the_limit_is_a_round_number_of_words(said: str, tokens: int, number: str) -> None:
    assert re.findall(r"[\d.]+\d|\d", notices.too_long(said, tokens)) == [number]


@given(st.integers(0, 2**20))
def test_the_limit_never_promises_more_than_there_is(tokens: int) -> None:
    for said, share in (("Hello", 0.7), ("你好", 0.6)):
        (number,) = re.findall(r"\d+", notices.too_long(said, tokens))
        assert int(number) <= max(tokens * share, 1)
        assert int(number) >= tokens * share * 0.9 - 1


def test_no_notice_has_an_unfilled_place() -> None:
    for said in ("Hello", "你好"):
        assert "{" not in notices.failed(said) + notices.too_long(said, 100)


def test_an_unknown_answer_names_a_contact() -> None:
    text = notices.unknown("Do you sell *boats*?", "help@shop.example", [(1, "Our [new] *boats*"), (2, "Cars")])
    assert text.startswith("I don't know")
    assert "help@shop.example" in text
    assert text.endswith(": Our \\[new\\] \\*boats\\* [1], Cars [2]")
    assert notices.unknown("有船吗？", "", []) == "这个我不知道：我在我们的文章里没有找到相关内容。"


def test_an_article_is_quoted_whole() -> None:
    assert notices.from_article("How?", "Returns", "First.\n\nSecond.") == (
        "Our article “Returns” says: [1]\n\n> First.\n> Second."
    )
