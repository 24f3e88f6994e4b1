"""What Myna says by itself: in the language of the person, with numbers a person can read.

Knows: English and Simplified Chinese. Does not know: when something is said.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot import notices


@pytest.mark.parametrize(
    ("text", "language"),
    [("Where is my parcel?", "en"), ("我的包裹在哪里？", "zh"), ("¿Dónde?", "en"), ("", "en"), ("order 订单 42", "zh")],
)
def test_the_language_is_chinese_where_there_are_chinese_characters(text: str, language: str) -> None:
    assert notices.language_of(text) == language


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
