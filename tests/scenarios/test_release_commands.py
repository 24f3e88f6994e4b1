"""What answers, steered from the shell: exit codes, confirmation, and what is printed.

Knows: the command line as a person or a script uses it. Does not know: how a turn picks its version.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from bot.cli import main
from storage import versions
from storage.database import Database
from storage.learning_values import Version
from storage.schema import DEFAULT_WORKSPACE
from storage.transaction import Transaction
from tests.rows import add_evaluation, add_job_and_dataset, new_version


@pytest.fixture
def made(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Version]:
    """Two versions in a database that the command line works on; the second has failed the gate."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MYNA_DATA", str(tmp_path))
    monkeypatch.setenv("MYNA_DATABASE_URL", sqlite_url)

    def register(tx: Transaction) -> list[Version]:
        made = [versions.register(tx, new_version(*add_job_and_dataset(tx), weights=one * 64)) for one in "ab"]
        for number, one in enumerate(made):
            add_evaluation(tx, one.id, passed=number == 0)
        return made

    async def write() -> list[Version]:
        database = Database(sqlite_url)
        try:
            return await database.write(register, DEFAULT_WORKSPACE)
        finally:
            await database.close()

    return asyncio.run(write())


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def value(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_from_promotion_to_rollback(made: list[Version], capsys: pytest.CaptureFixture[str]) -> None:
    assert value(capsys, "status")["champion"] is None
    assert value(capsys, "promote", "1", "--yes")["champion"] == made[0].name
    code, _, err = run(capsys, "promote", made[1].name, "--yes")
    assert (code, "did not pass the gate" in err) == (3, True)
    assert run(capsys, "canary", "2")[0] == 3
    assert value(capsys, "canary", "2", "--share", "20%", "--because", "to see")["share"] == 0.2
    status = value(capsys, "canary", "status")
    assert (status["challenger"], status["canary"]["verdict"]) == (made[1].name, "running")
    code, out, _ = run(capsys, "status")
    assert (code, f"Canary:   {made[1].name}, 20%: running" in out, "thumbs_down" in out) == (0, True, True)
    assert value(capsys, "canary", "stop")["challenger"] is None
    assert value(capsys, "promote", "2", "--because", "urgent", "--yes")["previous"] == made[0].name
    assert value(capsys, "rollback", "--because", "worse")["champion"] == made[0].name
    assert run(capsys, "retire", "1", "--because", "old")[0] == 1
    assert value(capsys, "retire", "2", "--because", "old") == {"retired": made[1].name}
    assert [one["state"] for one in value(capsys, "versions")] == ["champion", "previous, retired: old"]
    assert value(capsys, "versions", "show", "2")["gate"] == "failed"
    assert made[0].name in run(capsys, "versions")[1]
    assert "learnt from" in run(capsys, "versions", "show", "bot-v1")[1]


def test_what_is_dangerous_asks_first(made: list[Version], capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "promote", made[0].name)
    assert (code, "add --yes" in err) == (1, True)
    assert value(capsys, "status")["number"] == 0


@pytest.mark.parametrize("arguments", [["promote", "bot-v9", "--yes"], ["erase", "web:nobody", "--yes"], ["rollback"]])
def test_what_is_not_there_is_an_error_without_a_traceback(
    made: list[Version], capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert made
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (1, "")
    assert err.startswith("myna: ")


def test_a_share_that_makes_no_sense_is_wrong_use(made: list[Version], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["canary", made[0].name, "--share", "90%"])
    assert stopped.value.code == 2
    assert "not a share" in capsys.readouterr().err
