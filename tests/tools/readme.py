"""The blocks of README.md that are made from the code: settings, commands and the file tree.

Knows: how each block is rendered, and its place between `<!-- name -->` and `<!-- /name -->`. Does not know: the rest
of the page. `python -m tests.tools.readme` prints the blocks, `--write` puts them into README.md, `--check` compares.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from adapters.cli.main import _parser
from bot.settings import describe_settings

ROOT = Path(__file__).parent.parent.parent
README = ROOT / "README.md"
CODE = ("bot", "adapters", "storage")
TOP_LEVEL = {
    "adapters": "chat channels: a protocol to messages and back",
    "bot": "what the agent does",
    "storage": "SQL, and only here",
    "migrations": "the database's revisions, by Alembic",
    "tests": "all tests, their fakes and tools; `make test` runs them",
    "benchmarks": "the numbers of this page, each one command",
    "examples": "things to copy",
    "docs": "the pictures of this page",
}
MAX_WIDTH = 120


def render_settings() -> str:
    """A table with a row for each setting."""
    lines = ["| setting | type | default | meaning |", "| --- | --- | --- | --- |"]
    for row in describe_settings():
        default = f"`{row.default}`" if row.default else ""
        lines.append(f"| `{row.name}` | {row.type} | {escape(default)} | {escape(row.help)} |")
    return "\n".join(lines)


def escape(text: str) -> str:
    return text.replace("|", "\\|")


def render_commands() -> str:
    """A list of commands, each with its help, its arguments below it."""
    return "\n".join(lines_of_commands(_parser()))


def lines_of_commands(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            continue
        about = {choice.dest: choice.help for choice in action._choices_actions}
        for name, command in action.choices.items():
            if any(isinstance(one, argparse._SubParsersAction) for one in command._actions):
                yield from lines_of_commands(command)
                continue
            yield f"- `{command.prog}` - {about[name]}"
            for option in command._actions:
                if not isinstance(option, argparse._HelpAction):
                    meaning = f" - {help_of(option)}" if option.help else ""
                    yield f"  - `{usage_of(option)}`{meaning}"


def help_of(option: argparse.Action) -> str:
    """As argparse prints it, which fills in what stands behind a percent sign."""
    return (option.help or "") % vars(option)


def usage_of(option: argparse.Action) -> str:
    if not option.option_strings:
        return f"[{option.dest.upper()}]" if option.nargs == "?" else option.dest.upper()
    value = "" if option.nargs == 0 else f" {option.metavar or option.dest.upper()}"
    return option.option_strings[-1] + value


def render_tree() -> str:
    """The top-level folders, and every module of ours with the first sentence of its docstring."""
    lines = ["```text"]
    for folder in top_level_folders():
        lines.append(tree_line(0, f"{folder}/", TOP_LEVEL[folder]))
        if folder in CODE:
            lines.extend(lines_of_folder(ROOT / folder, 1))
    return "\n".join([*lines, "```"])


def top_level_folders() -> list[str]:
    """The folders that have something in them, in the order of the table."""
    return [name for name in TOP_LEVEL if any(path.is_file() for path in (ROOT / name).rglob("*"))]


def lines_of_folder(folder: Path, depth: int) -> Iterator[str]:
    """Modules first, then the folders below, each in the order of the alphabet."""
    for path in sorted(folder.glob("*.py")):
        if path.name != "__init__.py":
            yield tree_line(depth, path.name, first_sentence(path))
    for below in sorted(path for path in folder.iterdir() if any(path.glob("*.py"))):
        yield tree_line(depth, f"{below.name}/", "")
        yield from lines_of_folder(below, depth + 1)


def first_sentence(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    sentence = re.match(r".*?\.(?=\s|$)", paragraph)
    return (sentence[0] if sentence else paragraph).rstrip(".")


def tree_line(depth: int, name: str, about: str) -> str:
    start = f"{'  ' * depth}{name}"
    line = f"{start:<22} {about}".rstrip()
    return line if len(line) <= MAX_WIDTH else f"{line[: MAX_WIDTH - 1].rsplit(' ', 1)[0]} …"


BLOCKS: dict[str, Callable[[], str]] = {"settings": render_settings, "commands": render_commands, "tree": render_tree}


def block_in(page: str, name: str) -> str | None:
    """What stands between a block's marks; None if they are not there exactly once, in their order."""
    opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
    if page.count(opening) != 1 or page.count(closing) != 1:
        return None
    _, _, rest = page.partition(opening)
    content, found, _ = rest.partition(closing)
    return content.strip("\n") if found else None


def with_blocks(page: str) -> str:
    """The page with every block made anew. Raises `LookupError` where a block has no place."""
    for name, render in BLOCKS.items():
        if block_in(page, name) is None:
            raise LookupError(f"README.md has no place for {name}: write <!-- {name} --> and <!-- /{name} --> on lines")
        before, opening, rest = page.partition(f"<!-- {name} -->")
        _, closing, after = rest.partition(f"<!-- /{name} -->")
        page = f"{before}{opening}\n{render()}\n{closing}{after}"
    return page


def main(arguments: list[str]) -> int:
    if not arguments:
        print("\n\n".join(f"<!-- {name} -->\n{render()}\n<!-- /{name} -->" for name, render in BLOCKS.items()))
        return 0
    page = README.read_text(encoding="utf-8")
    try:
        wanted = with_blocks(page)
    except LookupError as error:
        print(error.args[0], file=sys.stderr)
        return 1
    if arguments == ["--write"]:
        README.write_text(wanted, encoding="utf-8")
        return 0
    if arguments == ["--check"]:
        return int(page != wanted)
    print("use: python -m tests.tools.readme [--write | --check]", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
