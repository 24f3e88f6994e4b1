"""README.md says what the code says: its settings, its commands, its file tree, its commands to run.

Knows: the blocks that `python -m tests.tools.readme --write` makes. Does not know: the prose around them.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from bot.settings import describe_settings
from tests.tools import readme
from tests.tools.readme import BLOCKS, README, ROOT, block_in, with_blocks

AGAIN = "run `python -m tests.tools.readme --write`"


@pytest.mark.parametrize("name", BLOCKS)
def test_the_readme_has_a_place_for_each_block(name: str) -> None:
    page = README.read_text(encoding="utf-8")
    assert block_in(page, name) is not None, f"write <!-- {name} --> and <!-- /{name} --> into README.md, then {AGAIN}"


@pytest.mark.parametrize("name", BLOCKS)
def test_the_readme_says_what_the_code_says(name: str) -> None:
    page = README.read_text(encoding="utf-8")
    assert block_in(page, name) == BLOCKS[name](), AGAIN


def test_every_setting_that_the_readme_names_exists() -> None:
    known = {row.name for row in describe_settings()} | {"MYNA_CONFIG"}
    named = set(re.findall(r"\bMYNA_[A-Z_]*[A-Z]\b", README.read_text(encoding="utf-8")))
    assert {name for name in named if not name.startswith("MYNA_TEST_")} <= known


def test_every_make_target_that_the_readme_names_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"`make ([\w-]+)|^make ([\w-]+)", README.read_text(encoding="utf-8"), re.MULTILINE))
    assert {one or other for one, other in named} <= targets


# --- the tool ---


def test_the_settings_table_has_a_row_for_each_setting_and_no_secret_value() -> None:
    rows = readme.render_settings().splitlines()
    assert len(rows) == len(describe_settings()) + 2
    assert "| `MYNA_PORT` | number | `8080` | Port to listen on; 0 picks a free one |" in rows


def test_the_list_of_commands_has_the_leaves_of_the_tree_with_their_options() -> None:
    lines = readme.render_commands().splitlines()
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
    assert "  - `--since DATE` - only those used since, like 2026-11-22" in lines
    assert "  - `[NAME]` - default: MYNA_MODEL" in lines
    assert "  - `--share 10%` - default: 10%; at most 50%" in lines
    assert [line for line in lines if line.endswith("None")] == []


def test_the_tree_lists_every_module_with_the_start_of_its_docstring() -> None:
    tree = readme.render_tree()
    modules = [path for folder in readme.CODE for path in (ROOT / folder).rglob("*.py") if path.name != "__init__.py"]
    for path in modules:
        assert re.search(rf"^ +{re.escape(path.name)} +\S+", tree, re.MULTILINE), path
    assert sum(line.rstrip().split()[0].endswith(".py") for line in tree.splitlines()[1:-1]) == len(modules)
    assert all(len(line) <= readme.MAX_WIDTH for line in tree.splitlines())


def test_the_tree_knows_every_folder_of_the_repository() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    folders = {line.split("/")[0] for line in listed.splitlines() if "/" in line and not line.startswith(".")}
    assert folders <= readme.TOP_LEVEL.keys(), "say in TOP_LEVEL of tests/tools/readme.py what they are"


def test_a_page_gets_its_blocks_and_keeps_its_words() -> None:
    page = "Hello\n" + "\n".join(f"<!-- {name} -->\nold\n<!-- /{name} -->\nwords {name}" for name in BLOCKS) + "\nBye\n"
    written = with_blocks(page)
    assert with_blocks(written) == written
    assert "old" not in written.splitlines()
    for name, render in BLOCKS.items():
        assert block_in(written, name) == render()
        assert f"words {name}\n" in written
    assert written.startswith("Hello\n") and written.endswith("\nBye\n")


@pytest.mark.parametrize(
    "page", ["", "<!-- settings -->", "<!-- /settings --><!-- settings -->", "<!-- settings -->" * 2]
)
def test_a_page_without_a_place_is_not_written(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "README.md"
    file.write_text(page)
    monkeypatch.setattr(readme, "README", file)
    assert readme.main(["--write"]) == 1
    assert file.read_text() == page
