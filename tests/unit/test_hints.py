"""Hints of errors in the words of each channel; no message of the core names a command."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import get_args

import pytest

from adapters.cli import hint_words as hints
from adapters.openai.response_form import error_body
from bot.errors import Hint, KeyRefused, NotFound
from bot.steering import line_words

ROOT = Path(__file__).parent.parent.parent
ALL = set(get_args(Hint))
OF_THE_SHELL = re.compile(r"`myna |(?<![\w-])--[a-z]")
# Errors raised here are words of the shell itself; the gate's are not yet in words of each channel.
MAY_NAME_COMMANDS = ("adapters/cli/", "bot/access/installation.py")


def test_every_channel_has_words_for_every_hint() -> None:
    for language in ("en", "zh"):
        strings = (ROOT / "adapters" / "admin" / "static" / f"strings_{language}.js").read_text(encoding="utf-8")
        words = re.search(r"^  hint: \{$(.*?)^  \},$", strings, re.M | re.S)
        assert words is not None
        assert set(re.findall(r"^    (\w+): '.+',$", words[1], re.M)) == ALL
    assert set(hints.COMMANDS) == ALL
    assert set(line_words.HINTS) == ALL


def test_the_hint_follows_the_message() -> None:
    error = NotFound("There is no job ffff.", hint="list_jobs")
    assert hints.told(error) == "There is no job ffff. `myna jobs` lists them."
    assert line_words.told(error, "en-US") == "There is no job ffff. `/myna status` shows them."
    assert line_words.told(error, "zh-CN") == "There is no job ffff. `/myna status` 可查看全部。"
    assert hints.told(NotFound()) == line_words.told(NotFound(), None) == NotFound().message


def test_api_errors_name_no_shell_command() -> None:
    assert hints.told(KeyRefused()).endswith("`myna key create NAME` creates one.")
    assert error_body(KeyRefused())["error"]["message"] == "This API key is not valid, or was revoked."


def raised(tree: ast.Module) -> list[str]:
    """Return the texts of all errors that a module makes, raised here or kept for a job."""
    kinds = ("NotFound", "InvalidInput", "Conflict", "MynaError", "JobRefused", "RefusedByGate", "TrainingFailed")
    kinds = (*kinds, "TooLarge", "Unavailable", "NotAllowed", "VersionError", "ModelError", "KeyRefused")
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) in kinds]
    return [ast.unparse(argument) for call in calls for argument in call.args]


def paths() -> list[Path]:
    found = [path for folder in ("bot", "storage") for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in found if not path.relative_to(ROOT).as_posix().startswith(MAY_NAME_COMMANDS)]


@pytest.mark.parametrize("path", paths(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_error_of_the_core_names_a_command(path: Path) -> None:
    texts = raised(ast.parse(path.read_text(encoding="utf-8")))
    assert [text for text in texts if OF_THE_SHELL.search(text)] == []


def test_the_search_for_commands_finds_one() -> None:
    texts = raised(
        ast.parse("raise NotFound(f'No {job}. `myna jobs` lists them.')\nraise InvalidInput('Give --file.')")
    )
    assert [bool(OF_THE_SHELL.search(text)) for text in texts] == [True, True]


def test_the_drawn_tree_of_errors_is_the_real_one() -> None:
    import bot.errors as module

    assert module.__doc__ is not None
    lines = module.__doc__.splitlines()
    drawn = []
    above: list[str] = []
    for line in lines[lines.index("MynaError") :]:
        if not line:
            break
        name = line.lstrip("│├└─ \u00a0")
        depth = (len(line) - len(name)) // 4
        above = [*above[:depth], name]
        drawn.append((name, above[depth - 1] if depth else "Exception"))
    classes = [one for one in vars(module).values() if isinstance(one, type) and issubclass(one, Exception)]
    assert sorted(drawn) == sorted((one.__name__, one.__bases__[0].__name__) for one in classes)
