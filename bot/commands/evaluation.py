"""Judging versions in the shell: `myna evaluate` and `myna golden ...`.

Knows: how a report is shown, the exit code of a refusal. Does not know: how a version is judged.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bot.commands.terminal import Commands, add, print_value, say, shell_actor, with_database
from bot.errors import InvalidInput
from bot.settings import Settings

if TYPE_CHECKING:
    from bot.learning.evaluation_report import Interval, Label, Report
    from bot.training.judging import Judged

REFUSED_BY_GATE = 3
SUITE_TITLES = {
    "held_out": "Held out",
    "general": "General knowledge and small talk",
    "safety": "Safety",
    "golden": "Golden questions",
}


def add_to(commands: Commands) -> None:
    """Add `evaluate`, `golden add`, `golden list` and `golden remove`."""
    evaluate = add(commands, "evaluate", "judge a trained version beside base and champion", _evaluate, reports=True)
    evaluate.add_argument("version", help="its name, its number, or how its name begins")
    evaluate.add_argument("--file", type=Path, metavar="FILE", help="rows of chat messages, JSONL; default: held out")
    evaluate.add_argument("--rows", type=_count, default=200, metavar="N", help="at most so many rows; default: 200")
    golden = commands.add_parser("golden", help="questions that every version must get right").add_subparsers(
        required=True, metavar="ACTION"
    )
    add_golden = add(golden, "add", "add questions with rules from a JSONL file", _golden_add, reports=True)
    add_golden.add_argument(
        "file", type=Path, help='lines like {"question": "...", "rules": {"must_contain": ["..."]}}'
    )
    add(golden, "list", "list all golden questions", _golden_list, reports=True)
    remove = add(golden, "remove", "ask a question no more", _golden_remove, reports=True)
    remove.add_argument("id", help="as `myna golden list` shows it")


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 100000")
    return int(text)


def _evaluate(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot.training.judging import Wanted, carry_out, keep_verdict, plan_judging
    from bot.training.loss_scorer import NetworkLossScorer

    actor, wanted = shell_actor(), Wanted(arguments.version, arguments.file, arguments.rows)
    plan = with_database(
        settings, lambda database, workspace_id: plan_judging(database, workspace_id, settings, actor, wanted)
    )
    say(f"Judging {wanted.version} on {sum(len(suite.rows) for suite in plan.suites)} rows ...")
    # The database is free meanwhile: this takes minutes.
    report = asyncio.run(carry_out(settings, plan, _show_progress, NetworkLossScorer))
    judged = with_database(
        settings, lambda database, workspace_id: keep_verdict(database, workspace_id, actor, plan, report)
    )
    if arguments.json:
        print_value(_as_json(judged))
    else:
        _print_report(judged)
    return 0 if judged.verdict.passed else REFUSED_BY_GATE


def _show_progress(what: str, done: int, of: int) -> None:
    if sys.stderr.isatty():
        filled = 30 * done // max(of, 1)
        end = "\n" if done >= of else ""
        sys.stderr.write(f"\r[{'#' * filled}{'.' * (30 - filled)}] {done}/{of} {what:<10}{end}")
        sys.stderr.flush()


def _as_json(judged: Judged) -> dict[str, object]:
    from bot.learning.evaluation_report import report_as_json

    return {
        "evaluation": judged.evaluation_id,
        "passed": judged.verdict.passed,
        "reasons": list(judged.verdict.reasons),
        "report": report_as_json(judged.report),
    }


def _print_report(judged: Judged) -> None:
    print_value("\n".join(report_lines(judged.report)))
    print_value("\nThe gate:")
    for reason in judged.verdict.reasons:
        print_value(f"- {reason}")
    print_value(f"\n{'Passed.' if judged.verdict.passed else 'Refused by the gate.'}")
    if judged.evaluation_id is None:
        say("This verdict is not kept: what counts is how a registered version does on the rows its dataset holds out.")


def report_lines(report: Report) -> list[str]:
    """A table for each suite: a line a figure, a column a contestant, with 95 % intervals."""
    from bot.learning.evaluation_report import MEASURES

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
    from bot.learning.golden import GoldenQuestions, parse_questions

    try:
        text = arguments.file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{arguments.file} is not text in UTF-8.") from error
    questions = parse_questions(text, str(arguments.file))
    added = with_database(
        settings,
        lambda database, workspace_id: GoldenQuestions(database, workspace_id).add(shell_actor(), questions),
    )
    count = f"{len(added)} golden question{'' if len(added) == 1 else 's'} added."
    print_value({"added": added} if arguments.json else count)
    return 0


def _golden_list(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot.learning.golden import GoldenQuestions

    found = with_database(
        settings, lambda database, workspace_id: GoldenQuestions(database, workspace_id).list_all(shell_actor())
    )
    if arguments.json:
        print_value([{"id": one.id, "messages": list(one.messages), "rules": dict(one.rules)} for one in found])
    elif not found:
        print_value("No golden question yet. `myna golden add FILE` adds some.")
    for one in () if arguments.json else found:
        kept = "; ".join(f"{kind.replace('_', ' ')}: {', '.join(texts)}" for kind, texts in one.rules.items())
        print_value(f"{one.id}  {one.messages[-1]['content']}\n    {kept}")
    return 0


def _golden_remove(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot.learning.golden import GoldenQuestions

    with_database(
        settings,
        lambda database, workspace_id: GoldenQuestions(database, workspace_id).remove(shell_actor(), arguments.id),
    )
    print_value({"removed": arguments.id} if arguments.json else "Removed.")
    return 0
