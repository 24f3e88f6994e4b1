"""What people give to `myna kb` by hand: questions in a file, words in a shell, text on standard input."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from adapters.cli.article_commands import read_questions
from adapters.cli.main import main
from adapters.cli.terminal import read_stdin
from bot.errors import InvalidInput


def test_questions_hold_any_sign_within_a_line(tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text('{"question": "What is\u2028this?", "gold": "a"}\r\n\n{"question": "b", "gold": ["c/d"]}', "utf-8")
    assert read_questions(file) == [{"question": "What is\u2028this?", "gold": ["a"]}, {"question": "b", "gold": ["d"]}]


@pytest.mark.parametrize("line", ["[" * 100_000, "{", "[]", '{"question": " ", "gold": "a"}', '{"question": "a"}'])
def test_a_bad_line_of_questions_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text('{"question": "a", "gold": "b"}\n' + line, "utf-8")
    with pytest.raises(InvalidInput, match="line 2"):
        read_questions(file)


def test_words_that_are_no_text_are_refused_before_anything_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["kb", "curated", "add", "caf\udce9?", "yes"])
    assert ended.value.code == 2
    assert r"b'caf\xe9?' is not text in UTF-8" in capsys.readouterr().err


def test_standard_input_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\ufeffZurück in 30 Tagen.".encode())))
    assert read_stdin() == "Zurück in 30 Tagen."
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9")))
    with pytest.raises(InvalidInput, match=r"Standard input is not text in UTF-8 \(byte 3\)"):
        read_stdin()
