"""Intent classification: `myna intents train`, `list`, `try`, `evaluate`, `export` and `clear`."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from adapters.cli import article_commands, job_display
from adapters.cli.terminal import Commands, add, add_group, print_value, progress_bar, shell_actor, with_database
from bot.errors import InvalidInput
from bot.settings import Settings

if TYPE_CHECKING:
    from bot.knowledge.intents.intent_file import Phrases
    from bot.knowledge.intents.intents import Intents
    from storage.scope import Scope

T = TypeVar("T")

MAX_FILE_BYTES = 64 * 2**20


def add_to(commands: Commands) -> None:
    """Add `intents ...`."""
    intents = add_group(commands, "intents", "manage intents: the topics that messages are classified into")
    train = add(
        intents,
        "train",
        "train the intent classifier on phrases, in place of the present intents",
        _train,
        reports=True,
    )
    train.add_argument(
        "file",
        type=Path,
        help="CSV with the header text,intent[,reply]; a reply is given word for word, without the model",
    )
    add(intents, "list", "list the intents, and how many recent messages had each", _list, reports=True)
    tried = add(intents, "try", "classify a message", _try, reports=True)
    tried.add_argument("text", help="the message")
    evaluate = add(
        intents, "evaluate", "measure the accuracy of the classifier on labelled messages", _evaluate, reports=True
    )
    evaluate.add_argument("file", type=Path, help="CSV with the header text,intent; an empty intent means out of scope")
    evaluate.add_argument(
        "--keep",
        type=float,
        metavar="SHARE",
        help="set the threshold so that this share (0.5 to 1) of the messages with an intent is recognized",
    )
    add(intents, "export", "print all phrases with their intents as CSV", _export)
    add(intents, "clear", "remove all intents", _clear)


def _with_intents(settings: Settings, work: Callable[[Intents], Awaitable[T]]) -> T:
    from bot.knowledge.intents.intents import Intents

    async def with_search(scope: Scope) -> T:
        async with article_commands.searching(settings, scope) as search:
            return await work(Intents(scope, search))

    return with_database(settings, with_search)


def _read(file: Path, *, to_learn: bool = False) -> Phrases:
    from bot.knowledge.intents.intent_file import read_phrases

    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise InvalidInput(f"{file} is larger than {MAX_FILE_BYTES // 2**20} MB.", field="file")
        return read_phrases(file.read_bytes(), str(file), to_learn=to_learn)
    except OSError as error:
        raise InvalidInput(f"{file} can't be read: {error.strerror}.", field="file") from error


def _train(settings: Settings, arguments: argparse.Namespace) -> int:
    phrases = _read(arguments.file, to_learn=True)
    with progress_bar("phrases", len(phrases.rows)) as bar:
        made = _with_intents(settings, lambda intents: intents.train(shell_actor(), phrases, bar.reach))
    count = len({intent for _, intent in made.phrases})
    if arguments.json:
        print_value({"version": made.version, "phrases": len(made.phrases), "intents": count, **made.report})
    else:
        print_value(
            f"{count} intents from {len(made.phrases):,} phrases; "
            f"macro-F1 on held-out phrases: {made.report['macro_f1']:.2f}"
        )
    return 0


def _list(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot.knowledge.intents.intents import COUNTED_DAYS, counts_of

    found, counts = _with_intents(settings, lambda intents: intents.show(shell_actor()))
    phrases = counts_of(found)
    rows = [
        {"intent": name, "phrases": phrases[name], "messages": counts.get(name, 0), "reply": found.replies.get(name)}
        for name in sorted(phrases)
    ]
    if arguments.json:
        print_value(
            {
                "intents": rows,
                "out_of_scope": counts.get("", 0),
                "threshold": found.threshold,
                "report": found.report,
                "trained_by": found.trained_by,
                "trained_at": found.trained_at,
            }
        )
        return 0
    print_value(f"trained by {found.trained_by}, {job_display.moment_words(found.trained_at)}")
    print_value(f"messages of the last {COUNTED_DAYS} days, phrases, intent")
    for row in rows:
        reply = f"  -> {row['reply']}" if row["reply"] else ""
        print_value(f"{row['messages']:>7}  {row['phrases']:>5}  {row['intent']}{reply}")
    print_value(f"{counts.get('', 0):>7}         out of scope")
    return 0


def _try(settings: Settings, arguments: argparse.Namespace) -> int:
    told = _with_intents(settings, lambda intents: intents.try_out(shell_actor(), arguments.text))
    if arguments.json:
        print_value(
            {
                "intent": told.intent or None,
                "nearest": told.guess.intent,
                "probability": round(told.guess.probability, 4),
                "fit": round(told.guess.fit, 4),
                "reply": told.reply,
            }
        )
        return 0
    near = f"{told.guess.intent} ({told.guess.probability:.0%})"
    print_value(near if told.intent else f"out of scope; the nearest is {near}")
    return 0


def _evaluate(settings: Settings, arguments: argparse.Namespace) -> int:
    if arguments.keep is not None and not 0.5 <= arguments.keep <= 1:
        raise InvalidInput("--keep must lie between 0.5 and 1.", field="keep")
    phrases = _read(arguments.file)
    with progress_bar("messages", len(phrases.rows)) as bar:
        measured = _with_intents(
            settings, lambda intents: intents.measure(shell_actor(), phrases, bar.reach, keep=arguments.keep)
        )
    if arguments.json:
        print_value(measured.as_json)
        return 0
    words = {
        "macro-F1": measured.macro_f1,
        "kept": measured.answered,
        "out of scope found": measured.out_of_scope_found,
    }
    print_value("  ".join(f"{name} {value}" for name, value in words.items() if value is not None))
    return 0


def _export(settings: Settings, _: argparse.Namespace) -> int:
    from bot.knowledge.intents.intent_file import write_phrases

    found = _with_intents(settings, lambda intents: intents.show(shell_actor()))[0]
    print_value(write_phrases(found.phrases, found.replies).rstrip("\n"))
    return 0


def _clear(settings: Settings, _: argparse.Namespace) -> int:
    _with_intents(settings, lambda intents: intents.clear(shell_actor()))
    print_value("All intents are removed.")
    return 0
