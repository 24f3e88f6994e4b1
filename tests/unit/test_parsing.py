"""Parsing of chat requests: values, or an error that names the field.

`tests/scenarios/test_web_bad_input.py` sends the same and worse over HTTP.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.http.requests import RegenerateRequest, SubmitRequest, clean_text, parse_chat, parse_id
from bot.errors import InvalidInput, TooLarge


def message(*texts: str, **more: Any) -> dict[str, Any]:
    return {"id": "m1", "role": "user", "parts": [{"type": "text", "text": text} for text in texts], **more}


def submit(*texts: str, **more: Any) -> dict[str, Any]:
    return {"id": "c1", "messages": [message(*texts)], **more}


def test_a_new_message() -> None:
    assert parse_chat(submit("hello"), 100) == SubmitRequest("c1", "m1", "hello", None)


def test_the_sdks_own_request_with_its_history() -> None:
    history = [message("old", id="m0"), {"id": "a0", "role": "assistant", "parts": [{"type": "step-start"}]}]
    body = submit("new", trigger="submit-message", messageId=None)
    body["messages"] = history + body["messages"]
    assert parse_chat(body, 100) == SubmitRequest("c1", "m1", "new", None)


def test_an_edit_names_the_message_it_replaces() -> None:
    assert parse_chat(submit("hello", messageId="m0"), 100) == SubmitRequest("c1", "m1", "hello", "m0")


@pytest.mark.parametrize("reply", ["r1", None])
def test_another_answer_needs_no_messages(reply: str | None) -> None:
    body = {"id": "c1", "trigger": "regenerate-message", "messageId": reply}
    assert parse_chat(body, 100) == RegenerateRequest("c1", reply, None)


def test_another_answer_may_come_with_the_message_it_is_for() -> None:
    body = {**submit("hello"), "trigger": "regenerate-message"}
    assert parse_chat(body, 100) == RegenerateRequest("c1", None, SubmitRequest("c1", "m1", "hello", None))


def test_several_parts_are_joined_by_blank_lines() -> None:
    request = parse_chat(submit("one", "two\n", ""), 100)
    assert isinstance(request, SubmitRequest)
    assert request.text == "one\n\ntwo"


def test_the_limit_counts_what_is_stored() -> None:
    parse_chat(submit("  " + "x" * 10 + "\x00\x00 "), 10)
    with pytest.raises(TooLarge) as caught:
        parse_chat(submit("x" * 11), 10)
    assert caught.value.limit == 10


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "id"),
        (submit("x", id="a b"), "id"),
        (submit("x", messageId="<b>"), "messageId"),
        (submit("x", trigger="resume"), "trigger"),
        (submit("x", trigger=None), "trigger"),
        ({"id": "c1"}, "messages"),
        ({"id": "c1", "messages": []}, "messages"),
        ({"id": "c1", "messages": [message("x"), None]}, "messages"),
        ({"id": "c1", "messages": [message("x", role="system")]}, "messages[-1].role"),
        ({"id": "c1", "messages": [message("x", role="assistant")]}, "messages[-1].role"),
        ({"id": "c1", "messages": [message("x", id="")]}, "messages[-1].id"),
        ({"id": "c1", "messages": [message("x", parts="x")]}, "messages[-1].parts"),
        ({"id": "c1", "messages": [message()]}, "messages[-1].parts"),
        ({"id": "c1", "messages": [message(*["x"] * 101)]}, "messages[-1].parts"),
        ({"id": "c1", "messages": [message("x", parts=[{"type": "file", "url": "x"}])]}, "messages[-1].parts"),
        ({"id": "c1", "messages": [message("x", parts=[{"type": "text"}])]}, "messages[-1].parts"),
        (submit(""), "messages[-1].parts"),
        (submit(" \x00\n", "\t"), "messages[-1].parts"),
    ],
)
def test_an_error_names_the_field(body: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_chat(body, 100)
    assert caught.value.field == field


@pytest.mark.parametrize("good", ["a", "A-1_b.c:d", "0" * 128, "..", "01a2017c-f0c1"])
def test_ids_are_letters_digits_and_a_few_signs(good: str) -> None:
    assert parse_id(good, "id") == good


@pytest.mark.parametrize("bad", ["", "0" * 129, "a/b", "a b", "a\n", "é", "\u0660", "a\x00", None, 1, [], {}, b"a"])
def test_anything_else_is_not_an_id(bad: Any) -> None:
    with pytest.raises(InvalidInput):
        parse_id(bad, "id")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
nearly_right = st.fixed_dictionaries(
    {},
    optional={
        "id": st.just("c1") | json_values,
        "trigger": st.sampled_from(["submit-message", "regenerate-message"]) | json_values,
        "messageId": st.just("m0") | json_values,
        "messages": st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "id": st.just("m1") | json_values,
                    "role": st.just("user") | json_values,
                    "parts": st.lists(
                        st.fixed_dictionaries({"type": st.just("text") | json_values, "text": st.text() | json_values})
                        | json_values,
                        max_size=3,
                    )
                    | json_values,
                },
            )
            | json_values,
            max_size=3,
        )
        | json_values,
    },
)


@given(nearly_right)
def test_any_body_is_either_understood_or_refused(body: dict[str, Any]) -> None:
    try:
        request = parse_chat(body, 20)
    except (InvalidInput, TooLarge) as error:
        assert error.message
        return
    assert request.chat_id == "c1" or re.fullmatch(r"[\w.:-]+", request.chat_id, re.ASCII)
    if isinstance(request, SubmitRequest):
        assert 0 < len(request.text) <= 20


@given(st.text() | st.text(alphabet="\x00\x07\x0b\x1b\x7f\x85\xa0\r\n\t ab\ud800\udfff"))
def test_clean_text_can_be_stored_and_stays_the_same(text: str) -> None:
    cleaned = clean_text(text)
    assert cleaned.encode("utf-8").decode() == cleaned
    assert not [sign for sign in cleaned if (ord(sign) < 32 and sign not in "\n\t") or 127 <= ord(sign) < 160]
    assert clean_text(cleaned) == cleaned


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("a\r\nb\rc", "a\nb\nc"),
        ("a\tb", "a\tb"),
        ("\x1b[31mred\x1b[0m", "[31mred[0m"),
        ("\ud83d\ude00", "\ufffd\ufffd"),
        ("  a  ", "a"),
        ("a\u200db", "a\u200db"),
    ],
)
def test_clean_text_keeps_what_can_be_seen(text: str, cleaned: str) -> None:
    assert clean_text(text) == cleaned
