"""`myna kb ...` in processes of its own, as people type it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.scenarios.test_cli import Done

pytestmark = [pytest.mark.model, pytest.mark.slow]


@pytest.fixture
def data(tmp_path: Path, embedder_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "models").mkdir(parents=True)
    (folder / "models" / embedder_path.name).symlink_to(embedder_path)
    return folder


def myna(data: Path, *arguments: str, given: bytes = b"") -> Done:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MYNA_")}
    done = subprocess.run(
        [sys.executable, "-m", "adapters.cli.main", *arguments],
        cwd=ROOT,
        capture_output=True,
        timeout=120,
        input=given,
        env=inherited | {"MYNA_DATA": str(data), "MYNA_TRAINING_PRIORITY": "normal"},
    )
    assert b"Traceback" not in done.stderr, done.stderr
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def test_a_newcomer_adds_a_folder_and_measures_the_search(data: Path, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "returns.md").write_text("# Returns\n\nYou can send anything back within 30 days.\n")
    (docs / "shipping.md").write_text("# Shipping\n\nParcels travel for two days. To Norway it costs 9 euros.\n")
    assert "No articles yet" in myna(data, "kb", "list").out
    assert "Nothing is found" in myna(data, "kb", "search", "refund").out
    added = myna(data, "kb", "add", str(docs))
    assert (added.code, added.out) == (0, "2 articles in 2 passages (2 added).\n")

    (docs / "broken.pdf").write_bytes(b"%PDF-1.4")
    synced = myna(data, "kb", "sync")
    assert synced.code == 1
    assert "broken.pdf: it is damaged" in synced.err
    assert "2 unchanged" in synced.out

    found = myna(data, "kb", "search", "What does Norway cost?", "--json").json
    assert found[0]["article"] == "shipping"
    assert "9 euros" in myna(data, "kb", "show", "shipping").out
    listed = myna(data, "kb", "list", "--json").json
    assert [one["name"] for one in listed["articles"]] == ["returns", "shipping"]

    questions = tmp_path / "questions.jsonl"
    rows = [
        {"question": "Can I send a rose back?", "gold": ["returns"]},
        {"question": "norway", "gold": "shipping"},
        {"question": "How long do parcels travel?", "gold": ["returns"]},
    ]
    questions.write_text("\n".join(json.dumps(one) for one in rows))
    measured = myna(data, "kb", "evaluate", str(questions), "--json").json
    assert (measured["questions"], measured["recall@1"], measured["recall@5"]) == (3, 0.6667, 1.0)
    assert [one["place"] for one in measured["misses"]] == [2]
    questions.write_text('{"question": "a", "gold": ["b"]}\n{"question": 1}\n')
    refused = myna(data, "kb", "evaluate", str(questions))
    assert refused.code == 1
    assert "line 2" in refused.err


def test_standard_input_and_removal(data: Path) -> None:
    assert "--name" in myna(data, "kb", "add", "-", given=b"x").err
    added = myna(data, "kb", "add", "-", "--name", "hours.txt", "--audience", "staff", given="Mo – Fr 9–17".encode())
    assert added.code == 0
    assert myna(data, "kb", "search", "hours", "--json").json == []
    assert [one["article"] for one in myna(data, "kb", "search", "hours", "--audience", "staff", "--json").json] == [
        "hours"
    ]
    assert "0 articles" in myna(data, "kb", "remove", "hours").out
    assert myna(data, "kb", "remove", "hours").code == 1
    assert "not a public address" in myna(data, "kb", "add", "http://192.168.1.1/").err


def test_the_threshold_is_set_by_questions_and_reset(data: Path, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "returns.md").write_text("# Returns\n\nYou can send anything back within 30 days.\n")
    assert myna(data, "kb", "add", str(docs)).code == 0
    questions = tmp_path / "questions.jsonl"
    asked = [{"question": f"Can I send back item number {number}?", "gold": ["returns"]} for number in range(20)]
    others = [{"question": f"Who won the cup in {1990 + number}?", "gold": []} for number in range(5)]
    questions.write_text("\n".join(json.dumps(one) for one in asked[:19]))
    few = myna(data, "kb", "calibrate", str(questions))
    assert (few.code, "at least 20 are needed" in few.err) == (1, True)
    questions.write_text("\n".join(json.dumps(one) for one in [*asked, *others]))
    done = myna(data, "kb", "calibrate", str(questions), "--json")
    measured = json.loads(done.out)
    assert (measured["questions"], measured["others"], measured["refused"]) == (20, 5, 1.0)
    assert 0.95 <= measured["answered"] <= 1.0
    listed = myna(data, "kb", "list").out
    assert f"threshold {measured['threshold']:.2f}" in listed
    assert "that these answer it" in myna(data, "kb", "search", "Can I send it back?").out
    assert "default" in myna(data, "kb", "calibrate", "--reset").out
    assert "threshold 0.50 (default)" in myna(data, "kb", "list").out


def test_answers_are_curated_and_gaps_listed_in_the_shell(data: Path) -> None:
    assert "No curated answers yet" in myna(data, "kb", "curated", "list").out
    added = json.loads(myna(data, "kb", "curated", "add", "Do you ship?", "-", "--json", given=b"Yes, we do.").out)
    (one,) = json.loads(myna(data, "kb", "curated", "list", "--json").out)
    assert (one["id"], one["answer"], one["given"], one["audience"]) == (added["id"], "Yes, we do.", 0, "public")
    assert "Not given any more: Do you ship?" in myna(data, "kb", "curated", "remove", added["id"][:12]).out
    assert "No corrections by staff wait here" in myna(data, "kb", "curated", "candidates").out
    assert "No gaps" in myna(data, "kb", "gaps", "list").out
    missing = myna(data, "kb", "gaps", "draft", "abc")
    assert (missing.code, 'There is no gap "abc"' in missing.err) == (1, True)


def test_intents_are_trained_tried_and_exported_in_the_shell(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "intents.csv"
    file.write_text(
        "text,intent\nwhere is my order,status\ntrack my parcel,status\nmoney back,refund\nrefund me,refund\n"
    )
    assert "2 intents from 4 phrases" in myna(data, "intents", "train", str(file)).out
    assert "status" in myna(data, "intents", "try", "where is my parcel").out
    assert "out of scope" in myna(data, "intents", "list").out
    assert myna(data, "intents", "export").out.splitlines()[:2] == ["text,intent,reply", "where is my order,status,"]
    measured = json.loads(myna(data, "intents", "evaluate", str(file), "--json").out)
    assert (measured["messages"], measured["macro_f1"]) == (4, 1.0)
    assert "forgotten" in myna(data, "intents", "clear").out
    assert "There are no intents" in myna(data, "intents", "list").err
