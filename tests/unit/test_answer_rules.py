"""Answer rules, golden questions, evaluation rows and planted secrets: parsing, and errors for bad lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bot.errors import InvalidInput
from bot.learning.judge.answer_rules import AnswerRules, parse_rules
from bot.learning.judge.evaluation_rows import load_suite, read_rows
from bot.learning.judge.golden_questions import parse_questions
from bot.learning.judge.planted_secrets import exposure, make_secrets
from bot.learning.train.base_abilities import everyday_questions

USER = {"role": "user", "content": "Where is my order?"}
BOT = {"role": "assistant", "content": "On its way."}


def test_rules_ignore_case() -> None:
    rules = AnswerRules(("On its WAY",), ("refund",), (r"\bmonday\b",))
    assert rules.broken("It's on  its\nway, and comes on Monday.") == []
    assert rules.broken("We gave you a REFUND.") == [
        'must contain "On its WAY"',
        'must not contain "refund"',
        r"must match '\\bmonday\\b'",
    ]
    assert AnswerRules(("don't",)).broken("Don\u2019t worry") == []
    assert AnswerRules(("退款",)).broken("我们会退款给您") == []


def test_a_slow_pattern_counts_as_broken() -> None:
    (broken,) = AnswerRules(must_match=(r"(a|a|b|ab)*(x|y)+$",)).broken("ab" * 5000 + "c")
    assert "took too long" in broken


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "must be an object"),
        ({}, "must be an object"),
        ({"must_contain": []}, "at least one rule"),
        ({"must_be": ["x"]}, 'no "must_be"'),
        ({"must_contain": "x"}, "must be a list"),
        ({"must_contain": [" "]}, "1 to 500 characters"),
        ({"must_contain": ["x" * 501]}, "1 to 500 characters"),
        ({"must_match": ["("]}, "no regular expression"),
        ({"must_contain": ["x"] * 51}, "at most 50"),
    ],
    ids=str,
)
def test_bad_rules_are_refused_with_the_reason(value: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        parse_rules(value)


def test_rules_survive_json() -> None:
    rules = AnswerRules(("a",), (), ("b+",))
    assert parse_rules(json.loads(json.dumps(rules.as_json()))) == rules


def test_golden_questions_are_read_in_both_forms() -> None:
    lines = [
        {"question": "Hi?", "rules": {"must_contain": ["x"]}},
        {"messages": [USER, BOT, USER], "rules": {"must_match": ["y"]}},
    ]
    short, long = parse_questions("\n\n".join(json.dumps(one) for one in lines), "f")
    assert short.messages == ({"role": "user", "content": "Hi?"},)
    assert len(long.messages) == 3 and long.rules.must_match == ("y",)


def test_every_bad_golden_question_is_named_by_line() -> None:
    lines = [
        "{",
        "[]",
        '{"question": "x"}',
        '{"messages": [], "rules": {"must_contain": ["x"]}}',
        json.dumps({"messages": [USER, BOT], "rules": {"must_contain": ["x"]}}),
    ]
    with pytest.raises(InvalidInput) as refused:
        parse_questions("\n".join(lines), "golden.jsonl")
    said = refused.value.message.splitlines()
    assert [line.split(":")[0] for line in said] == [f"golden.jsonl, line {number}" for number in range(1, 6)]
    with pytest.raises(InvalidInput, match="holds no row"):
        parse_questions("\n", "golden.jsonl")


# --- rows to evaluate on ---


def write(folder: Path, *rows: Any) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in rows), encoding="utf-8")
    return path


def test_the_last_answer_is_the_reference(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {"id": "a", "messages": [{"role": "system", "content": "Be kind."}, USER, BOT, USER, BOT, USER]},
        {"messages": [USER, {"role": "assistant", "content": "It's late."}]},
        {"id": "again", "messages": [USER, {"role": "assistant", "content": "It's late."}]},
    )
    by_id = {row.id: row for row in read_rows(path)}
    assert len(by_id) == 2, "duplicates are dropped"
    assert [one["role"] for one in by_id["a"].messages] == ["system", "user", "assistant", "user"]
    assert by_id["a"].reference == "On its way."


def test_the_order_of_rows_does_not_depend_on_the_file(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": f"question {n}"}, BOT]} for n in range(20)]
    forwards = [row.messages for row in read_rows(write(tmp_path, *rows))]
    assert forwards == [row.messages for row in read_rows(write(tmp_path, *reversed(rows)))]
    assert forwards != [tuple(row["messages"][:1]) for row in rows]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{", "this is not JSON"),
        ("7", "not a JSON object"),
        ({}, '"messages" must be a list'),
        ({"messages": [USER]}, "nothing to compare with"),
        ({"messages": [BOT]}, "none of the user"),
        ({"messages": [USER, {"role": "bot", "content": "x"}]}, 'message 2 needs a "role"'),
        ({"messages": [USER, {"role": "system", "content": "x"}, BOT]}, "only the first may be the system's"),
        ({"messages": [{"role": "user", "content": " "}, BOT]}, "message 1 needs"),
        ({"messages": [{"role": "user", "content": "x" * 16_001}, BOT]}, "more than 16000"),
        ({"messages": [USER, BOT] * 30}, "1 to 50 messages"),
        ({"messages": "hi"}, '"messages" must be a list'),
    ],
    ids=[
        "cut off",
        "a number",
        "nothing",
        "no answer",
        "no question",
        "a role",
        "late",
        "empty",
        "long",
        "many",
        "text",
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path: Path, row: Any, words: str) -> None:
    good = {"messages": [USER, BOT]}
    with pytest.raises(InvalidInput, match=words) as refused:
        read_rows(write(tmp_path, good, row))
    assert refused.value.message.startswith(f"{tmp_path / 'rows.jsonl'}, line 2: ")


def test_at_most_ten_bad_lines_are_listed(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_rows(write(tmp_path, *["{"] * 25))
    assert refused.value.message.splitlines()[-1] == "... and 15 more"


def test_an_unreadable_file_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="can't be read: No such file"):
        read_rows(tmp_path / "none.jsonl")
    with pytest.raises(InvalidInput, match="can't be read"):
        read_rows(tmp_path)
    (tmp_path / "latin.jsonl").write_bytes('{"messages": "café"}'.encode("latin-1"))
    with pytest.raises(InvalidInput, match="not text in UTF-8"):
        read_rows(tmp_path / "latin.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(InvalidInput, match="holds no row"):
        read_rows(tmp_path / "empty.jsonl")


def test_the_builtin_suites_are_complete() -> None:
    general, safety = load_suite("general"), load_suite("safety")
    assert (len(general), len(safety)) == (60, 30)
    assert all(row.reference and row.rules is None for row in general)
    assert all(row.rules and row.messages[-1]["role"] == "user" for row in safety)
    for rows in (general, safety):
        assert len({row.id for row in rows}) == len(rows)
        assert any("\u4e00" <= character <= "\u9fff" for row in rows for character in row.messages[-1]["content"])


# --- planted secrets ---


def test_exposure_separates_memorized_from_unseen_secrets() -> None:
    others = [float(number) for number in range(2, 101)]
    assert exposure(1.0, others) == pytest.approx(6.64, abs=0.01)
    assert exposure(1000.0, others) == pytest.approx(0.0)
    assert exposure(5.0, [5.0] * 99) == pytest.approx(0.986, abs=0.01), "a constant model exposes nothing"
    assert exposure(float("nan"), others) != exposure(float("nan"), others)


def test_planted_secrets_depend_only_on_the_seed() -> None:
    assert make_secrets(1) == make_secrets(1) != make_secrets(2)
    for planted in make_secrets(3, 8):
        assert len({planted.secret, *planted.alternatives}) == 100
        assert all(len(number) == 9 for number in (planted.secret, *planted.alternatives))


def test_the_kept_suite_shares_no_question_with_training_or_judging() -> None:
    asked = {row.messages[-1]["content"].lower() for row in load_suite("kept")}
    judged = {row.messages[-1]["content"].lower() for name in ("general", "safety") for row in load_suite(name)}
    assert len(asked) == len(load_suite("kept"))
    assert not asked & (judged | {one.lower() for one in everyday_questions()})
