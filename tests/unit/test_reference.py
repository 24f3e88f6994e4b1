"""Hold README.md and docs/ to the code: made pages are up to date, and every name, link and path in them exists."""

from __future__ import annotations

import argparse
import functools
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.cli.main import _parser
from bot.metrics import Metrics
from bot.settings import describe_settings
from tests.tools import reference
from tests.tools.reference import DOCS, FOLDERS, MAP, PAGES, README, ROOT, block_in, folders_of_code, with_map

AGAIN = "run `python -m tests.tools.reference --write`"
MAX_LINES, MAX_WORDS = 260, 3000
# Old paths stand there on purpose.
WITH_OLD_PATHS = {"moved.md"}
WRITTEN = [README, *sorted(path for path in DOCS.rglob("*.md") if path.name not in WITH_OLD_PATHS)]
ALL = pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.relative_to(ROOT).as_posix())
_LINK = re.compile(r"(?<!`)\]\(([^)\s]+)\)|<(?:img|a)\s[^>]*?(?:src|href)=\"([^\"]+)\"")
_SPAN = re.compile(r"`([^`\n]+)`")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_PATH = re.compile(r"(?:bot|adapters|storage|migrations|tests|benchmarks|examples|docs)/[\w./-]*")


@functools.cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


# --- pages that are made ---


def test_the_readme_has_the_map_that_the_folders_give() -> None:
    page = text_of(README)
    assert block_in(page, MAP) is not None, f"write <!-- {MAP} --> and <!-- /{MAP} --> into README.md, then {AGAIN}"
    assert block_in(page, MAP) == reference.render_map(), AGAIN


@pytest.mark.parametrize("name", PAGES)
def test_a_reference_page_says_what_the_code_says(name: str) -> None:
    assert text_of(reference.page_file(name)) == reference.render_page(name), AGAIN


def test_every_folder_has_its_line_in_the_map() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    tops = {line.split("/")[0] for line in listed.splitlines() if "/" in line and not line.startswith(".")}
    missing = {*folders_of_code(), *tops} - FOLDERS.keys()
    assert not missing, "say in FOLDERS of tests/tools/reference.py what they are for"


# --- pages that are written by hand ---


def test_the_readme_stays_short() -> None:
    assert len(text_of(README).splitlines()) <= MAX_LINES
    assert len(text_of(README).split()) <= MAX_WORDS


def test_every_page_opens_with_a_title_and_is_reached_from_the_readme() -> None:
    assert [page for page in WRITTEN if not text_of(page).startswith("# ")] == []
    linked = {(README.parent / target.partition("#")[0]).resolve() for target in links_of(README)}
    assert [page for page in WRITTEN if page != README and page not in linked] == []


@ALL
def test_every_setting_that_a_page_names_exists(page: Path) -> None:
    known = {row.name for row in describe_settings()} | {"MYNA_CONFIG", "MYNA_DATA"}
    assert set(re.findall(r"\bMYNA_[A-Z_]*[A-Z]\b", text_of(page))) <= known


@ALL
def test_every_make_target_that_a_page_names_exists(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = re.findall(r"(?:`|^)make ([\w-]+)", text_of(page), re.MULTILINE)
    assert set(named) <= targets


@ALL
def test_every_command_that_a_page_names_exists(page: Path) -> None:
    assert [line for line in commands_of(text_of(page)) if not is_command(line)] == []


@ALL
def test_every_metric_that_a_page_names_exists(page: Path) -> None:
    rendered = Metrics().render().decode()
    names = set(re.findall(r"`(myna_[a-z_]+[a-z])`", text_of(page)))
    assert {name for name in names if f"# TYPE {name} " not in rendered} == set()


@ALL
def test_every_program_that_a_page_runs_exists(page: Path) -> None:
    modules = set(re.findall(r"python -m ((?:tests|benchmarks|examples)[\w.]*\w)", text_of(page)))
    files = {name: ROOT / name.replace(".", "/") for name in modules}
    assert [name for name, path in files.items() if not (path.with_suffix(".py").is_file() or path.is_dir())] == []


@ALL
def test_every_link_and_picture_of_a_page_exists(page: Path) -> None:
    broken = []
    for target in links_of(page):
        name, _, anchor = target.partition("#")
        file = (page.parent / name) if name else page
        if not file.exists() or (anchor and anchor not in anchors_of(file)):
            broken.append(target)
    assert broken == []


@ALL
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    assert [path for path in paths_of(text_of(page)) if not (ROOT / path).exists()] == []


def test_every_line_of_the_map_is_about_a_folder_that_exists() -> None:
    assert [folder for folder in FOLDERS if not (ROOT / folder).is_dir()] == []


def links_of(page: Path) -> list[str]:
    """List the relative links and pictures of a page, those in code left out."""
    found = _LINK.findall(_FENCE.sub("", text_of(page)))
    targets = [markdown or html for markdown, html in found]
    return [target for target in targets if not target.startswith(("http://", "https://", "mailto:"))]


def anchors_of(page: Path) -> set[str]:
    """Return the names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text_of(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def paths_of(text: str) -> Iterator[str]:
    """Yield the words inside backticks that look like paths of the repository."""
    for span in _SPAN.findall(_FENCE.sub("", text)):
        if not span.startswith("myna kb add docs"):  # somebody else's folder
            yield from (word for word in span.split() if _PATH.fullmatch(word))


def commands_of(text: str) -> Iterator[list[str]]:
    """Yield the words after `myna`, in backticks and at the start of lines of code; Slack's `/myna` is no command."""
    spans = _SPAN.findall(_FENCE.sub("", text))
    lines = [line for block in _FENCE.findall(text) for line in block.splitlines()]
    for code in [*spans, *lines]:
        if found := re.match(r"(?:\w+=\S+ )*(?:\S*\.venv/bin/)?myna ([a-z].*)", code):
            yield found[1].split()


@functools.cache
def whole_parser() -> argparse.ArgumentParser:
    return _parser()


def is_command(words: list[str]) -> bool:
    """Return True if the words lead to a command; a group alone, such as `myna kb`, is one."""
    parser = whole_parser()
    for word in words:
        groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        if not groups or not re.fullmatch(r"[a-z-]+", word):
            break
        if word not in groups[0].choices:
            return False
        parser = groups[0].choices[word]
    options = {option for action in parser._actions for option in action.option_strings}
    return all(word in options for word in words if word.startswith("--"))


# --- the checks themselves ---


def test_the_checks_find_wrong_names(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A page\n\n[x](other.md#part) ![y](y.png) [z](https://z.example)\n\n## Two words, here\n")
    assert links_of(page) == ["other.md#part", "y.png"]
    assert anchors_of(page) == {"a-page", "two-words-here"}
    assert list(paths_of("`bot/chat` and `see tests/unit/x.py`\n```\n`bot/in_code`\n```\n")) == [
        "bot/chat",
        "tests/unit/x.py",
    ]
    assert [
        is_command(words) for words in commands_of("`myna kb add x`, `myna sing`, `/myna help`, `myna kb sing`")
    ] == [True, False, False]
    assert [
        is_command(words) for words in commands_of("```sh\nX=1 .venv/bin/myna train --wait\nmyna train --sing\n```")
    ] == [True, False]


# --- the tool ---


def test_the_settings_table_has_a_row_for_each_setting_and_no_secret_value() -> None:
    rows = reference.render_settings().splitlines()
    assert len(rows) == len(describe_settings()) + 2
    assert any(row.startswith("| `MYNA_PORT` | number | `8080` | ") for row in rows)
    assert next(row for row in rows if "MYNA_SECRET`" in row).startswith("| `MYNA_SECRET` | text |  | ")


def test_the_list_of_commands_has_the_leaves_of_the_tree_with_their_options() -> None:
    lines = reference.render_commands().splitlines()
    commands = [line.split("`")[1] for line in lines if line.startswith("- ")]
    assert {
        "myna serve",
        "myna import",
        "myna jobs pause",
        "myna key create",
        "myna evaluate",
        "myna golden add",
    } <= set(commands)
    assert len(commands) == len(set(commands))
    for usage in ("--since DATE", "[NAME]", "--share 10%"):
        assert any(line.startswith(f"  - `{usage}` - ") for line in lines), usage
    assert [line for line in lines if "%%" in line or line.endswith("None")] == []


def test_the_modules_page_lists_every_module_with_the_start_of_its_docstring() -> None:
    rows = re.findall(r"^\| `(\w+\.py)` \| (.*) \|$", reference.render_modules(), re.MULTILINE)
    files = [path for folder in reference.CODE for path in (ROOT / folder).rglob("*.py")]
    assert sorted(name for name, _ in rows) == sorted(path.name for path in files if path.name != "__init__.py")
    assert [name for name, about in rows if not about.strip()] == []


def test_the_map_shows_each_folder_of_code_once() -> None:
    lines = reference.render_map().splitlines()[1:-1]
    assert len(lines) == len([*folders_of_code(), *reference.other_folders()])
    assert all(len(line) <= 120 for line in lines)


def test_the_readme_gets_its_map_and_keeps_its_words() -> None:
    written = with_map(f"Hello\n<!-- {MAP} -->\nold\n<!-- /{MAP} -->\nBye\n")
    assert with_map(written) == written
    assert written == f"Hello\n<!-- {MAP} -->\n{reference.render_map()}\n<!-- /{MAP} -->\nBye\n"


@pytest.mark.parametrize("page", ["", "<!-- folders -->", "<!-- /folders --><!-- folders -->", "<!-- folders -->" * 2])
def test_a_readme_without_a_place_is_not_written(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "README.md"
    file.write_text(page)
    monkeypatch.setattr(reference, "README", file)
    monkeypatch.setattr(reference, "DOCS", tmp_path / "docs")
    assert reference.main(["--write"]) == 1
    assert file.read_text() == page
    assert not (tmp_path / "docs").exists()


def test_the_tool_writes_stale_pages_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "README.md"
    file.write_text(f"Hello\n<!-- {MAP} -->\n<!-- /{MAP} -->\n")
    monkeypatch.setattr(reference, "README", file)
    monkeypatch.setattr(reference, "DOCS", tmp_path / "docs")
    assert reference.main([]) == 1
    assert reference.main(["--write"]) == 0
    assert reference.main([]) == 0
    assert (tmp_path / "docs" / "reference" / "settings.md").read_text() == reference.render_page("settings")
