"""The hints of errors in the shell's words: which command helps."""

from __future__ import annotations

from collections.abc import Mapping

from bot.errors import Hint, MynaError

COMMANDS: Mapping[Hint, str] = {
    "build_dataset": "`myna dataset build` makes one.",
    "create_key": "`myna key create NAME` makes one.",
    "give_rows": "`myna evaluate VERSION --file ROWS.jsonl` takes them.",
    "list_articles": "`myna kb list` shows them.",
    "list_corrections": "`myna kb curated candidates` lists them.",
    "list_curated": "`myna kb curated list` lists them.",
    "list_datasets": "`myna dataset list` shows all.",
    "list_gaps": "`myna kb gaps list` lists them.",
    "list_golden": "`myna golden list` shows all.",
    "list_jobs": "`myna jobs` lists them.",
    "sync_articles": "`myna kb sync` reads them again.",
    "train_intents": "`myna intents train FILE.csv` trains them.",
}


def told(error: MynaError) -> str:
    """Return the error's message, followed by the command that helps."""
    return f"{error.message} {COMMANDS[error.hint]}" if error.hint else error.message
