"""Chunking, tokenisation and ranking."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.knowledge.reading.documents import Block, Document
from bot.knowledge.reading.passages import count_words, cut, excerpt
from bot.knowledge.search.ranking import ask, best_of_articles, bm25, rank
from bot.knowledge.search.tokens import is_mostly_unspaced, neighbours, words
from bot.knowledge.small_talk import SmallTalk
from storage.knowledge_values import Candidates, Index, StoredPassage


def document(*blocks: Block) -> Document:
    return Document("Title", blocks)


def text(content: str, *headings: str) -> Block:
    return Block("text", headings, (content,))


def test_only_blocks_under_one_heading_share_a_passage() -> None:
    found = cut(document(text("One."), text("Two.", "A"), text("Three.", "A"), text("Four.", "A", "B")))
    assert [(one.headings, one.text) for one in found] == [
        ((), "One."),
        (("A",), "Two.\nThree."),
        (("A", "B"), "Four."),
    ]


def test_a_long_text_is_cut_between_sentences() -> None:
    sentences = [f"This is sentence number {number} of a long text." for number in range(30)]
    found = cut(document(text(" ".join(sentences))), max_words=40)
    assert " ".join(one.text for one in found) == " ".join(sentences)
    assert all(one.text.endswith(".") and count_words(one.text) <= 40 for one in found)


def test_tables_repeat_their_head_and_lists_split_at_items() -> None:
    rows = tuple(f"country {number} | {number} euros" for number in range(40))
    found = cut(document(Block("table", (), ("Country | Price", *rows))), max_words=30)
    assert len(found) > 3
    assert all(one.text.startswith("Country | Price\n") for one in found)
    assert [row for one in found for row in one.text.split("\n")[1:]] == list(rows)
    items = tuple(f"- item {number}" for number in range(40))
    pieces = cut(document(Block("items", (), items)), max_words=30)
    assert [line for one in pieces for line in one.text.split("\n")] == list(items)


def test_a_document_with_only_a_title_has_a_passage() -> None:
    assert [(one.headings, one.text) for one in cut(Document("Only a title", ()))] == [((), "")]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(alphabet="ab .!?\n你好。", max_size=300), max_size=6), st.integers(5, 50))
def test_passages_fit_the_limit_and_lose_no_letter(lines: list[str], most: int) -> None:
    blocks = tuple(Block("text", (), (line,)) for line in lines if line.strip())
    found = cut(Document("t", blocks), max_words=most)
    assert all(count_words(one.text) <= most for one in found)
    kept = "".join(one.text for one in found)
    assert [one for one in kept if not one.isspace()] == [one for line in lines for one in line if not one.isspace()]


def test_words_are_folded_and_stemmed_without_stop_words() -> None:
    assert words("Don't cancel the customer's ORDERS!") == ["cancel", "custom", "order"]
    assert words("tidb_mem-quota v4.0.1") == ["tidb", "mem", "quota", "v4", "0", "1", "tidb_mem_quota", "v4_0_1"]
    assert words("") == []


def test_chinese_becomes_pairs_without_question_words() -> None:
    assert words("如何退货？") == ["退货"]
    assert "数据" in words("数据库的备份")
    assert "库的" not in words("数据库的备份")
    assert is_mostly_unspaced("TiDB 如何升级")
    assert not is_mostly_unspaced("What does 退货 mean here?")


@given(st.text(max_size=200))
def test_tokens_of_any_text_are_plain(anything: str) -> None:
    for one in words(anything):
        assert one
        assert not any(letter.isspace() for letter in one)
        assert len(one) <= 40


INDEX = Index(1, "m", 10, 20, 4.0, {"refund": 2, "day": 8}, 0)


def stored(number: int, name: str, content: str, vector: tuple[float, float]) -> StoredPassage:
    return StoredPassage(
        number, name, 0, (), content, " ".join(words(content)), np.array(vector, np.float32), name, name, None, "public"
    )


def test_ranking_uses_words_and_meaning_then_names() -> None:
    passages = [
        stored(1, "b", "A refund takes a week.", (0.0, 1.0)),
        stored(2, "a", "A refund takes a week.", (0.0, 1.0)),
        stored(3, "near", "Something else.", (0.6, 0.8)),
        stored(4, "far", "Something else.", (0.0, 1.0)),
    ]
    found = Candidates(INDEX, passages, {one.article_id: one.vector for one in passages})
    question = ask("How long does a refund take?", np.array([1.0, 0.0], np.float32), INDEX)
    hits = rank(question, found)
    assert [hit.passage.name for hit in hits if hit.passage.name in "ab"] == ["a", "b"]
    assert hits[-1].passage.name == "far"
    assert hits.index(next(hit for hit in hits if hit.passage.name == "near")) in (0, 2)
    assert [hit.passage.name for hit in best_of_articles([*hits, *hits])] == [hit.passage.name for hit in hits]


def test_bm25_is_below_one_and_favours_rare_words() -> None:
    asked = ask("refund day", np.zeros(2, np.float32), INDEX).words
    assert bm25(asked, "other words", INDEX) == 0
    assert bm25(asked, "day x", INDEX) < bm25(asked, "refund x", INDEX) < bm25(asked, "refund day", INDEX) < 1
    assert bm25({}, "refund", INDEX) == 0


def test_neighbours_are_unstemmed_words() -> None:
    assert neighbours("How do I") == {("how", "do"), ("do", "i")}
    assert neighbours("退货") == {("退", "货")}
    assert neighbours("one") == set()


def test_no_text_takes_long_to_examine() -> None:
    """A pattern that backtracks (ReDoS) would take hours here."""
    assert words("a" * 1_000_000) == ["a" * 40]
    nothing = SmallTalk(lambda texts: np.zeros((len(texts), 2), np.float32))
    assert nothing.likeness("你好" * 1000, np.zeros(2, np.float32)) == 1
    assert nothing.likeness("你好" * 1000 + "退货", np.zeros(2, np.float32)) == 0
    assert nothing.likeness("对不起，你是谁？好的", np.zeros(2, np.float32)) == 1


@pytest.mark.parametrize("content", ["a" * 10_000, "你" * 3000])
def test_an_endless_word_is_cut_too(content: str) -> None:
    found = cut(document(text(content)))
    assert "".join(one.text for one in found) == content


TEXT = "We sell boats. They are blue.\nReturn them within 30 days, unworn. Refunds take five days.\nBye for now."


@pytest.mark.parametrize(
    ("asked", "most", "expected"),
    [
        ({"return": 1.0, "refund": 2.0}, 11, "Return them within 30 days, unworn. Refunds take five days."),
        ({"refund": 2.0, "boat": 1.0}, 4, "Refunds take five days."),
        ({"boat": 1.0}, 7, "We sell boats. They are blue."),
        ({"unknown": 1.0}, 3, "We sell boats."),
        ({"return": 1.0}, 2, "Return them"),
        ({"boat": 1.0}, 100, TEXT),
    ],
)
def test_an_excerpt_keeps_the_sentences_with_asked_words(asked: dict[str, float], most: int, expected: str) -> None:
    assert excerpt(TEXT, asked, most) == expected
