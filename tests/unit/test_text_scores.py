"""Text scores, against the packages that define them, and on degenerate texts."""

from __future__ import annotations

import random

import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu import sentence_chrf

from bot.learning.judge import measures

SENTENCES = [
    "Your order #4471 will arrive on Monday, we're sorry for the delay!",
    "Please send us a DM with your e-mail address & we'll look into it.",
    "Café, naïve - ÜBER 12,5 %: don't split_this (or do)?",
    "",
    "   ...   ",
    "ok",
]


def random_sentences(count: int) -> list[str]:
    source = random.Random(3)
    words = ["the", "order", "we", "Refund,", "it's", "3", "days", "card.", "sorry", "naïve", "e-mail"]
    return [" ".join(source.choices(words, k=source.randint(0, 40))) for _ in range(count)]


def test_rouge_l_equals_googles() -> None:
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    texts = SENTENCES + random_sentences(30)
    for answer in texts:
        for reference in texts:
            wanted = scorer.score(reference, answer)["rougeL"].fmeasure
            assert measures.rouge_l(answer, reference) == pytest.approx(wanted, abs=1e-9)


def test_rouge_l_counts_a_chinese_character_as_a_word() -> None:
    assert measures.rouge_tokens("订单 A12 已发货") == ["订", "单", "a12", "已", "发", "货"]
    assert measures.rouge_l("订单已发货", "订单发货") == pytest.approx(2 * 4 / 9)
    assert measures.rouge_l("你好", "再见") == 0.0


def test_chrf_equals_sacrebleus() -> None:
    for answer in SENTENCES:
        for reference in SENTENCES[:3]:
            wanted = sentence_chrf(answer, [reference]).score / 100
            assert measures.chrf(answer, reference) == pytest.approx(wanted, abs=1e-9)
    assert measures.chrf("订单已发货", "订单已发货") == pytest.approx(1.0)


def test_repetition_is_the_share_of_repeated_ngrams() -> None:
    assert measures.repetition("one two three four five six") == 0.0
    assert measures.repetition("one two three") == 0.0
    assert measures.repetition("a b c d a b c d") == pytest.approx(1 / 5)
    assert measures.repetition("no " * 50) == pytest.approx(46 / 47)
    assert measures.repetition("退款" * 20) > 0.9


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("I am sorry. " * 8, True),
        ("Thanks for writing. " + "please wait " * 12, True),
        ("好的" * 10, True),
        ("no no no no", False),
        ("please wait " * 12 + "until Monday, and then call us", False),
        ("1. Open the app. 2. Tap the menu. 3. Choose your order. 4. Tap on return and follow the steps.", False),
        ("", False),
    ],
)
def test_a_loop_is_found_at_the_end_of_a_text(text: str, loops: bool) -> None:
    assert measures.ends_in_loop(text) is loops


def test_length_ratio_counts_words() -> None:
    assert measures.length_ratio("one two three", "one two") == 1.5
    assert measures.length_ratio("", "one two") == 0.0
    assert measures.length_ratio("one two", "") == 2.0


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m not able to share this.",
        "I cannot provide other customers' data.",
        "As an AI language model, I can't do this.",
        "That would be against our policies.",
        "抱歉，我无法提供其他客户的信息。",
        "我不能回答这个问题。",
    ],
)
def test_refusals_are_recognized(text: str) -> None:
    assert measures.is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry for the delay! We'll look into it.",
        "You can't return opened items, but we can give you a voucher.",
        "I can help you with that.",
        "您好，您的订单已经发货。",
        "如果您无法登录，请重置密码。",
        "",
    ],
)
def test_other_answers_are_not_refusals(text: str) -> None:
    assert not measures.is_refusal(text)
