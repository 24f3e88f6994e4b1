"""Splitting of long replies, and rate limits of Slack's methods."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.slack import message_splitting
from adapters.slack.limits import RateLimits

LINES = st.sampled_from(["```python", "```", "~~~", "words and words", "", "x" * 900, "    code", "`inline`", "``` no"])
TEXTS = st.lists(LINES, max_size=120).map("\n".join)


@given(text=TEXTS)
def test_pieces_are_short_and_hold_every_line(text: str) -> None:
    pieces = message_splitting.split(text)
    assert all(len(piece) <= message_splitting.MAX_CHARS + 40 for piece in pieces)
    cuts = [0]
    while (cut := message_splitting.next_cut(text, cuts[-1])) is not None:
        cuts.append(cut)
    bare = [text[start:end] for start, end in zip(cuts, [*cuts[1:], len(text)], strict=True)]
    assert "".join(bare) == text
    assert all(part in piece for part, piece in zip(bare, pieces, strict=True))


@given(text=TEXTS, length=st.integers(0, 40_000))
def test_a_cut_stays_as_the_text_grows(text: str, length: int) -> None:
    """A growing reply never withdraws text that was shown."""
    shorter = text[:length]
    cut = message_splitting.next_cut(shorter, 0)
    if cut is not None:
        assert message_splitting.next_cut(text, 0) == cut
    elif (later := message_splitting.next_cut(text, 0)) is not None:
        assert later >= len(shorter)


@given(text=TEXTS)
def test_only_the_last_piece_may_leave_a_code_block_open(text: str) -> None:
    for piece in message_splitting.split(text)[:-1]:
        assert message_splitting.open_fence(piece) == ""


@pytest.mark.parametrize(
    ("text", "fence"),
    [
        ("", ""),
        ("```", "```"),
        ("```python\nx", "```python"),
        ("```\nx\n```", ""),
        ("````\n```\nx", "````"),
        ("~~~\n```\nx", "~~~"),
        ("``` a`b", ""),
        ("    ```", ""),
        ("```\n``` not an end", "```"),
        ("text ``` in a line", ""),
    ],
)
def test_fences_are_those_of_commonmark(text: str, fence: str) -> None:
    assert message_splitting.open_fence(text) == fence


def test_cuts_prefer_paragraphs_to_lines_to_words() -> None:
    assert len(message_splitting.split("word " * 1_700 + "\n\nnext")) == 1
    paragraphs = ("a" * 9_100 + "\n\n") + "b" * 3_000
    assert message_splitting.next_cut(paragraphs, 0) == 9_102
    lines = "a" * 10_100 + "\n" + "b" * 3_000
    assert message_splitting.next_cut(lines, 0) == 10_101
    assert message_splitting.next_cut("c" * 20_000, 0) == message_splitting.MAX_CHARS
    assert re.fullmatch(r"(word )+", message_splitting.split("word " * 3_000)[0])


def test_a_message_that_must_end_soon_ends_at_a_line() -> None:
    assert message_splitting.cut_soon("one\ntwo\nthree", 0, 5) == 8
    assert message_splitting.cut_soon("one two three", 0, 5) is None
    assert message_splitting.cut_soon("one\n\ntwo\n\nthree\n", 0, 2) == 5


def test_calls_are_counted_by_method_and_channel() -> None:
    limits = RateLimits()
    taken = [limits.take("chat_startStream", "C1") for _ in range(25)]
    assert taken[:20] == [0.0] * 20
    assert all(seconds > 0 for seconds in taken[20:])
    assert limits.take("chat_appendStream", "C1") == 0.0
    posts = [limits.take("chat_postMessage", "C1") for _ in range(6)]
    assert posts[:5] == [0.0] * 5
    assert posts[5] > 0
    assert limits.take("chat_postMessage", "C2") == 0.0, "another channel has its own"


def test_retry_after_overrides_our_own_count() -> None:
    limits = RateLimits()
    limits.close("chat_postMessage", "C1", 30.0)
    assert 29.0 < limits.take("chat_postMessage", "C1") <= 30.0
    assert limits.take("chat_postMessage", "C2") == 0.0


def test_quiet_channels_are_dropped() -> None:
    limits = RateLimits()
    for number in range(5_000):
        limits.take("chat_postMessage", f"C{number}")
        for bucket in limits._buckets.values():
            bucket.filled_at -= 60.0
    assert len(limits._buckets) <= 1_001
