"""Near duplicates of texts and of the notes beside them."""

from __future__ import annotations

from bot.learning.data.duplicates import NearDuplicates

INSTRUCTIONS = " ".join(f"rule{number} says what to do in case {number}" for number in range(200))


def words(name: str, count: int = 30) -> str:
    return " ".join(f"{name}{number}" for number in range(count))


def test_nearly_the_same_words_are_found() -> None:
    known = NearDuplicates(0.8)
    assert known.add(words("a"))
    assert not known.add(words("a") + " more")
    assert known.find("more " + words("a"))
    assert known.add(words("b"))


def test_shared_long_notes_make_no_texts_alike() -> None:
    known = NearDuplicates(0.8)
    assert all(known.add(words(name), INSTRUCTIONS) for name in "abcdefgh")
    assert not known.add(words("c") + " more", INSTRUCTIONS + " and so on")


def test_the_same_words_with_other_notes_are_no_duplicates() -> None:
    known = NearDuplicates(0.8)
    assert known.add(words("a"), words("open from nine "))
    assert known.add(words("a"), words("closed on Sundays "))
    assert known.add(words("a"))
    assert not known.add(words("a"), words("open from nine "))
