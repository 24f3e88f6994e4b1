"""History of champions, replayed from rows of the audit log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from bot.learning.release.history import history_of
from storage.learning_values import AuditRow

Row = tuple[str, str, Mapping[str, Any]]


def promoted(name: str, before: str) -> Row:
    return "version.promoted", name, {"before": before}


def rolled_back(name: str, before: str, canary: str | None = None) -> Row:
    return "version.rolled_back", name, {"before": before, "canary": canary}


def canary(outcome: str, name: str) -> Row:
    return f"canary.{outcome}", name, {"why": ""}


A, B, C = promoted("a", "base"), promoted("b", "a"), promoted("c", "b")


@pytest.mark.parametrize(
    ("rows", "champion", "before", "taken_back"),
    [
        ([], "base", [], set()),
        ([A, B, C], "c", ["b", "a", "base"], set()),
        ([A, B, C, rolled_back("b", "c")], "b", ["a", "base"], {"c"}),
        ([A, B, C, rolled_back("b", "c"), rolled_back("a", "b")], "a", ["base"], {"b", "c"}),
        ([A, B, rolled_back("a", "b"), B], "b", ["a", "base"], set()),
        ([A, promoted("base", "a")], "base", ["a"], set()),
        ([A, promoted("base", "a"), rolled_back("a", "base")], "a", ["base"], set()),
        ([A, B, promoted("a", "b"), rolled_back("b", "a")], "b", ["base"], {"a"}),
        ([A, rolled_back("base", "a", "x")], "base", [], {"a", "x"}),
        ([A, B, canary("harm", "a")], "b", ["a", "base"], {"a"}),
        ([A, canary("rolled_back", "x"), promoted("x", "a")], "x", ["a", "base"], set()),
        ([B], "b", ["a"], set()),
        ([A, B, ("version.rolled_back", "z", {"why": "erasure"})], "z", ["b", "a", "base"], set()),
    ],
)
def test_history_follows_promotions_and_rollbacks(
    rows: list[Row], champion: str, before: list[str], taken_back: set[str]
) -> None:
    found = history_of(
        [
            AuditRow(number, "shell:root", action, target, details, "", 0)
            for number, (action, target, details) in enumerate(rows)
        ]
    )
    assert list(found.before(champion)) == before
    assert found.taken_back == taken_back


def test_an_unknown_champion_comes_after_all_others() -> None:
    found = history_of([AuditRow(1, "shell:root", *A, "", 0)])
    assert list(found.before("unknown")) == ["a", "base"]
