"""Steering lines: effects, roles and confirmations, in the class itself, on the console and on the chat page."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from adapters.cli.wiring import Agent
from bot.access.roles import Actor
from bot.errors import Conflict
from bot.learning.versions import Versions
from bot.steering.steering import Answer, Steering
from storage import audit, jobs
from storage.scope import Scope
from tests.builders.learning import Learnt, fill_learning
from tests.builders.logins import ROOT, log_in
from tests.builders.terminals import at_terminal
from tests.builders.versions import make_version, two_beside_the_base
from tests.builders.web import OTHER_SHOP, WebServer, chat_body, parts_of, text_in

ADA, BOB, EVE = Actor("web:ada", "admin"), Actor("web:bob", "trainer"), Actor("web:eve", "viewer")


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def sqlite_agent(sqlite_server: WebServer) -> AsyncIterator[Agent]:
    yield sqlite_server.agent


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def steering(sqlite_agent: Agent, clock: Clock) -> Steering:
    return Steering(Scope(sqlite_agent.database, sqlite_agent.workspace_id), sqlite_agent.releases, "a secret", clock)


async def confirmed(steering: Steering, actor: Actor, text: str) -> Answer:
    asked = await steering.run(actor, text)
    assert asked.confirm is not None, asked.text
    return await steering.run(actor, asked.confirm)


async def champion(agent: Agent) -> str | None:
    released = await agent.releases.current()
    return released.champion.name if released.champion else None


# --- changes of the release ---


async def test_a_promotion_is_confirmed_and_then_done_once(sqlite_agent: Agent, steering: Steering) -> None:
    version = await make_version(sqlite_agent, 1)
    asked = await steering.run(ADA, "promote 1 because it is better")
    assert f"`{version.name}` (passed the gate) will answer everybody" in asked.text
    assert "in place of `base`" in asked.text
    assert f"/myna promote {version.name} because it is better confirm " in asked.whole_text
    assert await champion(sqlite_agent) is None, "nothing is done before it is confirmed"
    assert asked.confirm is not None
    done = await steering.run(ADA, asked.confirm)
    assert done.text == f"`{version.name}` answers everybody from the next reply on."
    assert await champion(sqlite_agent) == version.name
    again = await steering.run(ADA, asked.confirm)
    assert "can't be confirmed" in again.text
    (row,) = await sqlite_agent.database.read(audit.page, sqlite_agent.workspace_id)
    assert (row.actor, row.action, row.details["why"]) == ("web:ada", "version.promoted", "it is better")


async def test_a_code_holds_for_one_person_one_line_and_five_minutes(
    sqlite_agent: Agent, steering: Steering, clock: Clock
) -> None:
    first = await make_version(sqlite_agent, 1)
    second = await make_version(sqlite_agent, 2, beside=first)
    asked = await steering.run(ADA, f"promote {first.name}")
    assert asked.confirm is not None
    other_line = asked.confirm.replace(first.name, second.name)
    refused = [await steering.run(Actor("web:cyd", "admin"), asked.confirm), await steering.run(ADA, other_line)]
    clock.now += 331
    refused.append(await steering.run(ADA, asked.confirm))
    clock.now -= 331
    refused.append(
        await Steering(Scope(sqlite_agent.database, sqlite_agent.workspace_id), sqlite_agent.releases, "another").run(
            ADA, asked.confirm
        )
    )
    assert ["can't be confirmed" in one.text for one in refused] == [True] * 4
    assert await champion(sqlite_agent) is None
    clock.now += 299
    await steering.run(ADA, asked.confirm)
    assert await champion(sqlite_agent) == first.name


async def test_a_code_expires_when_the_release_changes(sqlite_agent: Agent, steering: Steering) -> None:
    first = await make_version(sqlite_agent, 1)
    second = await make_version(sqlite_agent, 2, beside=first)
    await sqlite_agent.releases.promote(ADA, first.name)
    asked = await steering.run(ADA, "rollback")
    assert "`base` will answer everybody" in asked.text
    await sqlite_agent.releases.promote(ADA, second.name)
    assert asked.confirm is not None
    assert "the release has changed" in (await steering.run(ADA, asked.confirm)).text
    assert await champion(sqlite_agent) == second.name


async def test_a_change_applies_only_to_the_release_it_was_planned_on(sqlite_agent: Agent) -> None:
    first = await make_version(sqlite_agent, 1)
    second = await make_version(sqlite_agent, 2, beside=first)
    number = (await sqlite_agent.releases.promote(ADA, first.name)).number
    for change in (
        sqlite_agent.releases.rollback(ADA, "", at=number - 1),
        sqlite_agent.releases.promote(ADA, second.name, at=number - 1),
        sqlite_agent.releases.start_canary(ADA, second.name, 0.1, at=number + 1),
    ):
        with pytest.raises(Conflict, match="has changed since"):
            await change
    assert (await sqlite_agent.releases.promote(ADA, second.name, at=number)).number == number + 1


async def test_a_canary_and_a_rollback_by_lines(sqlite_agent: Agent, steering: Steering) -> None:
    first = await make_version(sqlite_agent, 1)
    second = await make_version(sqlite_agent, 2, beside=first)
    await confirmed(steering, ADA, "promote 1")
    tried = await confirmed(steering, ADA, "canary 2 20%")
    assert f"`{second.name}` answers 20% of the conversations" in tried.text
    released = await sqlite_agent.releases.current()
    assert released.canary is not None
    assert released.canary.share == 0.2
    asked = await steering.run(BOB, "rollback because slow")
    assert f"The canary of `{second.name}` ends." in asked.text
    stopped = await steering.run(BOB, "canary stop")
    assert stopped.text == f"The canary has ended: `{first.name}` answers everybody."
    await confirmed(steering, BOB, "rollback because slow")
    assert await champion(sqlite_agent) is None


async def test_a_version_refused_by_the_gate_needs_a_reason(sqlite_agent: Agent, steering: Steering) -> None:
    version = await make_version(sqlite_agent, 1, passed=False)
    for line in ("promote 1", "canary 1 10%"):
        refused = await steering.run(ADA, line)
        assert "did not pass the gate" in refused.text
        assert refused.confirm is None
    await confirmed(steering, ADA, "promote 1 because the demo is at noon")
    assert await champion(sqlite_agent) == version.name


@pytest.mark.parametrize(("line", "does"), [("promote 2", "answers everybody"), ("canary 2 10%", "answers 10% of")])
async def test_a_verdict_beside_another_champion_is_refused_before_confirming(
    sqlite_agent: Agent, steering: Steering, line: str, does: str
) -> None:
    first, second = await two_beside_the_base(sqlite_agent)
    refused = await steering.run(ADA, line)
    assert (refused.is_refusal, refused.confirm) == (True, None)
    assert refused.text == (
        f"`{second.name}`: passed the gate beside another champion than `{first.name}`, which answers now. "
        f"`/myna evaluate {second.name}` judges it. "
        "`because ...` at the end of the line overrides that, and is recorded."
    )
    chinese = await steering.run(ADA, line, "zh-CN")
    assert f"`/myna evaluate {second.name}` 可评估它" in chinese.text
    assert f"对手不是当前回答的 `{first.name}`" in chinese.text
    listed = (await steering.run(EVE, "versions")).text.splitlines()
    assert f"passed the gate beside another champion than `{first.name}`" in listed[0]
    asked = await steering.run(ADA, f"{line} because of the demo")
    assert f"`{second.name}` (passed the gate beside another champion than `{first.name}`" in asked.text
    assert asked.confirm is not None
    done = await steering.run(ADA, asked.confirm)
    assert (done.is_refusal, does in done.text) == (False, True)
    (row, *_) = await sqlite_agent.database.read(audit.page, sqlite_agent.workspace_id)
    told = {name: row.details[name] for name in ("gate", "fault", "why")}
    assert told == {"gate": "overridden", "fault": "judged_beside_another", "why": "of the demo"}


async def test_a_second_rollback_goes_one_version_further_back(sqlite_agent: Agent, steering: Steering) -> None:
    first, second = await two_beside_the_base(sqlite_agent)
    await sqlite_agent.releases.promote(ADA, second.name, override_reason="a demo")
    for went_to, came_from in ((first.name, second.name), ("base", first.name)):
        asked = await steering.run(BOB, "rollback")
        assert f"`{went_to}` will answer everybody from the next reply on, in place of `{came_from}`" in asked.text
        assert f"Rolled back: `{went_to}`" in (await steering.run(BOB, asked.confirm or "")).text
    refused = await steering.run(BOB, "rollback")
    assert (refused.is_refusal, "nothing to roll back to" in refused.text) == (True, True)


@pytest.mark.parametrize(
    ("actor", "line", "needed"),
    [
        (EVE, "train 200", "trainer"),
        (EVE, "stop", None),
        (EVE, "evaluate 1", "trainer"),
        (EVE, "rollback", "trainer"),
        (EVE, "canary stop", "trainer"),
        (BOB, "promote 1", "admin"),
        (BOB, "canary 1", "admin"),
    ],
)
async def test_lines_need_their_roles(
    sqlite_agent: Agent, steering: Steering, actor: Actor, line: str, needed: str | None
) -> None:
    await make_version(sqlite_agent, 1)
    answer = await steering.run(actor, line)
    assert answer.text == (
        f"This needs the role {needed}; yours is {actor.role}." if needed else "No job waits or runs."
    )
    assert answer.confirm is None
    assert (await sqlite_agent.releases.current()).number == 0
    assert not [
        one
        for one in await sqlite_agent.database.read(jobs.list_jobs, sqlite_agent.workspace_id)
        if one.state == "queued"
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("promote bot-v9", "There is no version"),
        ("canary 1 70%", "at most 50 %"),
        ("promote base", "`base` answers already"),
        ("evaluate nothing", "There is no version"),
        ("stop 0000", "There is no job"),
        ("/myna dance", "- `/myna rollback"),
        ("/myna", "promote VERSION"),
        ("/myna help", "promote VERSION"),
        ("train 0", "between 1 and"),
        ("rollback", "no version before it"),
        ("canary stop", "no canary"),
        ("compare", "has no figures"),
    ],
)
async def test_an_impossible_line_is_answered_with_the_reason(
    sqlite_agent: Agent, steering: Steering, line: str, said: str
) -> None:
    await make_version(sqlite_agent, 1)
    answer = await steering.run(ADA, line)
    assert said in answer.text
    assert (await sqlite_agent.releases.current()).number == 0


async def test_a_rollback_to_a_retired_version_is_refused(sqlite_agent: Agent, steering: Steering) -> None:
    first = await make_version(sqlite_agent, 1)
    for one in (first, await make_version(sqlite_agent, 2, beside=first)):
        await sqlite_agent.releases.promote(ADA, one.name)
    await Versions(Scope(sqlite_agent.database, sqlite_agent.workspace_id)).retire(ADA, "1", "it was rude")
    refused = await steering.run(ADA, "rollback because they call for help")
    assert "was retired: it was rude" in refused.text
    assert refused.confirm is None


# --- jobs, and lines that change nothing ---


async def test_a_training_is_begun_and_stopped(sqlite_agent: Agent, steering: Steering) -> None:
    begun = await steering.run(BOB, "train 200 --search 3")
    assert begun.job_id is not None
    job = await sqlite_agent.database.read(jobs.get, sqlite_agent.workspace_id, begun.job_id)
    assert job is not None
    assert (job.kind, job.settings, job.created_by) == ("train", {"rows": 200, "search": 3}, "web:bob")
    assert "is the same" in (await steering.run(BOB, "train 200 --search 3")).text
    told = []
    async for text, _ in steering.follow(BOB, begun.job_id):
        told.append(text)
        if len(told) == 1:
            await confirmed(steering, BOB, "stop")
    assert told[-1].endswith("was cancelled")


async def test_a_job_ends_only_with_the_askers_own_code(sqlite_agent: Agent, steering: Steering, clock: Clock) -> None:
    begun = await steering.run(BOB, "train 200")
    asked = await steering.run(BOB, "stop")
    assert "(training) will be ended for good" in asked.text
    assert asked.confirm is not None
    other = await steering.run(BOB, "train 300")
    refused = [
        await steering.run(EVE, "stop"),
        await steering.run(ADA, asked.confirm),
        await steering.run(BOB, f"stop {other.job_id} confirm {asked.confirm[-6:]}"),
    ]
    clock.now += 331
    refused.append(await steering.run(BOB, asked.confirm))
    clock.now -= 331
    states = {one.id: one.state for one in await sqlite_agent.database.read(jobs.list_jobs, sqlite_agent.workspace_id)}
    assert [one.is_refusal for one in refused[1:]] == [True] * 3
    assert set(states.values()) == {"queued"}, "asking to confirm ends nothing"
    done = await steering.run(BOB, asked.confirm)
    assert (done.is_refusal, "was cancelled" in done.text) == (False, True)
    again = await steering.run(BOB, asked.confirm)
    assert (again.is_refusal, "can't be cancelled" in again.text) == (True, True)
    states = {one.id: one.state for one in await sqlite_agent.database.read(jobs.list_jobs, sqlite_agent.workspace_id)}
    assert (states[begun.job_id or ""], states[other.job_id or ""]) == ("cancelled", "queued")


async def test_with_several_jobs_stop_needs_a_name(steering: Steering) -> None:
    await steering.run(BOB, "train 200")
    await steering.run(BOB, "train 300")
    assert "Name the job" in (await steering.run(BOB, "stop")).text


async def test_evaluate_queues_a_job(sqlite_agent: Agent, steering: Steering) -> None:
    version = await make_version(sqlite_agent, 1)
    begun = await steering.run(BOB, "evaluate 1")
    job = await sqlite_agent.database.read(jobs.get, sqlite_agent.workspace_id, begun.job_id or "")
    assert job is not None
    assert (job.kind, job.settings) == ("evaluate", {"version": version.name})


@pytest.fixture
async def learnt(sqlite_server: WebServer) -> Learnt:
    return await fill_learning(sqlite_server)


async def test_status_shows_release_canary_and_job(learnt: Learnt, steering: Steering) -> None:
    answer = await steering.run(EVE, "status")
    assert f"- Answers: `{learnt.champion.name}`" in answer.text
    assert "on 20% of the conversations" in answer.text
    assert "step 40/90 · 212 tokens/s · loss 1.520 · 2:34 left" in answer.text
    assert answer.picture is not None
    assert (await answer.picture.png()).startswith(b"\x89PNG")
    chinese = await steering.run(EVE, "status", "zh-CN")
    assert "当前回答" in chinese.text


async def test_compare_shows_a_table_reasons_and_a_picture(learnt: Learnt, steering: Steering) -> None:
    answer = await steering.run(EVE, "compare")
    lines = answer.text.splitlines()
    (header,) = [one for one in lines if "bot-v1" in one and "bot-v2" in one and "smollm2" in one]
    (loss,) = [one for one in lines if one.startswith("held_out: Loss per token")]
    assert len(loss) == len(header), "columns are aligned"
    assert any(one.startswith("- Held-out loss") for one in lines)
    assert answer.picture is not None
    assert "bot-v2" in answer.picture.alt
    assert (await answer.picture.png()).startswith(b"\x89PNG")


async def test_versions_are_listed_with_their_roles(learnt: Learnt, steering: Steering) -> None:
    lines = (await steering.run(EVE, "versions")).text.splitlines()
    assert [("champion" in one, "challenger" in one, "retired" in one) for one in lines] == [
        (False, False, True),
        (False, True, False),
        (True, False, False),
    ]


# --- the console ---


async def test_the_operator_steers_from_the_console(sqlite_agent: Agent) -> None:
    version = await make_version(sqlite_agent, 1)
    async with at_terminal(sqlite_agent) as terminal:
        terminal.type("/versions\n")
        await terminal.shows(version.name)
        terminal.type("/myna promote 1\n")
        await terminal.shows("Type yes")
        terminal.type("no\n")
        await terminal.shows("Nothing was changed.")
        assert await champion(sqlite_agent) is None
        terminal.type("/promote 1\n")
        await terminal.shows("Type yes")
        terminal.type("yes\n")
        await terminal.shows("answers everybody")
        terminal.type("yes\n")
        await terminal.shows("yes\n> ")
    assert await champion(sqlite_agent) == version.name
    rows = await sqlite_agent.database.read(audit.page, sqlite_agent.workspace_id)
    assert rows[0].actor == "shell:root"
    prompts = sqlite_agent.generator.prompts  # type: ignore[attr-defined]
    assert [one.messages[-1].content for one in prompts] == ["yes"], "the model never sees a line"


async def test_the_console_shows_what_the_gate_refuses(agent: Agent) -> None:
    first, second = await two_beside_the_base(agent)
    async with at_terminal(agent) as terminal:
        terminal.type("/promote 2\n")
        await terminal.shows(f"beside another champion than `{first.name}`")
        terminal.type("/promote 2 because of the demo\n")
        await terminal.shows("Type yes")
        terminal.type("yes\n")
        await terminal.shows("answers everybody")
    assert await champion(agent) == second.name


# --- the chat page ---


async def test_the_chat_page_shows_what_the_gate_refuses(sqlite_server: WebServer, sqlite_agent: Agent) -> None:
    first, second = await two_beside_the_base(sqlite_agent)
    somebody, visitor = await log_in(sqlite_server), await sqlite_server.visitor()
    visitor.headers |= {"Cookie": f"myna_admin={somebody.secret}", "Origin": sqlite_server.url}
    refused = text_in(await visitor.ask("/myna promote 2"))
    assert f"beside another champion than `{first.name}`" in refused
    assert "confirm" not in refused
    asked = text_in(await visitor.ask("/myna promote 2 because of the demo", id="m2"))
    line = asked[asked.index("/myna promote") :].rstrip("`")
    assert "answers everybody" in text_in(await visitor.ask(line, id="m3"))
    assert await champion(sqlite_agent) == second.name


async def test_a_logged_in_admin_steers_from_the_chat_page(sqlite_server: WebServer, sqlite_agent: Agent) -> None:
    version = await make_version(sqlite_agent, 1)
    somebody, visitor = await log_in(sqlite_server), await sqlite_server.visitor()
    visitor.headers |= {"Cookie": f"myna_admin={somebody.secret}", "Origin": sqlite_server.url}
    async with visitor.chat(chat_body("/myna promote 1"), html=True) as response:
        assert response.headers["X-Myna-Notice"] == "1"
        asked = text_in(parts_of(await response.text()))
    line = asked[asked.index("/myna promote") :].rstrip("`")
    assert "answers everybody" in text_in(await visitor.ask(line, id="m2"))
    assert await champion(sqlite_agent) == version.name
    async with visitor.get("/api/chat/c1") as response:
        assert response.status == 404, "lines are not stored"
    again = {**chat_body("/myna status", id="m3"), "trigger": "regenerate-message"}
    assert "Answers" in text_in(await visitor.send(again))
    await visitor.ask("hello", id="m4")
    assert await visitor.history() == [("user", "hello"), ("assistant", "hello")]
    assert [one.messages[-1].content for one in sqlite_server.generator.prompts] == ["hello"]


@pytest.mark.parametrize("who", ["no login", "another site", "a wrong login", "no origin"])
async def test_a_line_without_a_valid_login_does_nothing(
    sqlite_server: WebServer, sqlite_agent: Agent, who: str
) -> None:
    await make_version(sqlite_agent, 1)
    somebody = await log_in(sqlite_server)
    origin = OTHER_SHOP if who == "another site" else None if who == "no origin" else sqlite_server.url
    visitor = await sqlite_server.visitor(origin)
    secret = {"no login": "", "a wrong login": "x" * 43}.get(who, somebody.secret)
    visitor.headers |= {"Cookie": f"myna_admin={secret}"} | ({"Origin": origin} if origin else {})
    async with visitor.chat(chat_body("/myna promote 1 because the shop must not know")) as response:
        assert response.headers["X-Myna-Notice"] == "1"
        if who == "another site":
            assert "X-Myna-Notice" in response.headers["Access-Control-Expose-Headers"]
        assert "not logged in" in text_in(parts_of(await response.text()))
    assert await champion(sqlite_agent) is None
    assert text_in(await visitor.ask("/myna is a bird, is it not?", id="m2")) == "/myna is a bird, is it not?"
    assert [one.messages[-1].content for one in sqlite_server.generator.prompts] == ["/myna is a bird, is it not?"]
    assert len(await visitor.history()) == 2


async def test_a_disabled_account_can_not_steer(sqlite_server: WebServer, sqlite_agent: Agent) -> None:
    somebody, visitor = await log_in(sqlite_server, "trainer"), await sqlite_server.visitor()
    visitor.headers |= {"Cookie": f"myna_admin={somebody.secret}", "Origin": sqlite_server.url}
    assert "role admin" in text_in(await visitor.ask("/myna promote base"))
    await sqlite_agent.accounts.set_disabled(ROOT, "trainer", disabled=True)
    assert "not logged in" in text_in(await visitor.ask("/myna status", id="m2"))
