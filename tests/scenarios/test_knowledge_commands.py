"""`myna kb ...` and `myna intents ...`, with a worker process that reads the articles."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapters.cli import job_commands
from tests.builders.cli import Cli

pytestmark = [pytest.mark.model, pytest.mark.slow]


@pytest.fixture
def myna(tmp_path: Path, embedder_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setattr(job_commands, "PATIENCE_SECONDS", 0.0)  # no server is there that might read what was added
    cli = Cli(tmp_path, {"MYNA_TRAINING_PRIORITY": "normal"})
    (cli.data / "models").mkdir(parents=True)
    (cli.data / "models" / embedder_path.name).symlink_to(embedder_path)
    return cli


def test_a_folder_is_added_searched_and_evaluated(myna: Cli, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "returns.md").write_text("# Returns\n\nYou can send anything back within 30 days.\n")
    (docs / "shipping.md").write_text("# Shipping\n\nParcels travel for two days. To Norway it costs 9 euros.\n")
    assert "No articles yet" in myna("kb", "list").out
    assert "Nothing was found" in myna("kb", "search", "refund").out
    added = myna("kb", "add", str(docs))
    assert (added.code, added.out) == (0, "2 articles in 2 passages (2 added).\n")

    (docs / "broken.pdf").write_bytes(b"%PDF-1.4")
    synced = myna("kb", "sync")
    assert synced.code == 1
    assert "broken.pdf: it is damaged" in synced.err
    assert "2 unchanged" in synced.out

    found = myna("kb", "search", "What does Norway cost?", "--json").json
    assert found[0]["article"] == "shipping"
    assert "9 euros" in myna("kb", "show", "shipping").out
    listed = myna("kb", "list", "--json").json
    assert [one["name"] for one in listed["articles"]] == ["returns", "shipping"]

    questions = tmp_path / "questions.jsonl"
    rows = [
        {"question": "Can I send a rose back?", "gold": ["returns"]},
        {"question": "norway", "gold": "shipping"},
        {"question": "How long do parcels travel?", "gold": ["returns"]},
    ]
    questions.write_text("\n".join(json.dumps(one) for one in rows))
    measured = myna("kb", "evaluate", str(questions), "--json").json
    assert (measured["questions"], measured["recall@1"], measured["recall@5"]) == (3, 0.6667, 1.0)
    assert [one["place"] for one in measured["misses"]] == [2]
    questions.write_text('{"question": "a", "gold": ["b"]}\n{"question": 1}\n')
    refused = myna("kb", "evaluate", str(questions))
    assert refused.code == 1
    assert "line 2" in refused.err


def test_articles_come_from_standard_input_and_are_removed(myna: Cli) -> None:
    assert "--name" in myna("kb", "add", "-", stdin=b"x").err
    added = myna("kb", "add", "-", "--name", "hours.txt", "--audience", "staff", stdin="Mo – Fr 9–17".encode())
    assert added.code == 0
    assert myna("kb", "search", "hours", "--json").json == []
    assert [one["article"] for one in myna("kb", "search", "hours", "--audience", "staff", "--json").json] == ["hours"]
    assert "0 articles" in myna("kb", "remove", "hours").out
    assert myna("kb", "remove", "hours").code == 1
    assert "not a public address" in myna("kb", "add", "http://192.168.1.1/").err


def test_the_threshold_is_calibrated_and_reset(myna: Cli, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "returns.md").write_text("# Returns\n\nYou can send anything back within 30 days.\n")
    assert myna("kb", "add", str(docs)).code == 0
    questions = tmp_path / "questions.jsonl"
    asked = [{"question": f"Can I send back item number {number}?", "gold": ["returns"]} for number in range(20)]
    others = [{"question": f"Who won the cup in {1990 + number}?", "gold": []} for number in range(5)]
    questions.write_text("\n".join(json.dumps(one) for one in asked[:19]))
    few = myna("kb", "calibrate", str(questions))
    assert (few.code, "at least 20 are needed" in few.err) == (1, True)
    questions.write_text("\n".join(json.dumps(one) for one in [*asked, *others]))
    done = myna("kb", "calibrate", str(questions), "--json")
    measured = json.loads(done.out)
    assert (measured["questions"], measured["others"], measured["refused"]) == (20, 5, 1.0)
    assert 0.95 <= measured["answered"] <= 1.0
    listed = myna("kb", "list").out
    assert f"threshold {measured['threshold']:.2f}" in listed
    assert "that these passages answer the question" in myna("kb", "search", "Can I send it back?").out
    assert "default" in myna("kb", "calibrate", "--reset").out
    assert "threshold 0.50 (default)" in myna("kb", "list").out


def test_curated_answers_and_gaps_in_the_shell(myna: Cli) -> None:
    assert "No curated answer yet" in myna("kb", "curated", "list").out
    added = json.loads(myna("kb", "curated", "add", "Do you ship?", "-", "--json", stdin=b"Yes, we do.").out)
    (one,) = json.loads(myna("kb", "curated", "list", "--json").out)
    assert (one["id"], one["answer"], one["given"], one["audience"]) == (added["id"], "Yes, we do.", 0, "public")
    assert "Removed: Do you ship?" in myna("kb", "curated", "remove", added["id"][:12]).out
    assert "No correction by staff waits here" in myna("kb", "curated", "candidates").out
    assert "No gaps" in myna("kb", "gaps", "list").out
    missing = myna("kb", "gaps", "draft", "abc")
    assert (missing.code, 'There is no gap "abc"' in missing.err) == (1, True)


def test_intents_are_trained_tried_and_exported(myna: Cli, tmp_path: Path) -> None:
    file = tmp_path / "intents.csv"
    file.write_text(
        "text,intent\nwhere is my order,status\ntrack my parcel,status\nmoney back,refund\nrefund me,refund\n"
    )
    assert "2 intents from 4 phrases" in myna("intents", "train", str(file)).out
    assert "status" in myna("intents", "try", "where is my parcel").out
    assert "out of scope" in myna("intents", "list").out
    assert myna("intents", "export").out.splitlines()[:2] == ["text,intent,reply", "where is my order,status,"]
    measured = json.loads(myna("intents", "evaluate", str(file), "--json").out)
    assert (measured["messages"], measured["macro_f1"]) == (4, 1.0)
    assert "removed" in myna("intents", "clear").out
    assert "There are no intents" in myna("intents", "list").err
