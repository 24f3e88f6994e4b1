"""Model cards: their contents, and the words that they must not contain."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from bot.learning.judge.evaluation_report import JudgedAnswer
from bot.learning.judge.gate import judge
from bot.learning.judge.model_card import ModelCard, write_model_card
from storage.learning_values import Dataset, Version
from tests.builders.reports import GOOD

VERSION = Version(
    "id1",
    2,
    "bot-v2",
    "tiny|base",
    "aa" * 32,
    "bb" * 32,
    "d1",
    "j1",
    {"lr": 2e-4, "lora": {"rank": 8}},
    "0.1.0",
    "web:ada",
    1_795_000_000_000,
)
DATASET = Dataset("d1", "cc" * 32, {}, {"answer": {"import": 120}, "rejected": {"near duplicate": 7}}, "web:ada", 1)
ANSWER = JudgedAnswer(
    "held_out",
    "q1",
    ({"role": "user", "content": "my secret words"},),
    "an answer of Ada",
    {"base": "one", "champion": "two", "candidate": "three"},
    {"base": (), "champion": (), "candidate": ()},
    "p1",
)


def write(folder: Path, card: ModelCard) -> tuple[str, str]:
    write_model_card(folder, card)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "myna-version.json"]
    return (folder / "README.md").read_text(), (folder / "myna-version.json").read_text()


def test_a_card_has_lineage_figures_verdict_and_the_way_back(tmp_path: Path) -> None:
    report = replace(GOOD, answers=(ANSWER,))
    page, facts = write(tmp_path, ModelCard(VERSION, DATASET, report, judge(report)))
    for wanted in (
        "# bot-v2",
        "aa" * 32,
        "bb" * 32,
        "cc" * 32,
        "answer / import | 120",
        "lora / rank | 8",
        "j1",
        "| Loss per token (nats) |",
        "1.410 (1.400 to 1.420)",
        "-0.780 (-0.790 to -0.770)",
        "**Passed**",
        "- Held-out loss fell from 2.190 to 1.410",
        "myna rollback",
        "myna retire bot-v2",
        "2026-11-18",
    ):
        assert wanted in page, wanted
    stored = json.loads(facts)
    assert stored["passed"] is True and stored["version"]["name"] == "bot-v2"
    assert stored["evaluation"]["suites"]["held_out"]["measures"]["loss"]["difference"]["mean"] < 0


def test_a_card_contains_nobodys_words(tmp_path: Path) -> None:
    report = replace(GOOD, answers=(ANSWER,))
    for text in write(tmp_path, ModelCard(VERSION, DATASET, report, judge(report))):
        assert "secret words" not in text and "answer of Ada" not in text


def test_a_card_without_evaluation_says_so_and_is_replaced(tmp_path: Path) -> None:
    page, facts = write(tmp_path, ModelCard(VERSION))
    assert "has not been evaluated" in page and "has not judged" in page
    assert json.loads(facts)["passed"] is None
    page, _ = write(tmp_path, ModelCard(VERSION, DATASET, GOOD, judge(GOOD)))
    assert "has not been evaluated" not in page


def test_names_can_not_break_the_tables(tmp_path: Path) -> None:
    nasty = replace(VERSION, created_by="web:<b>|x\n# head")
    page, _ = write(tmp_path, ModelCard(nasty, DATASET, GOOD, judge(GOOD)))
    assert "| asked for by | web:\\<b\\>\\|x # head |" in page
