"""Write the generated documentation: the reference pages and README's map of folders.

`python -m tests.tools.reference` names the pages that are out of date, and `--write` writes them. Everything else on
the pages is written by hand; `tests/unit/test_reference.py` checks the names, links and paths in it.
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
DOCS = ROOT / "docs"
CODE = ("bot", "adapters", "storage", "migrations")
MAP = "folders"
MADE = "<!-- Made by `python -m tests.tools.reference --write`; a test compares it with the code. -->"

# A line for each folder, in the order of the map. A folder of code without a line fails the test, and so does a line
# without a folder.
FOLDERS = {
    "bot": "the agent itself: no channel's protocol, no SQL; beside the rooms: settings, errors, metrics",
    "bot/words": "Myna's own texts, in English and Simplified Chinese",
    "bot/chat": "the path of a message: accept, claim, reply, complete; history, delivery, feedback",
    "bot/completions": "the model for programs: completions without memory, forced tool calls, API keys and quotas",
    "bot/generation": "the port that every model implements, and its client for remote servers",
    "bot/generation/models": "model folders: download, checks, storage",
    "bot/generation/engine": "the model in this process: scheduler, forward pass, sampling, prefix cache, LoRA",
    "bot/knowledge": "articles as people handle them, grounding, the fact check, curated answers, gaps",
    "bot/knowledge/reading": "parsers from files and pages to passages, and the sync job",
    "bot/knowledge/search": "retrieval of passages for a question: words, vectors, ranking",
    "bot/knowledge/intents": "the intent classifier, its training and its file format",
    "bot/access": "roles, accounts, login throttle, encryption keys, the lock on an installation",
    "bot/privacy": "consent to learning",
    "bot/privacy/erasure": "erasure of a person: rows, files, and the versions trained on them",
    "bot/privacy/redaction": "replacement of personal data with placeholders such as [EMAIL_1]",
    "bot/jobs": "long jobs in a worker process: queue, lease, pause, resume",
    "bot/learning": "the loop from feedback to a better version, in four steps",
    "bot/learning/data": "training data: candidates, datasets, import, export, reviews",
    "bot/learning/train": "training: losses, network, trainer, checkpoints, checks",
    "bot/learning/judge": "evaluation, golden questions, blind comparison, the gate",
    "bot/learning/release": "the answering version: promotion, canary, rollback, loading",
    "bot/steering": "commands such as `promote bot-v3`, the same on every channel",
    "adapters": "channels: each translates a protocol to calls of `bot`, and back",
    "adapters/http": "the HTTP server, and helpers of all HTTP channels: errors, origins, event streams",
    "adapters/web": "the chat page, the widget and their API",
    "adapters/openai": "the model and conversations in OpenAI's form, at `/v1`",
    "adapters/slack": "Slack: events in, streamed replies out, installation, doctor",
    "adapters/admin": "the admin page and its API",
    "adapters/cli": "the `myna` command, the terminal chat, and the wiring of all parts",
    "storage": "SQL, and only here: tables, transactions, one module for each group of rows",
    "migrations": "the database's revisions, by Alembic",
    "migrations/versions": "one file for each revision",
    "tests": "all tests, their fakes and tools",
    "benchmarks": "the measured figures, a command for each, and the log of attempts",
    "examples": "a fake Slack to try by hand, articles to try answers with",
    "docs": "these pages and their pictures",
}


def render_settings() -> str:
    """Render a table with a row for each setting."""
    lines = ["| setting | type | default | meaning |", "| --- | --- | --- | --- |"]
    for row in describe_settings():
        default = f"`{row.default}`" if row.default else ""
        lines.append(f"| `{row.name}` | {row.type} | {escape(default)} | {escape(row.help)} |")
    return "\n".join(lines)


def escape(text: str) -> str:
    return text.replace("|", "\\|")


def render_commands() -> str:
    """Render a list of commands, each with its help, its arguments below it."""
    return "\n".join(lines_of_commands(_parser()))


def lines_of_commands(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            continue
        about = {choice.dest: choice.help for choice in action._choices_actions}
        for name, command in action.choices.items():
            if any(isinstance(option, argparse._SubParsersAction) for option in command._actions):
                yield from lines_of_commands(command)
                continue
            yield f"- `{command.prog}` - {about[name]}"
            for option in command._actions:
                if not isinstance(option, argparse._HelpAction):
                    meaning = f" - {help_of(option)}" if option.help else ""
                    yield f"  - `{usage_of(option)}`{meaning}"


def help_of(option: argparse.Action) -> str:
    """Return the help as argparse prints it, with percent formats filled in."""
    return (option.help or "") % vars(option)


def usage_of(option: argparse.Action) -> str:
    if not option.option_strings:
        return f"[{option.dest.upper()}]" if option.nargs == "?" else option.dest.upper()
    value = "" if option.nargs == 0 else f" {option.metavar or option.dest.upper()}"
    return option.option_strings[-1] + value


def render_modules() -> str:
    """Render each folder of code with its modules and the first sentence of each module's docstring."""
    parts = []
    for folder in folders_of_code():
        about = FOLDERS.get(folder, "")
        parts.append(f"## {folder}\n\n{about[:1].upper()}{about[1:]}.\n")
        modules = modules_of(ROOT / folder)
        if modules:
            rows = [f"| `{path.name}` | {escape(first_sentence(path))} |" for path in modules]
            parts.append("\n".join(["| module | what it does |", "| --- | --- |", *rows, ""]))
    return "\n".join(parts).rstrip()


def render_map() -> str:
    """Render the folders in the order of the table, those of code indented by depth, with a line for each."""
    shown = [*folders_of_code(), *other_folders()]
    order = [folder for folder in FOLDERS if folder in shown]
    width = max(len(tree_name(folder)) for folder in order) + 2
    return "\n".join(["```text", *(f"{tree_name(folder):<{width}}{FOLDERS[folder]}" for folder in order), "```"])


def tree_name(folder: str) -> str:
    depth = folder.count("/")
    return f"{'  ' * depth}{folder.rpartition('/')[2]}/"


def folders_of_code() -> list[str]:
    """List the folders that hold modules, or folders that do, in the order of the alphabet below each top folder."""
    found = []
    for top in CODE:
        below = sorted(path for path in (ROOT / top).rglob("*") if path.is_dir() and any(path.rglob("*.py")))
        found += [path.relative_to(ROOT).as_posix() for path in [ROOT / top, *below]]
    return found


def other_folders() -> list[str]:
    """List the top folders that hold no code of the agent."""
    return [name for name in FOLDERS if "/" not in name and name not in CODE and (ROOT / name).is_dir()]


def modules_of(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]


def first_sentence(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    sentence = re.match(r".*?\.(?=\s|$)", paragraph)
    return (sentence[0] if sentence else paragraph).rstrip(".:")


INTRODUCTIONS = {
    "commands": """# Commands

Look up any `myna` command here, with its arguments and options. After `make serve` has run once, it lies at
`.venv/bin/myna`. Every command has `--help`; it ends with 0 when done, 1 for an error, 2 for wrong use and 3 where the
gate refused.
""",
    "settings": """# Settings

Look up any setting here. Settings come from the environment, or from `myna.toml` in the working folder (or where
`MYNA_CONFIG` says) with the names in small letters and without `MYNA_`; the environment wins. Wrong values and unknown
names are reported together at the start. `myna settings` prints what is in force, without secrets.
""",
    "modules": """# Modules

Find the file that does something: every module with the first sentence of its docstring.
[Architecture](../architecture.md) says how they work together.
""",
}
PAGES: dict[str, Callable[[], str]] = {
    "commands": render_commands,
    "settings": render_settings,
    "modules": render_modules,
}


def page_file(name: str) -> Path:
    return DOCS / "reference" / f"{name}.md"


def render_page(name: str) -> str:
    """Render a reference page whole."""
    return f"{INTRODUCTIONS[name]}\n{MADE}\n\n{PAGES[name]()}\n"


def block_in(page: str, name: str) -> str | None:
    """Return the text between a block's marks; None unless both are there exactly once, in order."""
    opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
    if page.count(opening) != 1 or page.count(closing) != 1:
        return None
    _, _, rest = page.partition(opening)
    content, found, _ = rest.partition(closing)
    return content.strip("\n") if found else None


def with_map(page: str) -> str:
    """Return README with its map rendered anew. Raises `LookupError` if the map's marks are missing."""
    if block_in(page, MAP) is None:
        raise LookupError(f"README.md has no place for the map: write <!-- {MAP} --> and <!-- /{MAP} --> on lines")
    before, opening, rest = page.partition(f"<!-- {MAP} -->")
    _, closing, after = rest.partition(f"<!-- /{MAP} -->")
    return f"{before}{opening}\n{render_map()}\n{closing}{after}"


def wanted_files() -> dict[Path, str]:
    """Return every generated file with its text. Raises `LookupError` as `with_map` does."""
    files = {page_file(name): render_page(name) for name in PAGES}
    return files | {README: with_map(README.read_text(encoding="utf-8"))}


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--write"]):
        print("use: python -m tests.tools.reference [--write]", file=sys.stderr)
        return 2
    try:
        wanted = wanted_files()
    except LookupError as error:
        print(error.args[0], file=sys.stderr)
        return 1
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
        if arguments == ["--write"]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[path], encoding="utf-8")
    return int(bool(stale) and not arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
