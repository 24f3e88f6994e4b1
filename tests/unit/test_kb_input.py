"""Input of `myna kb`: question files, shell arguments, standard input."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from adapters.cli.article_commands import read_questions
from adapters.cli.main import main
from adapters.cli.terminal import read_stdin
from bot.errors import InvalidInput


def test_question_files_split_only_at_newlines(tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text('{"question": "What is\u2028this?", "gold": "a"}\r\n\n{"question": "b", "gold": ["c/d"]}', "utf-8")
    assert read_questions(file) == [{"question": "What is\u2028this?", "gold": ["a"]}, {"question": "b", "gold": ["d"]}]


@pytest.mark.parametrize("line", ["[" * 100_000, "{", "[]", '{"question": " ", "gold": "a"}', '{"question": "a"}'])
def test_a_bad_question_line_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text('{"question": "a", "gold": "b"}\n' + line, "utf-8")
    with pytest.raises(InvalidInput, match="line 2"):
        read_questions(file)


def test_arguments_that_are_not_utf8_are_refused_first(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["kb", "curated", "add", "caf\udce9?", "yes"])
    assert ended.value.code == 2
    assert r"b'caf\xe9?' is not text in UTF-8" in capsys.readouterr().err


def test_standard_input_must_be_utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\ufeffZurück in 30 Tagen.".encode())))
    assert read_stdin() == "Zurück in 30 Tagen."
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9")))
    with pytest.raises(InvalidInput, match=r"Standard input is not text in UTF-8 \(byte 3\)"):
        read_stdin()
