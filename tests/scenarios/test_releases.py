"""Releases on the real message path: promotion, rollback and canaries, under load and in several processes.

A scripted generator loads the versions.
"""

from __future__ import annotations

import asyncio
import dataclasses

import pytest
import sqlalchemy as sa

from adapters.cli.wiring import Agent
from bot.access.roles import Actor
from bot.chat.feedback import Feedback
from bot.errors import Conflict, Fault, InvalidInput, NotAllowed, NotFound, RefusedByGate
from bot.learning.release import canary_watch
from bot.learning.release.canary_harm import Counts, is_challengers
from bot.learning.release.plan import Promote, RollBack, StartCanary, StopCanary
from bot.learning.versions import Versions
from bot.steering.line_answers import status_text
from bot.steering.needs_attention import needs_attention
from storage import audit, releases, versions
from storage.schema import message
from storage.transaction import Transaction, now_ms, scoped
from storage.values import Sender, new_id
from tests.builders.agents import StartAgent
from tests.builders.versions import add_evaluation, ask, make_version, replies, two_beside_the_base, weights_of
from tests.builders.waiting import until
from tests.conftest import new_postgres_database
from tests.fakes.generator import FakeGenerator

pytestmark = pytest.mark.both_databases("one champion, two who decide")

ADMIN = Actor("shell:root", "admin")
INSERT_MESSAGE = scoped(sa.insert(message).values(created_at=now_ms()))


async def answered_by(agent: Agent, chat: str, number: int = 1) -> str | None:
    return (await replies(agent, await ask(agent, chat, number)))[-1][0]


async def test_a_promotion_or_rollback_takes_effect_with_the_next_reply(agent: Agent) -> None:
    first = await make_version(agent, 1)
    second = await make_version(agent, 2, beside=first)
    assert await answered_by(agent, "a", 1) is None
    await agent.releases.promote(ADMIN, first.name)
    assert await answered_by(agent, "a", 2) == first.name
    await agent.releases.promote(ADMIN, "2")
    assert await answered_by(agent, "a", 3) == second.name
    await agent.releases.rollback(ADMIN, "worse")
    assert await answered_by(agent, "a", 4) == first.name
    await agent.releases.promote(ADMIN, "base")
    assert await answered_by(agent, "a", 5) is None
    after = await agent.releases.rollback(ADMIN, "better than the base")
    assert after.champion is not None
    assert (after.number, after.champion.name, after.previous) == (5, first.name, None)
    rows = await agent.database.read(audit.page, agent.workspace_id)
    assert [row.action for row in reversed(rows)] == [
        "version.promoted",
        "version.promoted",
        "version.rolled_back",
        "version.promoted",
        "version.rolled_back",
    ]


async def test_promoting_past_the_gate_needs_a_reason(agent: Agent) -> None:
    failed, unknown = await make_version(agent, 1, passed=False), await make_version(agent, 2, passed=None)
    for version in (failed, unknown):
        with pytest.raises(RefusedByGate):
            await agent.releases.promote(ADMIN, version.name)
        with pytest.raises(RefusedByGate):
            await agent.releases.start_canary(ADMIN, version.name, 0.2)
    assert await agent.releases.current() == await agent.database.read(releases.current, agent.workspace_id)
    assert (await agent.releases.current()).number == 0, "a refusal leaves nothing behind"
    await agent.releases.promote(ADMIN, failed.name, override_reason="the demo is at noon")
    (row,) = await agent.database.read(audit.page, agent.workspace_id)
    assert row.details == {
        "before": "base",
        "gate": "overridden",
        "fault": "did_not_pass",
        "why": "the demo is at noon",
    }


async def test_a_new_champion_makes_older_verdicts_invalid(agent: Agent) -> None:
    first, second = await make_version(agent, 1), await make_version(agent, 2)
    await agent.releases.promote(ADMIN, first.name)
    for change in (Promote(second.name), StartCanary(second.name, 0.2)):
        planned = await agent.releases.preview(change)
        assert planned.fault == Fault("judged_beside_another", second.name, champion=first.name)
        with pytest.raises(RefusedByGate, match=f"another champion than {first.name}") as refused:
            if isinstance(change, Promote):
                await agent.releases.promote(ADMIN, second.name)
            else:
                await agent.releases.start_canary(ADMIN, second.name, 0.2)
        assert refused.value.fault == planned.fault
        assert "myna" not in refused.value.message, "each channel says how to go on"
        assert "--" not in refused.value.message
    await agent.database.write(lambda tx: add_evaluation(tx, second.id, beside=first.id), agent.workspace_id)
    await agent.releases.promote(ADMIN, second.name)
    changed = await agent.releases.promote(ADMIN, first.name)
    assert changed.champion is not None
    assert changed.champion.name == first.name, "the previous champion needs no second judgement"


async def test_a_rollback_goes_back_and_never_forward(agent: Agent) -> None:
    first = await make_version(agent, 1)
    second = await make_version(agent, 2, beside=first)
    third = await make_version(agent, 3, passed=False)
    for name in (first.name, second.name):
        await agent.releases.promote(ADMIN, name)
    await agent.releases.promote(ADMIN, third.name, override_reason="the demo is at noon")
    came = []
    for _ in range(3):
        planned = await agent.releases.preview(RollBack())
        released = await agent.releases.rollback(ADMIN, "worse")
        assert (planned.after.champion, planned.after.previous) == (released.champion, released.previous)
        came.append((released.champion, released.previous))
    assert came == [(second, first), (first, None), (None, None)]
    with pytest.raises(Conflict, match="nothing to roll back to"):
        await agent.releases.rollback(ADMIN, "worse")


async def test_a_rolled_back_version_returns_only_through_the_gate(agent: Agent) -> None:
    first, second = await two_beside_the_base(agent)
    await agent.releases.promote(ADMIN, second.name, override_reason="the demo is at noon")
    await agent.releases.rollback(ADMIN, "it was rude")
    for again in (Promote(second.name), StartCanary(second.name, 0.1)):
        fault = (await agent.releases.preview(again)).fault
        assert fault == Fault("judged_beside_another", second.name, champion=first.name)
    with pytest.raises(RefusedByGate):
        await agent.releases.promote(ADMIN, second.name)
    await agent.database.write(lambda tx: add_evaluation(tx, second.id, beside=first.id), agent.workspace_id)
    assert (await agent.releases.promote(ADMIN, second.name)).champion == second


async def test_a_rollback_skips_a_harmful_version(agent: Agent) -> None:
    first = await make_version(agent, 1)
    second = await make_version(agent, 2, beside=first)
    for name in (first.name, second.name):
        await agent.releases.promote(ADMIN, name)
    started = await agent.releases.start_canary(ADMIN, first.name, 0.5)
    assert started.canary is not None
    assert started.previous == first
    await agent.releases.end_for_harm(started.canary.id, {"because": "more errors"})
    released = await agent.releases.current()
    assert (released.champion, released.previous) == (second, None)
    assert (await agent.releases.preview(Promote(first.name))).fault is not None, "and is no longer exempt"
    assert (await agent.releases.rollback(ADMIN, "worse, too")).champion is None


async def test_a_second_rollback_skips_a_retired_version(agent: Agent) -> None:
    made = [await make_version(agent, 1)]
    for number in (2, 3):
        made.append(await make_version(agent, number, beside=made[-1]))
    for version in made:
        await agent.releases.promote(ADMIN, version.name)
    await Versions(agent.scope).retire(ADMIN, made[0].name, "old")
    released = await agent.releases.rollback(ADMIN, "worse")
    assert (released.champion, released.previous) == (made[1], None), "the base instead of the retired version"


async def test_a_ready_canary_still_needs_the_gate(agent: Agent) -> None:
    first, second = await two_beside_the_base(agent)
    started = await agent.releases.start_canary(ADMIN, second.name, 0.5, override_reason="a look")
    judged = await canary_watch.look_at(agent.scope, started)
    assert judged is not None
    ready = dataclasses.replace(judged, verdict="ready", because="no harm seen")
    (note,) = await needs_attention(agent.scope, started, ready)
    assert "promoting it needs a reason" in note
    assert f"beside another champion than {first.name}" in note
    await agent.database.write(lambda tx: add_evaluation(tx, second.id, beside=first.id), agent.workspace_id)
    (note,) = await needs_attention(agent.scope, started, ready)
    assert note == f"{second.name} is ready to be promoted (no harm seen)."
    told = status_text(started, ready, [], [note], None)
    assert told.endswith(f"`/myna promote {second.name}`."), "the command in the channel's own form"
    await agent.database.write(lambda tx: versions.taint(tx, second.id), agent.workspace_id)
    (note,) = await needs_attention(agent.scope, started, ready)
    assert "it can't be promoted: " in note, "no reason overrides that"


@pytest.mark.parametrize("share", [0, -0.1, 0.5000001, 1, float("nan"), float("inf")])
async def test_a_forbidden_canary_share_is_refused(agent: Agent, share: float) -> None:
    version = await make_version(agent, 1)
    with pytest.raises(InvalidInput, match="at most 50 %"):
        await agent.releases.start_canary(ADMIN, version.name, share)
    assert (await agent.releases.current()).number == 0


async def test_a_preview_changes_nothing(agent: Agent) -> None:
    first, second = await two_beside_the_base(agent)
    await agent.releases.start_canary(ADMIN, second.name, 0.5, override_reason="a look")
    before = await agent.releases.current()
    planned = [
        await agent.releases.preview(change)
        for change in (Promote("base"), Promote(second.name), StartCanary(second.name, 0.2), RollBack(), StopCanary())
    ]
    assert [plan.ends_canary for plan in planned] == [second] * 5
    assert [plan.canary_ends_as for plan in planned] == [
        "replaced",
        "promoted",
        "replaced",
        "rolled_back",
        "rolled_back",
    ]
    assert [plan.after.champion for plan in planned] == [None, second, first, None, first]
    assert await agent.releases.current() == before


async def test_an_impossible_change_is_refused_with_the_reason(agent: Agent) -> None:
    version = await make_version(agent, 1)
    with pytest.raises(Conflict, match="nothing to roll back to"):
        await agent.releases.rollback(ADMIN, "")
    with pytest.raises(NotFound, match=version.name):
        await agent.releases.promote(ADMIN, "bot-v7")
    with pytest.raises(NotAllowed):
        await agent.releases.promote(Actor("web:ada", "trainer"), version.name)
    with pytest.raises(Conflict, match="no canary"):
        await agent.releases.stop_canary(ADMIN)
    await agent.releases.promote(ADMIN, version.name)
    with pytest.raises(Conflict, match="answers already"):
        await agent.releases.promote(ADMIN, version.name)
    known = Versions(agent.scope)
    with pytest.raises(Conflict, match="is the champion"):
        await known.retire(ADMIN, version.name, "old")
    await agent.releases.promote(ADMIN, "base")
    await known.retire(ADMIN, version.name, "old")
    with pytest.raises(Conflict, match="was retired: old"):
        await agent.releases.promote(ADMIN, version.name)
    with pytest.raises(Conflict, match="was retired: old"):
        await agent.releases.rollback(ADMIN, "")


async def test_a_canary_answers_its_share_and_keeps_its_conversations(agent: Agent) -> None:
    champion = await make_version(agent, 1)
    challenger = await make_version(agent, 2, beside=champion)
    await agent.releases.promote(ADMIN, champion.name)
    started = await agent.releases.start_canary(ADMIN, challenger.name, 0.5)
    assert started.canary is not None
    chats = [f"chat-{number}" for number in range(12)]
    ids = await asyncio.gather(*(ask(agent, chat, 1) for chat in chats))
    await asyncio.gather(*(ask(agent, chat, 2) for chat in chats))
    for one in ids:
        wanted = challenger if is_challengers(started.canary.salt, one, 0.5) else champion
        assert await replies(agent, one) == [(wanted.name, "answered")] * 2
    after = await agent.releases.stop_canary(ADMIN, "enough")
    assert (after.canary, after.challenger) == (None, None)
    assert {await answered_by(agent, chat, 3) for chat in chats} == {champion.name}
    (ended,) = await agent.database.read(releases.canaries, agent.workspace_id)
    assert ended.outcome == "rolled_back"


@pytest.mark.parametrize("damage", ["gone", "other weights", "no weights"])
async def test_an_unloadable_version_costs_no_message(agent: Agent, damage: str) -> None:
    good = await make_version(agent, 1)
    content = {"gone": b"", "other weights": weights_of(3), "no weights": b"x"}[damage]
    broken = await make_version(agent, 2, content=content, beside=good)
    if damage == "gone":
        file = agent.settings.data / "versions" / broken.name / "adapter_model.safetensors"
        await asyncio.to_thread(file.unlink)
    await agent.releases.promote(ADMIN, good.name)
    await agent.releases.promote(ADMIN, broken.name)
    assert await answered_by(agent, "a", 1) == good.name, "the version before it"
    assert await answered_by(agent, "b", 1) == good.name
    rows = await agent.database.read(audit.page, agent.workspace_id)
    assert [row.target for row in rows if row.action == "version.unusable"] == [broken.name]
    await agent.releases.promote(ADMIN, "base")
    await agent.releases.promote(ADMIN, broken.name)  # it answered before the base did, and so may come back
    assert await answered_by(agent, "c", 1) is None, "the base, where nothing else is left"


async def test_an_unreleased_version_is_unloaded_after_its_last_reply(agent: Agent) -> None:
    first = await make_version(agent, 1)
    second = await make_version(agent, 2, beside=first)
    third = await make_version(agent, 3, beside=second)
    for one in (first, second):
        await agent.releases.promote(ADMIN, one.name)
    await until(lambda: set(agent.generator.versions) == {first.name, second.name})
    with agent.released.held(first.name):
        await agent.releases.promote(ADMIN, third.name)
        await until(lambda: third.name in agent.generator.versions)
        assert first.name in agent.generator.versions
    agent.released.note_change()
    await until(lambda: set(agent.generator.versions) == {second.name, third.name})


async def test_promoting_under_load_loses_nothing(agent: Agent) -> None:
    first = await make_version(agent, 1)
    made = [first, await make_version(agent, 2, beside=first)]
    await agent.releases.promote(ADMIN, first.name)

    async def chat(name: str) -> str:
        for number in range(6):
            conversation_id = await ask(agent, name, number)
        return conversation_id

    talking = [asyncio.create_task(chat(f"chat-{number}")) for number in range(20)]
    for number in range(12):
        await asyncio.sleep(0.02)
        if number % 2:
            await agent.releases.rollback(ADMIN, "back")
        else:
            await agent.releases.promote(ADMIN, made[number // 2 % 2].name if number % 4 == 2 else made[1].name)
    ids = await asyncio.gather(*talking)
    given = [await replies(agent, one) for one in ids]
    assert [len(one) for one in given] == [6] * 20
    assert {state for one in given for _, state in one} == {"answered"}
    assert {version for one in given for version, _ in one} <= {made[0].name, made[1].name}


async def test_every_process_follows_a_change_with_its_next_reply(
    postgres: object, start_agent: StartAgent, migrated_postgres: str
) -> None:
    url = new_postgres_database(postgres, migrated_postgres)
    async with start_agent(url, FakeGenerator("fake")) as here, start_agent(url, FakeGenerator("fake")) as there:
        first = await make_version(here, 1)
        made = [first, await make_version(here, 2, beside=first)]
        # As no process chooses who claims a message, both take some of many; none may use what was before.
        for number in range(8):
            wanted = made[number % 2].name
            await here.releases.promote(ADMIN, wanted)
            ids = await asyncio.gather(
                *(ask(one, f"{name}-{number}-{i}") for name, one in (("h", here), ("t", there)) for i in range(4))
            )
            assert {(await replies(here, one))[-1] for one in ids} == {(wanted, "answered")}
        assert here.generator.asked_versions, "both have answered"  # type: ignore[attr-defined]
        assert there.generator.asked_versions  # type: ignore[attr-defined]


async def test_a_harmful_canary_is_rolled_back_automatically(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("bot.learning.release.canary_watch.LOOK_SECONDS", 0.05)
    monkeypatch.setattr("bot.learning.release.canary_watch.BUSY_SHARE", 0.5)
    challenger = await make_version(agent, 1)
    await agent.releases.start_canary(ADMIN, challenger.name, 0.5)
    feedback = Feedback(agent.scope)
    watching = asyncio.create_task(canary_watch.watch(agent.scope, agent.releases))
    for number in range(200):
        conversation_id = await ask(agent, f"chat-{number}")
        if (await replies(agent, conversation_id))[-1][0] == challenger.name:
            reply = await feedback.last_reply("web", conversation_id)
            await feedback.vote(reply, "web", Sender(f"visitor of chat-{number}"), -1)
        if (await agent.releases.current()).canary is None:
            break
    # On a busy machine all the chats may be over before the watch has looked again.
    async with asyncio.timeout(60):
        while (await agent.releases.current()).canary is not None:
            await asyncio.sleep(0.05)
    watching.cancel()
    (canary,) = await agent.database.read(releases.canaries, agent.workspace_id)
    assert canary.outcome == "harm"
    assert canary.report is not None
    assert canary.report["because"] == "more thumbs_down with the challenger"
    (newest, _) = await agent.database.read(audit.page, agent.workspace_id)
    assert (newest.actor, newest.action, newest.target) == ("canary", "canary.harm", challenger.name)
    assert "was rolled back: more thumbs_down" in caplog.text
    release = await agent.releases.current()
    (notice,) = await needs_attention(agent.scope, release, None)
    assert notice == "The last canary was rolled back automatically: more thumbs_down with the challenger."
    assert await answered_by(agent, "afterwards") is None


async def test_outcomes_are_counted_in_the_right_arm(agent: Agent) -> None:
    challenger = await make_version(agent, 1)
    started = await agent.releases.start_canary(ADMIN, challenger.name, 0.5)
    assert started.canary is not None
    conversation_id = await ask(agent, "handed off")
    await ask(agent, "all is well")

    def hand_off(tx: Transaction) -> None:
        tx.execute(
            INSERT_MESSAGE, id=new_id(), conversation_id=conversation_id, seq=1, rank=2, author="agent", parts=[]
        )

    await agent.database.write(hand_off, agent.workspace_id)
    judged = await canary_watch.look_at(agent.scope, started)
    assert judged is not None
    handed_off = judged.rails["hand_off"].counts
    its_arm = is_challengers(started.canary.salt, conversation_id, 0.5)
    assert (handed_off.challenger_bad, handed_off.champion_bad) == (int(its_arm), int(not its_arm))
    assert judged.rails["thumbs_down"].counts == Counts(), "a good outcome is known only after its window"
    assert "latency" not in judged.rails, "too few replies for a limit of latency"


async def test_a_program_can_ask_for_any_version_by_name(agent: Agent) -> None:
    version = await make_version(agent, 1)
    assert version.name not in agent.generator.versions
    await agent.released.load_asked("bot-v9-nobody")
    await agent.released.load_asked(version.name)
    assert agent.generator.versions == (version.name,)
    agent.released.note_change()
    await asyncio.sleep(0.1)
    assert agent.generator.versions == (version.name,), "it stays for later requests"
    await Versions(agent.scope).retire(ADMIN, version.name, "it is rude")
    agent.released.note_change()
    await until(lambda: not agent.generator.versions)
    await agent.released.load_asked(version.name)
    assert agent.generator.versions == (), "and what is retired is not loaded for anybody"
