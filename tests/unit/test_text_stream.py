"""Streaming detokenizer, held to the text decoded at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders

from bot.generation.engine.text_stream import KEPT_TOKENS, Detokenizer, StopFilter, TextStream

# Every single byte, then pieces that begin or end in the middle of a character.
VOCABULARY = [bytes([byte]) for byte in range(256)]
VOCABULARY += [b"the", b" end", "é".encode(), "é!".encode()[1:], "a😀".encode()[:3], "😀b".encode()[2:], b"\xf0\x9f"]
SPACED = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
)

any_tokens = st.lists(st.integers(0, len(VOCABULARY) - 1), max_size=120)
stop_strings = st.lists(st.text("ab", min_size=1, max_size=4), max_size=3)


def decode(token_ids: Sequence[int]) -> str:
    return b"".join(VOCABULARY[token_id] for token_id in token_ids).decode("utf-8", errors="replace")


def pieces_of(stream: TextStream | Detokenizer, token_ids: Sequence[int]) -> list[str]:
    return [stream.push(token_id) for token_id in token_ids] + [stream.flush()]


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """Cut a text at the first complete stop string, character by character: the reference for `StopFilter`."""
    for end in range(1, len(text) + 1):
        starts = [end - len(string) for string in stop if text[:end].endswith(string)]
        if starts:
            return text[: min(starts)]
    return text


@given(any_tokens)
def test_pieces_join_to_the_text_decoded_at_once(token_ids: list[int]) -> None:
    assert "".join(pieces_of(TextStream(decode), token_ids)) == decode(token_ids)


@given(st.text(max_size=60), st.data())
def test_no_piece_ends_inside_a_character(text: str, data: st.DataObject) -> None:
    text = text.encode("utf-8", errors="ignore").decode().replace("\ufffd", "")
    raw = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(raw)), max_size=20)) | {0, len(raw)})
    chunks = [raw[start:end] for start, end in pairwise(cuts)]
    stream = TextStream(lambda ids: b"".join(chunks[index] for index in ids).decode("utf-8", errors="replace"))
    pieces = pieces_of(stream, range(len(chunks)))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


@given(st.text("abc", max_size=40), stop_strings, st.lists(st.integers(1, 5), min_size=1, max_size=40))
def test_the_cut_does_not_depend_on_piece_boundaries(text: str, stop: list[str], lengths: list[int]) -> None:
    stops, rest, out = StopFilter(stop), text, ""
    while rest:
        length = lengths[len(rest) % len(lengths)]
        out += stops.push(rest[:length])
        rest = rest[length:]
    out += stops.flush()
    assert out == cut_at_stop(text, stop)
    assert stops.stopped == any(string in text for string in stop)


@given(st.text("abc", max_size=40), stop_strings)
def test_released_text_is_never_part_of_a_stop_string(text: str, stop: list[str]) -> None:
    stops, released = StopFilter(stop), ""
    for character in text:
        released += stops.push(character)
        assert cut_at_stop(text, stop).startswith(released)


def test_text_is_held_only_while_it_may_become_a_stop_string() -> None:
    stream = StopFilter(["END"])
    assert [stream.push(piece) for piece in ("a", "E", "N", "!", "E", "ND", "x")] == ["a", "", "", "EN!", "", "", ""]
    assert stream.stopped


def test_an_unfinished_stop_string_is_released_at_the_end() -> None:
    stream = StopFilter(["END"])
    assert stream.push("the EN") + stream.flush() == "the EN"
    assert not stream.stopped


def test_of_stop_strings_with_the_same_end_the_longer_cuts() -> None:
    assert StopFilter(["b", "ab"]).push("xab") == "x"


def test_a_stop_string_may_span_tokens_and_characters() -> None:
    stream = TextStream(decode, stop=["é!"])
    assert "".join(pieces_of(stream, [b"x"[0], 0xC3, 0xA9, ord("!"), ord("y")])) == "x"
    assert stream.stopped


@pytest.mark.parametrize(
    "token_ids",
    [
        [ord("a")] * 3000,
        [0x80] * 3000,
        [0xF0, 0x9F, 0x98, 0x80] * 700,
        [0xF0, 0x9F, 0x98] * 900,
        [0xEF, 0xBF, 0xBD] * 900,
    ],
)
def test_the_work_per_token_does_not_grow(token_ids: list[int]) -> None:
    most = 0

    def counting(ids: Sequence[int]) -> str:
        nonlocal most
        most = max(most, len(ids))
        return decode(ids)

    assert "".join(pieces_of(TextStream(counting), token_ids)) == decode(token_ids)
    assert most <= 2 * KEPT_TOKENS


def test_only_the_first_space_is_stripped() -> None:
    words = ["▁one", "▁two", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "▁", "▁three"] * 20
    detokenizer = Detokenizer(lambda ids: SPACED.decode([words[index] for index in ids]))
    assert "".join(pieces_of(detokenizer, range(len(words)))) == SPACED.decode(words)


def test_silent_tokens_have_no_text_and_no_effect() -> None:
    stream = TextStream(decode, silent_ids=frozenset({0}))
    assert pieces_of(stream, [0xC3, 0, 0xA9, *[0] * 40, ord("a")]) == ["", "", "é", *[""] * 40, "a", ""]
