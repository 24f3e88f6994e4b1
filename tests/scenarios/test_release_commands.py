"""Releases from the shell: exit codes, confirmation and output."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from adapters.cli.main import main
from storage import evaluations, jobs, versions
from storage.database import Database
from storage.learning_values import Version
from storage.schema import DEFAULT_WORKSPACE
from storage.transaction import Transaction
from tests.builders.learning import report_with_figures
from tests.builders.versions import add_evaluation, add_job_and_dataset, new_version

T = TypeVar("T")


@pytest.fixture
def made(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Version]:
    """Add two versions to the database of the command line; the second has failed the gate."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MYNA_DATA", str(tmp_path))
    monkeypatch.setenv("MYNA_DATABASE_URL", sqlite_url)

    def register(tx: Transaction) -> list[Version]:
        made = [versions.register(tx, new_version(*add_job_and_dataset(tx), weights=one * 64)) for one in "ab"]
        for number, one in enumerate(made):
            add_evaluation(tx, one.id, passed=number == 0)
        return made

    return asyncio.run(written(sqlite_url, register))


async def written(url: str, unit: Callable[[Transaction], T]) -> T:
    database = Database(url)
    try:
        return await database.write(unit, DEFAULT_WORKSPACE)
    finally:
        await database.close()


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
    assert run(capsys, "canary", "2", "--yes")[0] == 3
    assert value(capsys, "canary", "2", "--share", "20%", "--because", "to see", "--yes")["share"] == 0.2
    status = value(capsys, "canary", "status")
    assert (status["challenger"], status["canary"]["verdict"]) == (made[1].name, "running")
    code, out, _ = run(capsys, "status")
    assert (code, f"Canary:   {made[1].name}, 20%: running" in out, "thumbs_down" in out) == (0, True, True)
    assert value(capsys, "canary", "stop")["challenger"] is None
    assert value(capsys, "promote", "2", "--because", "urgent", "--yes")["previous"] == made[0].name
    assert value(capsys, "rollback", "--because", "worse", "--yes")["champion"] == made[0].name
    assert run(capsys, "retire", "1", "--because", "old", "--yes")[0] == 1
    assert value(capsys, "retire", "2", "--because", "old", "--yes") == {"retired": made[1].name}
    assert [one["state"] for one in value(capsys, "versions")] == ["champion", "retired: old"]
    assert value(capsys, "versions", "show", "2")["gate"] == "failed"
    assert made[0].name in run(capsys, "versions")[1]
    assert "learnt from" in run(capsys, "versions", "show", "bot-v1")[1]


def test_dangerous_commands_ask_first(made: list[Version], capsys: pytest.CaptureFixture[str]) -> None:
    lines = [["promote", "1"], ["canary", "1"], ["retire", "1", "--because", "old"]]
    for line in lines:
        code, _, err = run(capsys, *line)
        assert (code, "add --yes" in err) == (1, True)
    assert value(capsys, "status")["number"] == 0
    assert [one["state"] for one in value(capsys, "versions")] == ["", ""]
    value(capsys, "promote", made[0].name, "--yes")
    code, _, err = run(capsys, "rollback")
    assert code == 1
    assert f"Let the base model answer everybody from the next reply on, in place of {made[0].name}?" in err
    assert value(capsys, "status")["champion"] == made[0].name


@pytest.mark.parametrize("line", [["promote", "2"], ["canary", "2", "--share", "20%"]])
def test_a_void_verdict_is_refused_before_the_question(
    made: list[Version], capsys: pytest.CaptureFixture[str], sqlite_url: str, line: list[str]
) -> None:
    asyncio.run(written(sqlite_url, lambda tx: add_evaluation(tx, made[1].id)))
    assert value(capsys, "versions", "show", "2")["fault"] is None
    value(capsys, "promote", "1", "--yes")
    for arguments in (line, [*line, "--yes"]):
        code, out, err = run(capsys, *arguments)
        assert (code, out) == (3, ""), "refused by the gate, and nobody was asked"
        assert f"beside another champion than {made[0].name}, which answers now." in err
        assert err.rstrip().endswith(
            f"`myna evaluate {made[1].name}` evaluates it; --because TEXT overrides the gate, and is recorded."
        )
    shown = value(capsys, "versions", "show", "2")
    assert (shown["gate"], shown["fault"]) == ("passed", "judged_beside_another")
    for listing in (["versions"], ["versions", "show", "2"]):
        assert f"passed beside another champion than {made[0].name}" in run(capsys, *listing)[1]
    code, _, err = run(capsys, *line, "--because", "a demo")
    assert (code, "beside another champion" in err, f"Let {made[1].name} answer" in err) == (1, True, True)
    assert made[1].name in value(capsys, *line, "--because", "a demo", "--yes").values()
    details = json.loads(run(capsys, "audit", "--json")[1].splitlines()[0])["details"]
    assert {"gate": "overridden", "fault": "judged_beside_another", "why": "a demo"}.items() <= details.items()


def test_the_question_names_version_and_share_as_they_are(
    made: list[Version], capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"Let {made[0].name} answer 0.5% of the conversations?" in run(capsys, "canary", "1", "--share", "0.5%")[2]
    assert f"Retire {made[1].name} for good?" in run(capsys, "retire", "2", "--because", "old")[2]


@pytest.mark.parametrize("line", [["promote", "2"], ["canary", "2"], ["retire", "2"]])
def test_an_empty_reason_is_refused_before_the_question(
    made: list[Version], capsys: pytest.CaptureFixture[str], line: list[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*line, "--because", " "])
    assert "the reason is empty" in capsys.readouterr().err


def test_a_canary_ends_with_its_reason(made: list[Version], capsys: pytest.CaptureFixture[str]) -> None:
    value(capsys, "canary", "1", "--yes")
    value(capsys, "canary", "stop", "--because", "sale is over")
    details = json.loads(run(capsys, "audit", "--json")[1].splitlines()[0])["details"]
    assert details["why"] == "sale is over"


def test_a_rollback_that_only_ends_a_canary_says_so(made: list[Version], capsys: pytest.CaptureFixture[str]) -> None:
    value(capsys, "canary", "1", "--yes")
    code, _, err = run(capsys, "rollback")
    assert (code, f"End the canary of {made[0].name}?" in err) == (1, True)
    code, out, _ = run(capsys, "rollback", "--yes")
    assert (code, out) == (0, "The canary has ended: the base model answers everybody.\n")


def test_a_second_rollback_goes_further_back(made: list[Version], capsys: pytest.CaptureFixture[str]) -> None:
    value(capsys, "promote", "1", "--yes")
    value(capsys, "promote", "2", "--because", "urgent", "--yes")
    assert value(capsys, "rollback", "--yes")["champion"] == made[0].name
    assert (
        f"Let the base model answer everybody from the next reply on, in place of {made[0].name}?"
        in (run(capsys, "rollback")[2])
    )
    assert value(capsys, "rollback", "--yes")["champion"] is None
    code, _, err = run(capsys, "rollback", "--yes")
    assert (code, "nothing to roll back to" in err) == (1, True)


class Terminal(io.StringIO):
    """Standard input of a person who answers a question."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("typed", "answers"), [("y\n", True), ("\n", False), ("no\n", False)])
def test_the_answer_on_the_terminal_decides(
    made: list[Version], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, typed: str, answers: bool
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    code, _, err = run(capsys, "canary", "1")
    assert (code, "[y/N]" in err, "Nothing was changed." in err) == (0 if answers else 1, True, not answers)
    assert value(capsys, "status")["challenger"] == (made[0].name if answers else None)


def test_a_change_during_the_question_is_not_undone(
    made: list[Version], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    value(capsys, "promote", "1", "--yes")
    value(capsys, "promote", "2", "--because", "urgent", "--yes")

    asked: list[str] = []

    def meanwhile(_: object, question: str) -> None:
        asked.append(question)
        if len(asked) == 1:
            value(capsys, "promote", "base", "--yes")

    monkeypatch.setattr("adapters.cli.release_commands.confirm", meanwhile)
    code, _, err = run(capsys, "rollback")
    assert (code, len(asked), "has changed since" in err) == (1, 2, True)
    assert value(capsys, "status")["champion"] is None


def test_a_user_without_a_name_can_promote(
    made: list[Version], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody() -> str:
        raise OSError("no username set in the environment")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert value(capsys, "promote", made[0].name, "--yes")["champion"] == made[0].name
    assert value(capsys, "audit")["actor"] == "shell:unknown"


def test_the_status_lists_open_jobs(made: list[Version], capsys: pytest.CaptureFixture[str], sqlite_url: str) -> None:
    def run_half(tx: Transaction) -> None:
        lease = jobs.claim(tx, "a worker", 60_000)
        assert lease is not None
        jobs.report(tx, lease, {"phase": "answers", "step": 5, "steps": 20}, ())

    job = value(capsys, "train", "--rows", "12")
    asyncio.run(written(sqlite_url, run_half))
    (line,) = [one for one in run(capsys, "status")[1].splitlines() if one.startswith("Job: ")]
    assert job["id"][:12] in line
    assert "running" in line
    assert "learning from answers  step 5/20" in line
    assert [(one["id"], one["progress"]["step"]) for one in value(capsys, "status")["jobs"]] == [(job["id"], 5)]
    code, _, err = run(capsys, "jobs", "cancel", job["id"])
    assert (code, "add --yes" in err) == (1, True)
    assert value(capsys, "jobs", "show", job["id"])["wanted"] == "run"
    assert value(capsys, "jobs", "cancel", job["id"], "--yes")["wanted"] == "cancel"


def test_compare_shows_the_stored_evaluation(
    made: list[Version], capsys: pytest.CaptureFixture[str], sqlite_url: str
) -> None:
    assert run(capsys, "compare")[0] == 1, "these have no figures"

    def judge(tx: Transaction) -> None:
        for one, passed in ((made[0], True), (made[1], False)):
            evaluations.save(
                tx,
                one.id,
                None,
                passed=passed,
                reasons=[f"Loss of {one.name}: told"],
                report=report_with_figures("p"),
                created_by="shell:root",
            )

    asyncio.run(written(sqlite_url, judge))
    code, out, _ = run(capsys, "compare")
    lines = out.splitlines()
    assert (code, lines[-1], f"- Loss of {made[1].name}: told" in lines) == (0, "Refused by the gate.", True)
    assert any(one.startswith("Loss per token (nats)") and "1.220" in one for one in lines)
    older = value(capsys, "compare", "1")
    assert (older["passed"], older["reasons"]) == (True, [f"Loss of {made[0].name}: told"])
    assert older["report"]["suites"]["held_out"]["rows"] == 100
    assert "no version" in run(capsys, "compare", "bot-v9")[2]


@pytest.mark.parametrize("arguments", [["promote", "bot-v9", "--yes"], ["erase", "web:nobody", "--yes"], ["rollback"]])
def test_a_missing_version_is_an_error_without_a_traceback(
    made: list[Version], capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert made
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (1, "")
    assert err.startswith("myna: ")


@pytest.mark.parametrize("share", ["90%", "0", "0%", "0.51", "50.1%", "nan", "10"])
def test_an_invalid_share_is_wrong_use(made: list[Version], capsys: pytest.CaptureFixture[str], share: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["canary", made[0].name, "--share", share])
    assert stopped.value.code == 2
    assert "not a share" in capsys.readouterr().err
