"""Citations and the hallucination check of streamed replies."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.knowledge.fact_check import CitedText, FactCheck, Invented
from storage.values import SeenPassage

RETURNS = "You can return goods within 30 days of delivery. The refund of €1,000.50 arrives after five business days."
SHIPPING = "Shipping to Germany costs 4.90 EUR. Open Mon-Fri 9:00-17:00. Ask Ms Weber from the Bremen office."


def passage(number: int, title: str, text: str, headings: tuple[str, ...] = ()) -> SeenPassage:
    return SeenPassage(number, f"id{number}", title.lower(), title, headings, None, "public", text, 1.0)


PASSAGES = (passage(1, "Returns", RETURNS), passage(2, "Shipping", SHIPPING))
QUESTION = "when can i return the shoes that i bought in Hamburg on 3/14"


def shown(text: str, step: int = 3) -> tuple[str, set[int]]:
    """Return the shown text and the cited numbers for `text` in pieces of `step` characters."""
    cited = CitedText(PASSAGES, FactCheck([RETURNS, SHIPPING, QUESTION]))
    out = "".join(cited.add(text[start : start + step]) for start in range(0, len(text), step))
    return out + cited.end(), cited.cited


def test_the_first_letters_are_shown_at_once_then_whole_words() -> None:
    cited = CitedText(PASSAGES, FactCheck([RETURNS, SHIPPING, QUESTION]))
    assert [cited.add(piece) for piece in ("Re", "turn go", "ods", " within 3")] == ["Re", "turn", "", " goods within"]
    with pytest.raises(Invented):
        cited.add("1 days")
    again = CitedText(PASSAGES, FactCheck([RETURNS]))
    assert again.add("12") == "", "a number may be a fact wherever it stands"


@pytest.mark.parametrize(
    ("text", "expected", "cited"),
    [
        ("You can return goods within 30 days.", "You can return goods within 30 days. [1]", {1}),
        (
            "Goods are returned within 30 days. The refund arrives after 5 business days. All the best!",
            "Goods are returned within 30 days. [1] The refund arrives after 5 business days. All the best!",
            {1},
        ),
        (
            "Return goods within 30 days.\n\nShipping to Germany costs 4.9 EUR.",
            "Return goods within 30 days. [1]\n\nShipping to Germany costs 4.9 EUR. [2]",
            {1, 2},
        ),
        (
            "1. Return the goods within days\n2. The refund arrives after business days\n",
            "1. Return the goods within days [1]\n2. The refund arrives after business days [1]\n",
            {1},
        ),
        ("Shipping costs 4.90 EUR [2].", "Shipping costs 4.90 EUR [2].", {2}),
        ("Shipping costs 4.90 EUR [7]. Bye.", "Shipping costs 4.90 EUR. [2] Bye.", {2}),
        ("Yes, you can.", "Yes, you can. [1]", {1}),
        ("```\nreturn goods in days\n```\nReturn goods.", "```\nreturn goods in days\n```\nReturn goods. [1]", {1}),
        ("Return goods within 30 days, by 3/14.", "Return goods within 30 days, by 3/14. [1]", {1}),
    ],
)
def test_sentences_cite_the_passage_they_draw_on(text: str, expected: str, cited: set[int]) -> None:
    assert shown(text) == (expected, cited)


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("Goods go back within 14 days.", "14"),
        ("It costs 4.95 EUR to ship goods.", "4.95"),
        ("The refund is 1,000.05.", "1,000.05"),
        ("We are open until 18:00.", "18:00"),
        ("Please ask for Ms Miller.", "Miller"),
        ("The refund comes by SEPA.", "SEPA"),
        ("Shipping to Germany and Paris.", "Paris"),
        ("Return goods on 3/15.", "3/15"),
        ("退货需要14天。", "14"),
    ],
)
def test_an_invented_fact_is_never_shown(text: str, fact: str) -> None:
    cited = CitedText(PASSAGES, FactCheck([RETURNS, SHIPPING, QUESTION]))
    out = ""
    with pytest.raises(Invented) as told:
        for sign in text:
            out += cited.add(sign)
        cited.end()
    assert told.value.facts == (fact,)
    assert fact not in out
    assert text.startswith(out)


@pytest.mark.parametrize(
    "text",
    [
        "It is 1000.5 euros.",
        "It takes 5 days.",
        "It takes five days.",
        "Until 17:00.",
        "From 9:00 on.",
        "Ms Weber knows.",
        "Germany is near.",
        "Hello there. Great that you ask.",
        "In Bremen [1].",
    ],
)
def test_a_fact_in_another_spelling_is_not_invented(text: str) -> None:
    assert FactCheck([RETURNS, SHIPPING]).invented(text) == []


def test_names_are_not_checked_where_nouns_are_capitalised() -> None:
    german = "Die Rückgabe der Ware ist innerhalb von 30 Tagen nach der Lieferung im Laden oder per Post möglich."
    check = FactCheck([german])
    assert check.invented("Sie können Ihre Schuhe mit der Quittung im Geschäft zurückgeben.") == []
    assert check.invented("Das geht 14 Tage lang.") == ["14"]


def test_a_reply_without_any_source_is_invented() -> None:
    with pytest.raises(Invented, match="no sentence"):
        shown("Our shop sells wonderful clothing for everybody. Please visit soon and enjoy.")


def test_a_repeated_sentence_is_hidden_and_reported() -> None:
    cited = CitedText(PASSAGES, FactCheck([RETURNS]))
    out = cited.add("The answer is no. The refund arrives. The answer is no ")
    assert out == "The answer is no. The refund arrives. [1]"
    out += cited.add("longer. The answer is no. ")
    assert out == "The answer is no. The refund arrives. [1] The answer is no longer."
    assert cited.repeats
    assert cited.end() == "", "it is not shown again"


WORDS = [*"return goods 30 days. refund [1] [9] Shipping costs 4.90 EUR! 退货 。 OK.".split(), "\n"]


@given(st.lists(st.sampled_from(WORDS), max_size=25), st.sampled_from([" ", ""]), st.integers(1, 9))
def test_the_outcome_does_not_depend_on_the_pieces(parts: list[str], between: str, step: int) -> None:
    text = between.join(parts)

    def outcome(size: int) -> object:
        try:
            return shown(text, size)
        except Invented as error:
            return error.facts[0]

    whole = outcome(step)
    assert outcome(1) == whole
    if isinstance(whole, tuple) and not says_again(text):
        assert unmarked(whole[0]) == unmarked(text)


def says_again(text: str) -> bool:
    sentences = [unmarked(one) for one in re.split(r"(?<=[.!\u3002])|\n", text) if len(unmarked(one)) > 6]
    return len(sentences) > len(set(sentences))


def unmarked(text: str) -> str:
    return "".join(re.sub(r"\[\d\]", "", text).split())


def test_checking_a_long_text_takes_linear_time() -> None:
    """A pattern that backtracks (ReDoS) would take hours here."""
    assert FactCheck(["1" * 500_000]).invented("a" + "\n" * 500_000 + "7 b") == ["7"]
