"""Forms of an imported file, and the problems reported for invalid lines."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.errors import InvalidInput
from bot.learning.data import importing
from bot.learning.data.conversation_form import WrongRow, read_row
from bot.learning.data.importing import MAX_LINE_BYTES, CheckedFile, check_file
from storage.imports import ImportedConversation
from storage.votes import Vote

USER = {"role": "user", "content": "Where is it?"}
ANSWER = {"role": "assistant", "content": "On its way."}
GOOD = {"id": "a", "messages": [USER, ANSWER]}


def jsonl(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def check(data: bytes, **options: Any) -> CheckedFile:
    return check_file(io.BytesIO(data), **options)


def good(data: bytes) -> list[ImportedConversation]:
    checked = check(data)
    assert not checked.problems, [str(one) for one in checked.problems]
    return list(checked.good)


def problems(data: bytes) -> list[str]:
    return [str(one) for one in check(data).problems]


# --- a conversation a line ---


def test_all_fields_of_the_form_are_read() -> None:
    row = {
        "id": 7,
        "group": "g",
        "person": "ada",
        "title": "Parcel",
        "may_learn": False,
        "licence": "x",
        "intent": None,
        "messages": [
            {"role": "system", "content": "Be kind."},
            USER,
            {**ANSWER, "draft": "No idea.", "weight": 1},
            USER,
            {**ANSWER, "rating": -1, "reason": "short", "better": "Tomorrow."},
        ],
    }
    (one,) = good(jsonl(row))
    assert (one.key, one.group, one.person, one.title, one.may_learn) == ("7", "g", "ada", "Parcel", False)
    assert one.instructions == "Be kind."
    assert [each.author for each in one.messages] == ["person", "agent", "person", "bot"]
    assert one.messages[1].draft == "No idea."
    assert one.messages[3].vote == Vote(-1, "short", "Tomorrow.")


def test_a_better_answer_alone_is_a_vote_against() -> None:
    (one,) = good(jsonl({"messages": [USER, {**ANSWER, "better": "Tomorrow."}]}))
    assert one.messages[1].vote == Vote(-1, None, "Tomorrow.")


def test_null_values_count_as_missing() -> None:
    empty = dict.fromkeys(("draft", "rating", "reason", "better", "author", "state"))
    rows = [{"id": None, "group": None, "title": None, "may_learn": None, "messages": [USER, {**ANSWER, **empty}]}]
    assert good(jsonl(*rows))[0].messages == good(jsonl({"messages": [USER, ANSWER]}))[0].messages


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"conversations": []}, 'has no "messages"; its keys: conversations'),
        ({}, 'has no "messages"; its keys: none'),
        ({"messages": []}, "the list is empty"),
        ({"messages": "hi"}, "messages is text, not a list"),
        ({"messages": ["hi"]}, "message 1 is text, not an object"),
        ({"messages": [USER]}, 'must end with a message from "assistant"'),
        ({"messages": [ANSWER]}, 'message 1 is from "assistant" where "user" must follow'),
        ({"messages": [{"role": "system", "content": "x"}]}, "must end with"),
        ({"messages": [USER, USER, ANSWER]}, 'message 2 is from "user" where "assistant"'),
        ({"messages": [USER, ANSWER, {"role": "system", "content": "x"}]}, "message 3: only the first message may be"),
        ({"messages": [USER, {"role": "tool", "content": "x"}]}, 'message 2: role is "tool", not system, user or'),
        ({"messages": [{"content": "x"}]}, "message 1: role is missing"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "message 1: role is"),
        ({"messages": [{"role": "user"}]}, "message 1: content is missing, not text"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "message 1: content is a list, not text"),
        ({"messages": [USER, {**ANSWER, "content": " \n"}]}, "message 2: content is empty"),
        ({"messages": [USER, {**ANSWER, "rating": 5}]}, "message 2: rating is 5, not 1 or -1"),
        ({"messages": [USER, {**ANSWER, "rating": True}]}, "message 2: rating is true"),
        ({"messages": [USER, {**ANSWER, "rating": [1]}]}, "message 2: rating is [1]"),
        ({"messages": [USER, {**ANSWER, "reason": "bad"}]}, "message 2: a reason needs a rating"),
        ({"messages": [USER, {**ANSWER, "rating": 1, "draft": "x"}]}, "message 2: a draft belongs to a human's"),
        ({"messages": [USER, {**ANSWER, "rating": 1, "author": "agent"}]}, "of the bot's replies"),
        ({"messages": [USER, {**ANSWER, "author": "Bob"}]}, 'author is "Bob", not one of agent, bot'),
        ({"messages": [USER, {**ANSWER, "author": ["bot"]}]}, "author is"),
        ({"messages": [USER, {**ANSWER, "state": "lost"}]}, 'state is "lost", not one of answered'),
        ({"messages": [USER, {**ANSWER, "draft": 3}]}, "message 2: draft is a number, not text"),
        ({"messages": [{**USER, "rating": 1}, ANSWER]}, "message 1: rating belongs to a message from assistant"),
        ({**GOOD, "id": ["a"]}, "id is a list, not text"),
        ({**GOOD, "id": True}, "id is true or false, not text"),
        ({**GOOD, "person": "p" * 501}, "person is longer than 500 characters"),
        ({**GOOD, "may_learn": "no"}, 'may_learn is "no", not true or false'),
        ({**GOOD, "title": 4}, "title is a number, not text"),
    ],
)
def test_an_invalid_row_is_named_with_its_reason(row: Any, words: str) -> None:
    (problem,) = problems(jsonl(row))
    assert problem.startswith("line 1")
    assert words in problem


def test_problems_have_lines_and_only_the_first_are_kept() -> None:
    data = b"\n" + jsonl(GOOD) + b"{broken\n" + b"\r\n" + jsonl({"messages": [USER]}) * 30
    checked = check(data)
    assert (len(checked.good), checked.wrong, len(checked.problems)) == (1, 31, 20)
    assert [one.line for one in checked.problems] == [3, *range(5, 24)]
    assert str(checked.problems[0]).startswith("line 3 is not JSON: Expecting property name")


def test_other_json_is_no_row() -> None:
    assert problems(jsonl(GOOD, [1], "x", None)) == [f"line {line} is not a JSON object" for line in (2, 3, 4)]


def test_characters_that_no_database_stores_are_replaced() -> None:
    data = b'{"id": "\\ud800", "messages": [{"role": "user", "content": "a\\u0000b"}, '
    data += b'{"role": "assistant", "content": "x\\udfff", "draft": "\\u0000"}]}'
    (one,) = good(data)
    assert (one.key, one.messages[0].text, one.messages[1].text, one.messages[1].draft) == (
        "\ufffd",
        "a\ufffdb",
        "x\ufffd",
        "\ufffd",
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"messages": "\xe9"}', "is not UTF-8 (byte 0xE9 in place 15)"),
        (b"[" * 100_000, "is one JSON list"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a": ' + b"1" * 5_000 + b"}", "a number is too long"),
        (b'{"messages": "' + b"x" * (2 * MAX_LINE_BYTES + 7) + b'"}', "is longer than 1 MB"),
    ],
    ids=["latin-1", "lists", "nested", "number", "long"],
)
def test_an_invalid_line_affects_no_other_line(line: bytes, words: str) -> None:
    if words == "is one JSON list":
        with pytest.raises(InvalidInput, match=words):
            check(line)
        return
    checked = check(line + b"\n" + jsonl(GOOD))
    assert words in str(checked.problems[0])
    assert [one.key for one in checked.good] == ["a"]


def test_a_repeated_row_counts_once_unless_it_differs() -> None:
    other = {**GOOD, "messages": [USER, {**ANSWER, "content": "No."}]}
    checked = check(jsonl(GOOD, GOOD, other))
    assert (len(checked.good), checked.repeated, checked.wrong) == (1, 1, 1)
    assert "line 3 has the id of line 1, and other words" in str(checked.problems[0])


def test_a_row_without_id_is_known_by_its_content() -> None:
    plain = {"messages": [USER, ANSWER]}
    others = [
        {**plain, "person": "ada"},
        {**plain, "group": "g"},
        {**plain, "may_learn": False},
        {"messages": [{"role": "system", "content": "x"}, USER, ANSWER]},
        {"messages": [USER, {**ANSWER, "draft": "x"}]},
        {"messages": [USER, {**ANSWER, "rating": 1}]},
    ]
    keys = {read_row(row).key for row in [plain, {**plain, "licence": "x"}, *others]}
    assert len(keys) == 1 + len(others)
    assert all(key.startswith("sha256:") for key in keys)


# --- CSV ---


def table(*rows: list[str]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def test_questions_and_answers_are_read_from_csv() -> None:
    rows = [["Answer", "question", "id", "note", "person"], ["It is,\nhere", 'Wh"ere?', "7", "x", ""]]
    (one,) = good(b"\xef\xbb\xbf" + table(*rows))
    assert [each.text for each in one.messages] == ['Wh"ere?', "It is,\nhere"]
    assert (one.key, one.person) == ("7", None)


def test_turns_of_a_conversation_are_read_from_csv() -> None:
    rows = [
        ["conversation", "role", "content"],
        ["1", "System", "Be kind."],
        ["1", "user", "Hi"],
        ["1", "assistant", "Ho"],
        [],
        ["2", "user", "Hi"],
        ["2", "assistant", "Hello"],
    ]
    first, second = good(table(*rows))
    assert (first.key, first.instructions, len(first.messages)) == ("1", "Be kind.", 2)
    assert second.key == "2"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "The file is empty"),
        (b"\xef\xbb\xbf", "The file is empty"),
        (b"\n  \n", "The file is empty"),
        (b"PK\x03\x04\x00\x00", "not a text file"),
        ("question,answer\n".encode("utf-16"), "is in UTF-16"),
        (b"hello\n", "The first line is 'hello'. The file should be a JSON object a line"),
        (b"question;answer\na;b\n", "question,answer[,id,group,person] or conversation,role,content"),
        (b"question,answer,answer\n", "names a column twice"),
        (b"question,antw\xf6rt\n", "is not UTF-8"),
        (b'question,answer\nq,a\nq,"a\nb', "Line 3 opens a quote that is never closed"),
        (b"question,answer\n" + b"q" * (MAX_LINE_BYTES + 5), "Line 2 is longer than 1 MB"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value[:20],
)
def test_an_unreadable_file_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check(data)
    assert words in refused.value.message


def test_invalid_csv_rows_have_their_first_lines() -> None:
    data = b'question,answer\n"a\nb",x\nonly\na,b,c\nq\xe9,a\n,a\nq,a\n'
    assert problems(data) == [
        "line 4 has 1 columns where the header has 2",
        "line 5 has 3 columns where the header has 2; text with commas needs quotes",
        "line 6 is not UTF-8 (byte 0xE9 in place 2)",
        "line 7: message 1: content is empty",
    ]


def test_an_invalid_turn_spoils_its_neighbours() -> None:
    rows = b"1,user,a\n1,assistant,b\nwrong\n2,user,a\n2,assistant,b\n3,user,a\n3,assistant,b\n,user,x\n"
    checked = check(b"conversation,role,content\n" + rows)
    assert [one.line for one in checked.problems] == [4, 2, 5, 9, 7]
    assert len(checked.good) == 0
    checked = check(b"conversation,role,content\n" + rows + b"4,user,a\n4,assistant,b\n5,user,a\n5,assistant,b\n")
    assert [one.key for one in checked.good] == ["5"]


def test_turns_of_a_conversation_must_be_adjacent() -> None:
    data = b"conversation,role,content\n1,user,a\n1,assistant,b\n2,user,a\n2,assistant,b\n1,user,c\n1,assistant,d\n"
    assert problems(data) == ["line 6 has the id of line 2, and other words; rows of one conversation stand together"]


# --- whatever comes ---


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for start in (b"", b'{"messages": ', b"question,answer\n", b"conversation,role,content\n"):
        try:
            checked = check(start + data)
        except InvalidInput:
            continue
        assert checked.wrong >= len(checked.problems)
        assert len(list(checked.good)) == len(checked.good)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
keys = st.sampled_from(["role", "content", "rating", "draft", "better", "reason", "author", "state"])
rows = st.fixed_dictionaries(
    {"messages": st.lists(json_values | st.dictionaries(keys, json_values | st.just("user"), max_size=4), max_size=3)},
    optional=dict.fromkeys(("id", "group", "person", "title", "may_learn"), json_values),
)


@given(rows)
def test_any_row_is_read_or_refused_with_a_reason(row: dict[str, Any]) -> None:
    try:
        read_row(row)
    except WrongRow as wrong:
        assert str(wrong)


def test_progress_and_hash_cover_every_byte() -> None:
    import hashlib

    data, steps = jsonl(GOOD) + b"x" * (MAX_LINE_BYTES + 9), list[int]()
    checked = check(data, advance=steps.append)
    assert sum(steps) == len(data)
    assert checked.sha256 == hashlib.sha256(data).hexdigest()


def test_checked_conversations_can_be_read_again() -> None:
    row = {**GOOD, "messages": [USER, {**ANSWER, "rating": 1, "reason": "ß"}, USER, {**ANSWER, "draft": "y"}]}
    checked = check(jsonl(row))
    assert list(checked.good) == list(checked.good) == [read_row(row)]
    assert checked.messages == 4
    assert importing.MAX_PROBLEMS_SHOWN == 20
