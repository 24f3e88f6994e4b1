"""`myna evaluate` and `myna golden`: tables, JSON, exit codes, bad files."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from storage import audit, evaluations, migrate
from storage.database import Database
from storage.schema import DEFAULT_WORKSPACE
from tests.builders.cli import Cli, Done
from tests.builders.tiny_models import save_tiny, save_version
from tests.builders.versions import add_version

ROW = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}


def write(folder: Path, *rows: object) -> str:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def with_version(myna: Cli, starter_model_path: Path) -> Cli:
    """Make a tiny base with a version of random weights, which no gate may let pass."""
    base = save_tiny("llama", myna.folder / "base", starter_model_path)
    save_version(base, myna.data / "versions" / "bot-v1", r=4, lora_alpha=64, target_modules=["q_proj", "up_proj"])
    myna.settings |= {"MYNA_MODEL": str(base), "MYNA_CONTEXT_TOKENS": "256", "MYNA_MAX_REPLY_TOKENS": "4"}
    return myna


def evaluate(myna: Cli, *arguments: str) -> Done:
    rows = [{"messages": [{"role": "user", "content": f"Where is order {n}?"}, ROW["messages"][1]]} for n in range(12)]
    return myna("evaluate", "bot-v1", "--file", write(myna.folder, *rows), "--rows", "11", *arguments)


@pytest.mark.model
def test_an_unregistered_version_is_evaluated_and_refused(with_version: Cli) -> None:
    done = evaluate(with_version)
    assert done.code == 3, done.err
    lines = done.out.splitlines()
    assert lines[0].split()[:4] == ["Held", "out,", "11", "rows"]
    assert lines[0].split()[-1] == "bot-v1"
    assert any(line.startswith("Loss per token (nats)") and line.count("[") == 2 for line in lines)
    assert any(line.startswith("- Held-out loss") for line in lines)
    assert lines[-1] == "Refused by the gate."
    assert "verdict is not stored" in done.err


@pytest.mark.model
async def test_the_verdict_of_a_registered_version_is_stored(with_version: Cli) -> None:
    url = f"sqlite:///{with_version.data / 'myna.db'}"
    await asyncio.to_thread(migrate.upgrade, url)
    database = Database(url)
    version_id, _ = await database.write(add_version, DEFAULT_WORKSPACE, "bot-v1", 1)
    questions = write(with_version.folder, {"question": "Who?", "rules": {"must_contain": ["zebra"]}})
    assert (await with_version.beside("golden", "add", questions)).code == 0
    done = await with_version.beside("evaluate", "bot-v1", "--json")
    assert done.code == 3, done.err
    found = done.json
    assert found["passed"] is False
    assert "Only 1 held-out rows were measured (at least 10): REFUSED" in found["reasons"]
    assert set(found["report"]["suites"]) == {"held_out", "general", "safety", "golden"}
    assert found["report"]["suites"]["golden"]["measures"]["broken_rules"]["values"]["candidate"]["mean"] == 1.0
    stored = await database.read(evaluations.latest_of_version, DEFAULT_WORKSPACE, version_id)
    assert stored is not None and (stored.id, stored.passed) == (found["evaluation"], False)
    assert stored.report == found["report"]
    assert (await database.read(audit.page, DEFAULT_WORKSPACE))[0].action == "version.evaluated"
    again = await asyncio.to_thread(evaluate, with_version, "--json")
    assert (again.code, again.json["evaluation"]) == (3, None), "a file of one's choice decides nothing"
    latest = await database.read(evaluations.latest_of_version, DEFAULT_WORKSPACE, version_id)
    assert latest is not None and latest.id == stored.id
    await database.close()


def test_bad_versions_and_files_are_refused_at_once(myna: Cli) -> None:
    rows = write(myna.folder, ROW)
    done = myna("evaluate", "bot-v9", "--file", rows)
    assert (done.code, done.out) == (1, "")
    assert 'There is no version "bot-v9"' in done.err
    assert 'There is no version "../base"' in myna("evaluate", "../base", "--file", rows).err
    (myna.data / "versions" / "bot-v9").mkdir(parents=True)
    done = myna("evaluate", "bot-v9")
    assert done.code == 1 and "Give rows of your own. `myna evaluate VERSION --file ROWS.jsonl`" in done.err
    done = myna("evaluate", "bot-v9", "--file", write(myna.folder, ROW, "{", {"messages": []}))
    assert done.code == 1
    assert "rows.jsonl, line 2: this is not JSON" in done.err and "rows.jsonl, line 3: " in done.err
    assert myna("evaluate", "bot-v9", "--rows", "0").code == 2


def test_golden_questions_are_added_listed_and_removed(myna: Cli) -> None:
    questions = [{"question": "Who are you?", "rules": {"must_contain": ["Myna"]}}, {**ROW, "rules": {}}]
    refused = myna("golden", "add", write(myna.folder, *questions))
    assert refused.code == 1 and "rows.jsonl, line 2: " in refused.err
    assert "No golden question yet" in myna("golden", "list").out, "all of a file, or nothing"
    assert myna("golden", "add", write(myna.folder, questions[0])).out == "1 golden question added.\n"
    (stored,) = myna("golden", "list", "--json").json
    assert stored["rules"] == {"must_contain": ["Myna"]}
    assert "must contain: Myna" in myna("golden", "list").out
    assert myna("golden", "remove", stored["id"]).code == 0
    assert myna("golden", "remove", stored["id"]).code == 1
