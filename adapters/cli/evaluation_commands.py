"""Evaluation of versions: `myna evaluate`, `myna compare` and `myna golden ...`."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from adapters.cli.terminal import Commands, add, add_group, print_value, progress_bar, say, shell_actor, with_database
from bot.errors import InvalidInput, MynaError, NotFound
from bot.settings import Settings

if TYPE_CHECKING:
    from bot.learning.judge.evaluation_report import EvaluationReport, Interval, Label

REFUSED_BY_GATE = 3
SUITE_TITLES = {
    "held_out": "Held out",
    "general": "General knowledge and small talk",
    "safety": "Safety",
    "golden": "Golden questions",
}


def add_to(commands: Commands) -> None:
    """Add `evaluate`, `compare` and `golden ...`."""
    evaluate = add(
        commands,
        "evaluate",
        "evaluate a version against the base model and the champion, and apply the gate",
        _evaluate,
        reports=True,
    )
    evaluate.add_argument("version", help="the version's name, number, or the start of its name")
    evaluate.add_argument(
        "--file",
        type=Path,
        metavar="FILE",
        help="JSON lines of chat messages to evaluate on; default: the held-out rows of the version's dataset",
    )
    evaluate.add_argument(
        "--rows", type=_count, default=200, metavar="N", help="evaluate on at most N rows; default: 200"
    )
    compare = add(
        commands,
        "compare",
        "show the last evaluation of a version beside base model and champion",
        _compare,
        reports=True,
    )
    compare.add_argument(
        "version",
        nargs="?",
        default="",
        help="the version's name, number, or the start of its name; default: the version evaluated last",
    )
    golden = add_group(commands, "golden", "manage golden questions, which every version must answer right")
    add_golden = add(
        golden, "add", "add golden questions and their rules from a file of JSON lines", _golden_add, reports=True
    )
    add_golden.add_argument(
        "file", type=Path, help='JSON lines like {"question": "...", "rules": {"must_contain": ["..."]}}'
    )
    add(golden, "list", "list all golden questions", _golden_list, reports=True)
    remove = add(golden, "remove", "remove a golden question", _golden_remove, reports=True)
    remove.add_argument("id", help="the question's id, from `myna golden list`")


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 100000")
    return int(text)


def _evaluate(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot.learning.judge.judging import JudgingRequest, carry_out, keep_verdict, plan_judging
    from bot.learning.train.objectives import NetworkLossScorer

    actor, wanted = shell_actor(), JudgingRequest(arguments.version, arguments.file, arguments.rows)
    plan = with_database(settings, lambda scope: plan_judging(scope, settings, actor, wanted))
    say(f"Evaluating {wanted.version} on {sum(len(suite.rows) for suite in plan.suites)} rows ...")
    # This takes minutes; the database is not held meanwhile.
    with progress_bar("Evaluating") as bar:
        report = asyncio.run(carry_out(settings, plan, lambda _, done, of: bar.reach(done, of), NetworkLossScorer))
    judged = with_database(settings, lambda scope: keep_verdict(scope, actor, plan, report))
    verdict = judged.verdict
    _show(arguments, judged.evaluation_id, report, passed=verdict.passed, reasons=verdict.reasons)
    if judged.evaluation_id is None:
        say("This verdict is not stored: the gate counts only registered versions on their datasets' held-out rows.")
    return 0 if verdict.passed else REFUSED_BY_GATE


def _compare(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot.learning.judge.evaluation_report import report_from_json
    from bot.learning.versions import Versions

    found = with_database(settings, lambda scope: Versions(scope).newest_evaluation(arguments.version))
    if found is None:
        raise NotFound("There is no evaluation yet. `myna evaluate VERSION` runs one.")
    try:
        report = report_from_json(found.report)
    except (KeyError, TypeError):
        raise MynaError(f"The evaluation {found.id} can't be read: it has no figures.") from None
    _show(arguments, found.id, report, passed=found.passed, reasons=found.reasons)
    return 0


def _show(
    arguments: argparse.Namespace,
    evaluation_id: str | None,
    report: EvaluationReport,
    *,
    passed: bool,
    reasons: Iterable[str],
) -> None:
    from bot.learning.judge.evaluation_report import report_as_json

    if arguments.json:
        print_value(
            {"evaluation": evaluation_id, "passed": passed, "reasons": list(reasons), "report": report_as_json(report)}
        )
        return
    print_value("\n".join(report_lines(report)))
    print_value("\nThe gate:")
    for reason in reasons:
        print_value(f"- {reason}")
    print_value(f"\n{'Passed.' if passed else 'Refused by the gate.'}")


def report_lines(report: EvaluationReport) -> list[str]:
    """Return a table a suite: a line for each measure, a column for each model, with 95 % intervals."""
    from bot.learning.judge.evaluation_report import MEASURES

    labels: list[Label] = ["base", "champion", "candidate"]
    if report.names["champion"] == report.names["base"]:
        labels.remove("champion")
    lines: list[str] = []
    for name, suite in report.suites.items():
        rows = [[f"{SUITE_TITLES.get(name, name)}, {suite.rows} rows", *(report.names[label] for label in labels)]]
        for measure, (title, unit) in MEASURES.items():
            found = suite.measures.get(measure)
            if found is not None:
                rows.append([f"{title} ({unit})", *(_figure(found.values[label]) for label in labels)])
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        lines += [f"({suite.left_out} rows were too long for the model.)"] if suite.left_out else []
        lines.append("")
    return lines[:-1]


def _figure(interval: Interval) -> str:
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]" if interval.is_finite else "not a number"


def _golden_add(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot.learning.judge.golden_questions import GoldenQuestions, parse_questions

    try:
        text = arguments.file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{arguments.file} is not text in UTF-8.") from error
    questions = parse_questions(text, str(arguments.file))
    added = with_database(settings, lambda scope: GoldenQuestions(scope).add(shell_actor(), questions))
    count = f"{len(added)} golden question{'' if len(added) == 1 else 's'} added."
    print_value({"added": added} if arguments.json else count)
    return 0


def _golden_list(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot.learning.judge.golden_questions import GoldenQuestions

    found = with_database(settings, lambda scope: GoldenQuestions(scope).list_all(shell_actor()))
    if arguments.json:
        print_value(
            [
                {"id": question.id, "messages": list(question.messages), "rules": dict(question.rules)}
                for question in found
            ]
        )
    elif not found:
        print_value("No golden question yet. `myna golden add FILE` adds some.")
    for question in () if arguments.json else found:
        rules = "; ".join(f"{kind.replace('_', ' ')}: {', '.join(texts)}" for kind, texts in question.rules.items())
        print_value(f"{question.id}  {question.messages[-1]['content']}\n    {rules}")
    return 0


def _golden_remove(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot.learning.judge.golden_questions import GoldenQuestions

    with_database(settings, lambda scope: GoldenQuestions(scope).remove(shell_actor(), arguments.id))
    print_value({"removed": arguments.id} if arguments.json else "Removed.")
    return 0
