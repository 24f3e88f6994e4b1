"""Calibration, curated answers and knowledge gaps: `myna kb calibrate`, `curated` and `gaps`."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from adapters.cli import article_commands, job_display
from adapters.cli.terminal import (
    Commands,
    add,
    add_group,
    print_value,
    progress_bar,
    read_stdin,
    reason_of,
    shell_actor,
    with_database,
)
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
    """Add `calibrate`, `curated ...` and `gaps ...` to `myna kb`."""
    _add_calibrate(kb)
    _add_curated(kb)
    _add_gaps(kb)


# --- the confidence threshold ---


def _add_calibrate(kb: Commands) -> None:
    parser = add(
        kb,
        "calibrate",
        "measure and set the confidence threshold above which a question is answered from the articles",
        _calibrate,
        reports=True,
    )
    parser.add_argument(
        "file",
        type=Path,
        nargs="?",
        help='JSON lines like {"question": "...", "gold": ["article"]}; "gold": [] if no article answers the question',
    )
    parser.add_argument(
        "--keep",
        type=float,
        default=0.95,
        metavar="SHARE",
        help="answer at least this share of the answerable questions; default: 0.95",
    )
    parser.add_argument("--dry-run", action="store_true", help="measure, but leave the threshold as it is")
    parser.add_argument("--reset", action="store_true", help="go back to the default threshold")


def _calibrate(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot.knowledge.calibration import Calibration, Thresholds, calibrate
    from bot.knowledge.grounding import DEFAULT_THRESHOLD

    if arguments.reset:
        with_database(settings, lambda scope: Thresholds(scope).reset(shell_actor()))
        print_value(
            {"threshold": DEFAULT_THRESHOLD}
            if arguments.json
            else f"The threshold is {DEFAULT_THRESHOLD:.2f} again, the default."
        )
        return 0
    if arguments.file is None:
        raise InvalidInput(
            "Name a file of questions to measure with: `myna kb calibrate QUESTIONS.jsonl`.", field="file"
        )
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
        f"  answered, of {measured.questions} questions with an article: {measured.answered:.1%} "
        f"(at the default of {DEFAULT_THRESHOLD}: {measured.answered_by_default:.1%})"
    )
    if measured.refused is not None and measured.refused_by_default is not None:
        print_value(
            f"  refused, of {measured.others} questions without an article: {measured.refused:.1%} "
            f"(at the default: {measured.refused_by_default:.1%})"
        )
    return 0


# --- curated answers ---


def _add_curated(kb: Commands) -> None:
    curated = add_group(kb, "curated", "manage curated answers, which are given word for word")
    add(curated, "list", "list the curated answers, and how often each was given", _list_curated, reports=True)
    new = add(curated, "add", "add a curated answer", _add_one, reports=True)
    new.add_argument("question", help="the question, as people ask it")
    new.add_argument("answer", help="the answer; - reads it from standard input")
    _add_audience(new)
    remove = add(curated, "remove", "remove a curated answer", _remove_curated, reports=True)
    remove.add_argument("which", help="the start of the answer's id")
    add(curated, "candidates", "list corrections by staff that could become curated answers", _candidates, reports=True)
    approve = add(curated, "approve", "make a correction a curated answer", _approve, reports=True)
    approve.add_argument("reply", help="the start of the reply's id, from `myna kb curated candidates`")
    approve.add_argument("--question", help="the question in other words, without personal details")
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
        print_value([dataclasses.asdict(answer) | {"given": given} for answer, given in found])
        return 0
    if not found:
        print_value("No curated answer yet. `myna kb curated add QUESTION ANSWER` adds one.")
    for answer, given in found:
        times = f"given {given} time{'s' * (given != 1)}"
        print_value(f"{answer.id[:SHORT_ID]}  {answer.question}  {answer.audience}, {times}\n    {answer.answer}")
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
    print_value(dataclasses.asdict(removed) if arguments.json else f"Removed: {removed.question}")
    return 0


def _candidates(settings: Settings, arguments: argparse.Namespace) -> int:
    found = _with_curated(settings, lambda curated: curated.candidates(shell_actor()))
    if arguments.json:
        print_value([dataclasses.asdict(correction) for correction in found])
        return 0
    if not found:
        print_value("No correction by staff waits here. `myna review correct` makes one.")
    for correction in found:
        print_value(
            f"{correction.reply_id}  {correction.question}\n    {correction.better}  (by {correction.reviewer})"
        )
    return 0


def _approve(settings: Settings, arguments: argparse.Namespace) -> int:
    async def approve(curated: CuratedAnswers) -> str:
        return await curated.approve(shell_actor(), arguments.reply, arguments.question, arguments.audience)

    added = _with_curated(settings, approve)
    print_value({"id": added} if arguments.json else added[:SHORT_ID])
    return 0


# --- knowledge gaps ---


def _add_gaps(kb: Commands) -> None:
    gaps = add_group(kb, "gaps", "find questions that no article answers, and write the missing articles")
    listed = add(gaps, "list", "list the gaps, with similar questions grouped", _list_gaps, reports=True)
    listed.add_argument(
        "--days", type=int, default=90, metavar="N", help="count questions of the last N days; default: 90"
    )
    show = add(gaps, "draft", "print the draft of the missing article", _draft, reports=True)
    show.add_argument("which", help="the start of the gap's id")
    approve = add(gaps, "approve", "add the draft, or your own text, as an article", _approve_draft, reports=True)
    approve.add_argument("which", help="the start of the gap's id")
    approve.add_argument("--file", metavar="FILE", help="a text to use in place of the draft; - reads standard input")
    _add_audience(approve)
    close = add(gaps, "close", "remove a gap from the list", _close, reports=True)
    close.add_argument("which", help="the start of the gap's id")


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
        print_value([dataclasses.asdict(gap) for gap in found])
        return 0
    if not found:
        print_value("No gaps: the articles answered every question of these days, or nobody asked.")
    for gap in found:
        asked = f"{gap.count} time{'s' * (gap.count != 1)}, last {job_display.moment_words(gap.last_asked_at)}"
        print_value(f"{gap.id[:SHORT_ID]}  {gap.questions[0]}  ({asked})")
        for other in gap.questions[1:]:
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
            raise InvalidInput(f"{arguments.file} can't be read: {reason_of(error)}.", field="file") from error

    async def approve(gaps: Gaps) -> str:
        source, _ = await gaps.approve(shell_actor(), arguments.which, text, arguments.audience)
        return source.location

    location = _with_gaps(settings, approve)
    print_value({"added": location} if arguments.json else f"Added {location}; `myna kb sync` reads it now.")
    return 0


def _close(settings: Settings, arguments: argparse.Namespace) -> int:
    gap: Gap = _with_gaps(settings, lambda gaps: gaps.close(shell_actor(), arguments.which))
    print_value({"closed": gap.count} if arguments.json else f"Closed: {gap.questions[0]}")
    return 0
