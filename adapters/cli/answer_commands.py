"""What is answered without the model, and what could not be: `myna kb calibrate`, `curated ...` and `gaps ...`.

Knows: options and what is printed. Does not know: how questions are compared, who may do what.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from adapters.cli import article_commands, job_display
from adapters.cli.terminal import Commands, add, print_value, progress_bar, read_stdin, shell_actor, with_database
from bot.errors import InvalidInput
from bot.settings import Settings
from storage.knowledge_values import AUDIENCES

if TYPE_CHECKING:
    from bot.knowledge.curated_answers import CuratedAnswers
    from bot.knowledge.knowledge_gaps import Gap, Gaps
    from storage.scope import Scope

T = TypeVar("T")

SHORT_ID, MAX_DAYS = 12, 36_500


def add_to(kb: Commands) -> None:
    """Add what belongs to `myna kb`."""
    _add_calibrate(kb)
    _add_curated(kb)
    _add_gaps(kb)


# --- from how sure on is a question answered ---


def _add_calibrate(kb: Commands) -> None:
    parser = add(
        kb,
        "calibrate",
        'set from how sure on a question is answered, and not "I don\'t know"',
        _calibrate,
        reports=True,
    )
    parser.add_argument(
        "file",
        type=Path,
        nargs="?",
        help='JSONL: {"question": "...", "gold": ["article"]}; with "gold": [] a question that no article answers',
    )
    parser.add_argument(
        "--keep",
        type=float,
        default=0.95,
        metavar="SHARE",
        help="the share of answerable questions to be answered; default: 0.95",
    )
    parser.add_argument("--dry-run", action="store_true", help="only measure")
    parser.add_argument("--reset", action="store_true", help="go back to the default")


def _calibrate(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot.knowledge.calibration import Calibration, Thresholds, calibrate
    from bot.knowledge.grounding import DEFAULT_THRESHOLD

    if arguments.reset:
        with_database(settings, lambda scope: Thresholds(scope).reset(shell_actor()))
        print_value({"threshold": DEFAULT_THRESHOLD} if arguments.json else "The default holds again.")
        return 0
    if arguments.file is None:
        raise InvalidInput("Say which questions to measure with: `myna kb calibrate QUESTIONS.jsonl`.", field="file")
    questions = article_commands.read_questions(arguments.file, may_have_no_answer=True)

    async def measure(scope: Scope) -> Calibration:
        with progress_bar("questions", len(questions)) as bar:
            async with article_commands.searching(settings, scope) as search:
                measured = await calibrate(search, questions, arguments.keep, bar.reach)
        if not arguments.dry_run:
            await Thresholds(scope).set(shell_actor(), measured)
        return measured

    measured = with_database(settings, measure)
    if arguments.json:
        print_value(measured.as_json)
        return 0
    print_value(f"threshold {measured.threshold:.2f}" + (" (not set)" if arguments.dry_run else ""))
    print_value(
        f"  of {measured.questions} questions with an article {measured.answered:.1%} are answered "
        f"(by default, {DEFAULT_THRESHOLD}: {measured.answered_by_default:.1%})"
    )
    if measured.refused is not None and measured.refused_by_default is not None:
        print_value(
            f"  of {measured.others} others {measured.refused:.1%} are not "
            f"(by default: {measured.refused_by_default:.1%})"
        )
    return 0


# --- answers word for word ---


def _add_curated(kb: Commands) -> None:
    curated = kb.add_parser("curated", help="answers that are given word for word").add_subparsers(
        required=True, metavar="ACTION"
    )
    add(curated, "list", "list them, and how often each was given", _list_curated, reports=True)
    new = add(curated, "add", "add one", _add_one, reports=True)
    new.add_argument("question")
    new.add_argument("answer", help="- reads it from standard input")
    _add_audience(new)
    remove = add(curated, "remove", "give one no more", _remove_curated, reports=True)
    remove.add_argument("which", help="the beginning of its id")
    add(curated, "candidates", "list corrections by staff that could become some", _candidates, reports=True)
    approve = add(curated, "approve", "make an answer of a correction", _approve, reports=True)
    approve.add_argument("reply", help="the beginning of the reply's id, as `candidates` shows it")
    approve.add_argument("--question", help="ask it in other words, without what is only one person's")
    _add_audience(approve)


def _add_audience(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--audience", choices=AUDIENCES, default="public", help="who may see it; default: public")


def _with_curated(settings: Settings, work: Callable[[CuratedAnswers], Awaitable[T]]) -> T:
    from bot.knowledge.curated_answers import CuratedAnswers

    async def with_search(scope: Scope) -> T:
        async with article_commands.searching(settings, scope) as search:
            return await work(CuratedAnswers(scope, search))

    return with_database(settings, with_search)


def _list_curated(settings: Settings, arguments: argparse.Namespace) -> int:
    found = _with_curated(settings, lambda curated: curated.list(shell_actor()))
    if arguments.json:
        print_value([dataclasses.asdict(one) | {"given": given} for one, given in found])
        return 0
    if not found:
        print_value("No curated answers yet. `myna kb curated add QUESTION ANSWER` adds one.")
    for one, given in found:
        print_value(f"{one.id[:SHORT_ID]}  {one.question}  {one.audience}, given {given} times\n    {one.answer}")
    return 0


def _add_one(settings: Settings, arguments: argparse.Namespace) -> int:
    answer = read_stdin() if arguments.answer == "-" else arguments.answer
    added = _with_curated(
        settings, lambda curated: curated.add(shell_actor(), arguments.question, answer, arguments.audience)
    )
    print_value({"id": added} if arguments.json else added[:SHORT_ID])
    return 0


def _remove_curated(settings: Settings, arguments: argparse.Namespace) -> int:
    removed = _with_curated(settings, lambda curated: curated.remove(shell_actor(), arguments.which))
    print_value(dataclasses.asdict(removed) if arguments.json else f"Not given any more: {removed.question}")
    return 0


def _candidates(settings: Settings, arguments: argparse.Namespace) -> int:
    found = _with_curated(settings, lambda curated: curated.candidates(shell_actor()))
    if arguments.json:
        print_value([dataclasses.asdict(one) for one in found])
        return 0
    if not found:
        print_value("No corrections by staff wait here. `myna review correct` makes some.")
    for one in found:
        print_value(f"{one.reply_id}  {one.question}\n    {one.better}  (by {one.reviewer})")
    return 0


def _approve(settings: Settings, arguments: argparse.Namespace) -> int:
    async def approve(curated: CuratedAnswers) -> str:
        return await curated.approve(shell_actor(), arguments.reply, arguments.question, arguments.audience)

    added = _with_curated(settings, approve)
    print_value({"id": added} if arguments.json else added[:SHORT_ID])
    return 0


# --- questions without an answer ---


def _add_gaps(kb: Commands) -> None:
    gaps = kb.add_parser("gaps", help="questions that no article answers").add_subparsers(
        required=True, metavar="ACTION"
    )
    listed = add(gaps, "list", "list them, alike ones together", _list_gaps, reports=True)
    listed.add_argument("--days", type=int, default=90, metavar="N", help="asked in the last N days; default: 90")
    show = add(gaps, "draft", "print the draft of the article that is missing", _draft, reports=True)
    show.add_argument("which", help="the beginning of the gap's id")
    approve = add(gaps, "approve", "make an article of a draft", _approve_draft, reports=True)
    approve.add_argument("which", help="the beginning of the gap's id")
    approve.add_argument("--file", metavar="FILE", help="the draft as you have changed it; - reads standard input")
    _add_audience(approve)
    close = add(gaps, "close", "list a gap no more", _close, reports=True)
    close.add_argument("which", help="the beginning of the gap's id")


@contextlib.asynccontextmanager
async def _open_gaps(settings: Settings, scope: Scope) -> AsyncIterator[Gaps]:
    from bot.knowledge.knowledge_gaps import Gaps
    from bot.knowledge.library import Library
    from bot.knowledge.setup import open_grounding
    from bot.privacy.redaction.redactor import hide_personal_data

    async with open_grounding(settings, scope) as grounding:
        library = Library(scope)
        yield Gaps(scope, grounding, library, hide_personal_data(settings.regions))


def _with_gaps(settings: Settings, work: Callable[[Gaps], Awaitable[T]]) -> T:
    async def opened(scope: Scope) -> T:
        async with _open_gaps(settings, scope) as gaps:
            return await work(gaps)

    return with_database(settings, opened)


def _list_gaps(settings: Settings, arguments: argparse.Namespace) -> int:
    if not 1 <= arguments.days <= MAX_DAYS:
        raise InvalidInput(f"--days must be 1 to {MAX_DAYS:,}.", field="days")
    found = _with_gaps(settings, lambda gaps: gaps.list(shell_actor(), arguments.days))
    if arguments.json:
        print_value([dataclasses.asdict(one) for one in found])
        return 0
    if not found:
        print_value("No gaps: every question of this time has an answer in the articles, or there were none.")
    for one in found:
        asked = f"{one.count} time{'s' * (one.count != 1)}, last {job_display.moment_words(one.last_asked_at)}"
        print_value(f"{one.id[:SHORT_ID]}  {one.questions[0]}  ({asked})")
        for other in one.questions[1:]:
            print_value(f"    {other}")
    return 0


def _draft(settings: Settings, arguments: argparse.Namespace) -> int:
    gap = _with_gaps(settings, lambda gaps: gaps.find(shell_actor(), arguments.which))
    print_value(dataclasses.asdict(gap) if arguments.json else gap.draft.rstrip("\n"))
    return 0


def _approve_draft(settings: Settings, arguments: argparse.Namespace) -> int:
    text = None
    if arguments.file == "-":
        text = read_stdin()
    elif arguments.file:
        try:
            text = Path(arguments.file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"{arguments.file} can't be read: {error}.", field="file") from error

    async def approve(gaps: Gaps) -> str:
        source, _ = await gaps.approve(shell_actor(), arguments.which, text, arguments.audience)
        return source.location

    location = _with_gaps(settings, approve)
    print_value({"added": location} if arguments.json else f"Added {location}; `myna kb sync` reads it now.")
    return 0


def _close(settings: Settings, arguments: argparse.Namespace) -> int:
    gap: Gap = _with_gaps(settings, lambda gaps: gaps.close(shell_actor(), arguments.which))
    print_value({"closed": gap.count} if arguments.json else f"Not listed any more: {gap.questions[0]}")
    return 0
