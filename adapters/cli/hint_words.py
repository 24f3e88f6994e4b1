"""Hints of errors as shell commands."""

from __future__ import annotations

from collections.abc import Mapping

from bot.errors import Hint, MynaError

COMMANDS: Mapping[Hint, str] = {
    "build_dataset": "`myna dataset build` builds one.",
    "create_key": "`myna key create NAME` creates one.",
    "give_rows": "`myna evaluate VERSION --file ROWS.jsonl` reads them.",
    "list_articles": "`myna kb list` lists them.",
    "list_corrections": "`myna kb curated candidates` lists them.",
    "list_curated": "`myna kb curated list` lists them.",
    "list_datasets": "`myna dataset list` lists all.",
    "list_gaps": "`myna kb gaps list` lists them.",
    "list_golden": "`myna golden list` lists all.",
    "list_jobs": "`myna jobs` lists them.",
    "sync_articles": "`myna kb sync` reads them again.",
    "train_intents": "`myna intents train FILE.csv` trains them.",
}


def told(error: MynaError) -> str:
    """Return the error's message, followed by the command that helps."""
    return f"{error.message} {COMMANDS[error.hint]}" if error.hint else error.message
