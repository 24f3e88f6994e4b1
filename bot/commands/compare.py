"""`myna compare`: what the newest evaluation found, in the shell.

Knows: how its figures and its verdict are printed. Does not know: how a version is judged (`myna evaluate` does that).
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from bot.commands.terminal import Commands, add, print_value, with_database
from bot.errors import MynaError, NotFound
from bot.settings import Settings

if TYPE_CHECKING:
    from bot.learning.evaluation_report import Report


def add_to(commands: Commands) -> None:
    """Add `compare`."""
    compare = add(commands, "compare", "show a version beside base and champion, as it was judged", _compare,
                  reports=True)  # fmt: skip
    compare.add_argument(
        "version", nargs="?", default="", help="its name, number, or how its name begins; default: the newest judged"
    )


def _compare(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot.commands.evaluation import report_lines
    from bot.learning.evaluation_report import report_as_json, report_from_json
    from bot.learning.versions import Versions

    found = with_database(
        settings, lambda database, workspace_id: Versions(database, workspace_id).newest_evaluation(arguments.version)
    )
    if found is None:
        raise NotFound("There is no evaluation yet. `myna evaluate VERSION` makes one.")
    try:
        report: Report = report_from_json(found.report)
    except (KeyError, TypeError):
        raise MynaError(f"The evaluation {found.id} can't be read: it has no figures.") from None
    if arguments.json:
        print_value({
            "evaluation": found.id, "passed": found.passed, "reasons": list(found.reasons),
            "report": report_as_json(report),
        })  # fmt: skip
        return 0
    print_value("\n".join(report_lines(report)))
    print_value("\nThe gate:")
    for reason in found.reasons:
        print_value(f"- {reason}")
    print_value(f"\n{'Passed.' if found.passed else 'Refused by the gate.'}")
    return 0
