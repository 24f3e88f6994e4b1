"""The admin API on a workspace that has learnt: views and actions."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import pytest

from storage import audit, evaluations
from storage.transaction import Transaction
from tests.builders.learning import Learnt, fill_learning, judged_beside_the_base
from tests.builders.logins import Steerer, log_in
from tests.builders.web import WebServer


@dataclass
class Filled:
    server: WebServer
    learnt: Learnt
    admin: Steerer


@pytest.fixture(name="filled")
async def filled_server(server: WebServer) -> AsyncIterator[Filled]:
    yield Filled(server, await fill_learning(server), await log_in(server))


@pytest.fixture(name="on_sqlite")
async def filled_sqlite_server(sqlite_server: WebServer) -> AsyncIterator[Filled]:
    yield Filled(sqlite_server, await fill_learning(sqlite_server), await log_in(sqlite_server))


async def audited(somebody: Steerer) -> list[tuple[str, str, str | None]]:
    """Return people's actions, newest first, without the system's notes on versions with missing files."""
    rows = (await somebody.get("audit"))["rows"]
    return [(one["actor"], one["action"], one["target"]) for one in rows if one["actor"] != "system"]


@pytest.mark.both_databases("what the pages show is joined, grouped and paged in SQL")
async def test_the_overview_shows_the_newest_of_everything(filled: Filled) -> None:
    shown = await filled.admin.get("overview")
    assert shown["release"]["champion"]["name"] == filled.learnt.champion.name
    assert shown["release"]["canary"]["share"] == 0.2
    assert shown["trial"]["verdict"] == "running"
    assert [one["state"] for one in shown["jobs"]] == ["running"]
    assert shown["waiting"] == 2
    assert shown["votes"] == 3
    assert next(one["action"] for one in shown["rows"] if one["actor"] != "system") == "account.created"


async def test_a_viewer_does_not_see_the_number_of_waiting_reviews(on_sqlite: Filled) -> None:
    viewer = await log_in(on_sqlite.server, "viewer")
    assert (await viewer.get("overview"))["waiting"] is None


async def test_decided_replies_leave_the_queue(filled: Filled) -> None:
    agent = await log_in(filled.server, "agent", "bob")
    first, second = (await agent.get("feedback"))["waiting"]
    assert (first["question"], first["votes"][0]["reason"]) == ("Can I send the tulips back?", "Rude.")
    assert second["proposed"] == "It left our warehouse on Monday and arrives within three days."
    assert await agent.refused(f"feedback/{first['replyId']}/correct", better=" ") == (400, "invalid_input")
    await agent.post(f"feedback/{first['replyId']}/exclude")
    assert await agent.refused(f"feedback/{second['replyId']}/correct", better="") == (400, "invalid_input")
    corrected = await agent.post(f"feedback/{second['replyId']}/correct", better=second["proposed"])
    assert corrected["better"] == second["proposed"]
    assert (await agent.get("feedback"))["waiting"] == []
    assert await agent.refused("feedback/nothing/approve") == (404, "not_found")
    assert (await audited(filled.admin))[:2] == [
        ("web:bob", "reply.correct", second["replyId"]),
        ("web:bob", "reply.exclude", first["replyId"]),
    ]


async def test_a_decision_is_withdrawn_by_its_author(filled: Filled) -> None:
    agent = await log_in(filled.server, "agent", "bob")
    first, second = (await agent.get("feedback"))["waiting"]
    path = f"feedback/{first['replyId']}"
    await agent.post(path + "/approve")
    assert await filled.admin.refused(path + "/withdraw") == (409, "conflict")
    await agent.post(path + "/withdraw")
    assert await agent.refused(path + "/withdraw") == (409, "conflict")
    assert (await agent.get("feedback"))["waiting"] == [first, second]
    assert (await audited(filled.admin))[0] == ("web:bob", "reply.withdraw", first["replyId"])


@pytest.mark.both_databases("what the pages show is joined, grouped and paged in SQL")
async def test_the_queue_is_read_page_by_page(filled: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.admin.reviews_api.PAGE", 1)
    newest = await filled.admin.get("feedback")
    older = await filled.admin.get(f"feedback?before={newest['waiting'][0]['cursor']}")
    assert [one["text"] for one in (*newest["waiting"], *older["waiting"])]
    assert newest["waiting"][0]["replyId"] != older["waiting"][0]["replyId"]
    assert (newest["more"], older["more"]) == (True, False)


@pytest.mark.both_databases("what the pages show is joined, grouped and paged in SQL")
async def test_datasets_show_counts_examples_and_rejected_rows(filled: Filled) -> None:
    listed = (await filled.admin.get("datasets"))["datasets"]
    assert [one["counts"]["examples"] for one in listed] == [3, 1]
    path = f"datasets/{filled.learnt.dataset_id}"
    examples = (await filled.admin.get(path + "/examples?split=train"))["examples"]
    assert [one["example"]["rejected"] for one in examples] == ["The draft 1.", "The draft 2."]
    assert (await filled.admin.get(f"{path}/examples?after={examples[-1]['number']}"))["examples"] == []
    rejected = (await filled.admin.get(path + "/rejected"))["rejected"]
    assert [one["row"]["because"] for one in rejected] == ["the same as another"]
    diff = await filled.admin.get(f"{path}/diff/{filled.learnt.other_dataset_id}")
    assert (diff["added"], diff["removed"], diff["same"]) == (2, 0, 1)
    for wrong in ("nothing", f"{filled.learnt.dataset_id}/diff/nothing"):
        assert (await filled.admin.call("GET", f"datasets/{wrong}"))[0] == 404
    for wrong in ("after=-1", "after=x", "after=²", "split=all", f"after={'9' * 30}"):
        assert (await filled.admin.call("GET", f"{path}/examples?{wrong}"))[0] == 400


async def test_a_job_is_started_paused_and_cancelled(filled: Filled) -> None:
    trainer = await log_in(filled.server, "trainer")
    running = filled.learnt.running.id
    shown = await trainer.get(f"jobs/{running}")
    assert shown["series"] == ["held_out_loss", "loss"]
    assert shown["job"]["progress"]["tokens_per_second"] == 212.0
    assert (await trainer.post(f"jobs/{running}/pause"))["job"]["wanted"] == "pause"
    made = (await trainer.post("jobs/train", rows=50, name="spring"))["job"]
    assert (made["state"], made["settings"]) == ("queued", {"rows": 50, "name": "spring"})
    assert await trainer.refused("jobs/train", rows=50, name="spring") == (409, "conflict")
    assert (await trainer.post(f"jobs/{made['id']}/priority", priority=5))["job"]["priority"] == 5
    assert (await trainer.post(f"jobs/{made['id']}/cancel"))["job"]["state"] == "cancelled"
    assert await trainer.refused(f"jobs/{made['id']}/cancel") == (409, "conflict")
    for wrong in ({"rows": 0}, {"rows": "5"}, {"rows": True}, {"speed": 3}, {"name": "../x"}, {"priority": 1.5}):
        assert (await trainer.refused("jobs/train", **wrong))[0] == 400, wrong


async def test_a_version_refused_by_the_gate_needs_a_reason(filled: Filled) -> None:
    path = f"versions/{filled.learnt.challenger.name}"
    shown = await filled.admin.get(path)
    assert shown["evaluation"]["passed"] is False
    assert "answers" not in shown["evaluation"]["report"], "they are for those who judge them blind"
    at = shown["release"]["number"]
    assert await filled.admin.refused(path + "/promote", at=at) == (409, "refused_by_gate")
    release = (await filled.admin.post(path + "/promote", reason="It knows the new prices.", at=at))["release"]
    assert release["champion"]["name"] == filled.learnt.challenger.name
    assert release["canary"] is None
    number = release["number"]
    release = (await filled.admin.post("release/rollback", reason="Too many complaints.", at=number))["release"]
    assert release["champion"]["name"] == filled.learnt.champion.name
    actions = [action for _, action, _ in await audited(filled.admin)]
    assert actions[:2] == ["version.rolled_back", "version.promoted"]


async def test_a_verdict_beside_another_champion_needs_a_reason(filled: Filled) -> None:
    champion, challenger = filled.learnt.champion, filled.learnt.challenger
    await judged_beside_the_base(filled.server, filled.learnt)
    fault = {
        "kind": "judged_beside_another",
        "version": challenger.name,
        "champion": champion.name,
        "because": "",
        "needsReason": True,
    }
    found = await filled.admin.get("versions")
    assert [one["fault"] and one["fault"]["kind"] for one in found["versions"]] == [
        "retired",
        "judged_beside_another",
        "answers_already",
    ]
    assert found["rollback"] == {"to": None, "fault": None}
    path = f"versions/{challenger.name}"
    assert (await filled.admin.get(path))["fault"] == found["versions"][1]["fault"] == fault
    at = found["release"]["number"]
    for action, more in (("promote", {}), ("canary", {"share": 0.05})):
        status, refused = await filled.admin.call("POST", f"{path}/{action}", {"at": at, **more})
        assert (status, refused["error"]["code"]) == (409, "refused_by_gate")
        assert "--because" not in refused["error"]["message"]
        changed = await filled.admin.post(f"{path}/{action}", at=at, reason="the demo", **more)
        at = changed["release"]["number"]
        row = next(one for one in (await filled.admin.get("audit"))["rows"] if one["actor"] != "system")
        assert (row["details"]["fault"], row["details"]["why"]) == ("judged_beside_another", "the demo")
        if action == "promote":
            at = (await filled.admin.post("release/rollback", at=at, reason="too early"))["release"]["number"]


@pytest.mark.both_databases("what the pages show is joined, grouped and paged in SQL")
async def test_two_people_on_one_release_do_not_undo_each_other(filled: Filled) -> None:
    """When two people roll the same bad version back, it stays out."""
    name, other = filled.learnt.challenger.name, await log_in(filled.server, "admin", "other")
    seen = (await filled.admin.get("versions"))["release"]["number"]
    bad = (await filled.admin.post(f"versions/{name}/promote", reason="a try", at=seen))["release"]["number"]
    await filled.admin.post("release/rollback", reason="bad", at=bad)
    for path in ("release/rollback", "release/stop-canary", f"versions/{name}/promote"):
        assert await other.refused(path, reason="bad", at=bad) == (409, "conflict"), path
        assert await other.refused(path, reason="bad") == (400, "invalid_input"), path
    assert await other.refused(f"versions/{name}/canary", share=0.1, reason="x", at=bad) == (409, "conflict")
    assert (await other.get("versions"))["release"]["champion"]["name"] == filled.learnt.champion.name


@pytest.mark.both_databases("what the pages show is joined, grouped and paged in SQL")
async def test_the_newest_verdict_of_a_version_counts(filled: Filled) -> None:
    agent = filled.server.agent
    evaluation_id = await agent.database.write(
        evaluations.save,
        agent.workspace_id,
        filled.learnt.challenger.id,
        None,
        passed=True,
        reasons=["kept"],
        report={},
        created_by="shell:root",
    )
    assert [one["passed"] for one in (await filled.admin.get("versions"))["versions"]] == [None, True, True]
    listed = (await filled.admin.get("evaluations"))["evaluations"]
    assert [one["passed"] for one in listed] == [True, False, True]
    assert listed[0]["id"] == evaluation_id


@pytest.mark.both_databases("what the pages show is joined, grouped and paged in SQL")
async def test_the_examples_of_a_version_are_counted(filled: Filled) -> None:
    shown = await filled.admin.get(f"versions/{filled.learnt.challenger.name}")
    assert (shown["examples"], shown["conversations"]) == (2, 1)


async def test_a_canary_is_stopped_and_a_version_retired(filled: Filled) -> None:
    name = filled.learnt.challenger.name
    assert await filled.admin.refused(f"versions/{name}/retire", reason="bad") == (409, "conflict")
    at = (await filled.admin.get("versions"))["release"]["number"]
    stopped = (await filled.admin.post("release/stop-canary", reason="enough", at=at))["release"]
    assert stopped["canary"] is None
    at = stopped["number"]
    assert await filled.admin.refused("release/stop-canary", at=at) == (409, "conflict")
    for share in (0, 0.9, "0.1", True, None):
        assert (await filled.admin.refused(f"versions/{name}/canary", share=share, reason="x", at=at))[0] == 400
    begun = await filled.admin.post(f"versions/{name}/canary", share=0.05, reason="a look", at=at)
    assert begun["release"]["challenger"]["name"] == name
    await filled.admin.post("release/stop-canary", at=begun["release"]["number"])
    assert await filled.admin.refused(f"versions/{name}/retire", reason=" ") == (400, "invalid_input")
    assert (await filled.admin.post(f"versions/{name}/retire", reason="worse"))["version"]["retiredBecause"] == "worse"
    listed = await filled.admin.get("versions")
    assert [one["passed"] for one in listed["versions"]] == [None, False, True]
    assert {one["outcome"] for one in listed["canaries"]} == {"rolled_back"}


async def test_answers_are_judged_blind(filled: Filled) -> None:
    agent = await log_in(filled.server, "agent")
    path = f"evaluations/{filled.learnt.evaluation_id}"
    pair = (await agent.get(path + "/pair"))["pair"]
    assert {pair["left"], pair["right"]} == {f"Answer {pair['number']}.", f"Better answer {pair['number']}."}
    choice = "left" if pair["left"].startswith("Better") else "right"
    second = (await agent.post(path + "/judgements", number=pair["number"], choice=choice))["pair"]
    assert await agent.refused(path + "/judgements", number=pair["number"], choice="same") == (409, "conflict")
    assert (await agent.refused(path + "/judgements", number=second["number"], choice="both"))[0] == 400
    assert (await agent.post(path + "/judgements", number=second["number"], choice="same"))["pair"] is None
    listed = (await agent.get("evaluations"))["evaluations"]
    tally = next(one["judgements"] for one in listed if one["id"] == filled.learnt.evaluation_id)
    assert tally == {"candidate": 1, "champion": 0, "same": 1}


@pytest.mark.both_databases("what the pages show is joined, grouped and paged in SQL")
async def test_a_person_is_found_and_erased(filled: Filled) -> None:
    who = filled.learnt.person
    found = await filled.admin.get(f"people?who={who}")
    assert found["own"] + found["shared"] >= 1
    assert filled.learnt.champion.name in found["versions"]
    assert (await filled.admin.refused("people/erase", person=who, typed="somebody else"))[0] == 400
    assert (await filled.admin.get(f"people?who={who}"))["personId"] == who
    erased = (await filled.admin.post("people/erase", person=who, typed=who))["erased"]
    assert filled.learnt.champion.name in erased["proof"]["versions"]
    assert (await filled.admin.call("GET", f"people?who={who}"))[0] == 404
    assert (await filled.admin.call("GET", "people?who="))[0] == 400


@pytest.mark.parametrize("format", ["svg", "png"])
async def test_a_chart_is_drawn_once_for_each_browser(on_sqlite: Filled, format: str) -> None:
    learnt, admin = on_sqlite.learnt, on_sqlite.admin
    start = b"<?xml" if format == "svg" else b"\x89PNG"
    (trial,) = (await admin.get("versions"))["canaries"]
    of_trial = f"canaries/{trial['id']}/latency"
    for path in (f"jobs/{learnt.running.id}", f"evaluations/{learnt.evaluation_id}", "votes", of_trial):
        status, headers, body = await picture(admin, f"{path}/chart?format={format}")
        assert (status, body[: len(start)]) == (200, start)
        assert headers["Cache-Control"] == "private, no-cache"
        again = await picture(admin, f"{path}/chart?format={format}", {"If-None-Match": headers["ETag"]})
        assert (again[0], again[2]) == (304, b"")
    assert (await admin.call("GET", "votes/chart?format=exe"))[0] == 400
    assert (await admin.call("GET", "evaluations/nothing/chart"))[0] == 404
    assert (await admin.call("GET", f"canaries/{trial['id']}/nothing/chart"))[0] == 404
    assert (await admin.call("GET", "canaries/nothing/latency/chart"))[0] == 404


async def test_a_version_has_a_model_card(on_sqlite: Filled) -> None:
    challenger, retired = on_sqlite.learnt.challenger, on_sqlite.learnt.retired
    card = await on_sqlite.admin.get(f"versions/{challenger.name}")
    assert card["card"].startswith(f"# {challenger.name}\n")
    assert "General loss rose by 0.4 % (at most 5 %): refused" in card["card"]
    assert "<table>" in card["cardHtml"]
    assert "not been evaluated" in (await on_sqlite.admin.get(f"versions/{retired.name}"))["card"]


async def test_one_audit_log_verification_runs_at_a_time(on_sqlite: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slowly(tx: Transaction) -> int | None:
        begun.set()
        go_on.wait(10)
        return first_broken(tx)

    first_broken = audit.first_broken
    monkeypatch.setattr(audit, "first_broken", slowly)
    first = asyncio.create_task(on_sqlite.admin.post("audit/verify"))
    await asyncio.to_thread(begun.wait, 10)
    assert await on_sqlite.admin.refused("audit/verify") == (409, "conflict")
    go_on.set()
    assert (await first) == {"firstBroken": None}
    assert (await on_sqlite.admin.post("audit/verify")) == {"firstBroken": None}


async def test_keys_of_data_stay_in_snake_case(on_sqlite: Filled) -> None:
    card = await on_sqlite.admin.get(f"versions/{on_sqlite.learnt.challenger.name}")
    assert "question_gain" in card["evaluation"]["report"]["suites"]["held_out"]["measures"]
    assert card["version"]["settings"]["learning_rate"] == 0.0002
    listed = (await on_sqlite.admin.get("datasets"))["datasets"]
    assert listed[0]["counts"]["answer_chars"] == {"64": 3, "256": 0, "longer": 0}


async def picture(
    somebody: Steerer, path: str, headers: dict[str, str] | None = None
) -> tuple[int, Mapping[str, str], bytes]:
    sent = {"Cookie": f"myna_admin={somebody.secret}", **(headers or {})}
    async with somebody.server.session.get(f"{somebody.server.url}/admin/api/{path}", headers=sent) as response:
        return response.status, response.headers, await response.read()
