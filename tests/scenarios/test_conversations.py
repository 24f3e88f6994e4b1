"""Turns from accept to reply, with a scripted model: order, leases, stops, edits, failures and restarts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa

from adapters.cli.wiring import Agent
from bot.errors import Conflict, GeneratorBusy, GeneratorFailed, ShuttingDown
from storage.schema import conversation_work, reply
from storage.values import Accepted, Incoming, Message, Sender, text_part
from tests.builders.agents import StartAgent, model_of, reply_to
from tests.builders.waiting import until
from tests.fakes.generator import FakeGenerator

pytestmark = pytest.mark.both_databases("leases of turns")

W = "default"


@dataclass
class Person:
    """Talks to an agent in one conversation."""

    agent: Agent
    conversation: str = "c"
    count: int = 0

    async def say(self, text: str, *, edits: str | None = None) -> Accepted:
        self.count += 1
        key = f"{self.conversation}:{self.count}"
        incoming = Incoming(
            "web", self.conversation, Sender("v"), key, (text_part(text),), f"m{self.count}", replaces=edits
        )
        return await self.agent.conversations.accept(W, incoming)

    async def ask(self, text: str) -> tuple[str, str]:
        """Say something and wait for `(state, reply)`."""
        return await reply_to(self.agent, await self.say(text))

    async def history(self) -> list[Message]:
        known = await self.agent.conversations.history.find(W, "web", self.conversation)
        return await self.agent.conversations.history.messages(W, known.id)


def users(agent: Agent, index: int = -1) -> str:
    """What the person had said, as the model saw it in its last prompt."""
    return model_of(agent).prompts[index].messages[-1].content


async def test_a_question_gets_its_answer_and_both_are_remembered(agent: Agent) -> None:
    model_of(agent).enqueue("It ", "is ", "on its way.")
    person = Person(agent)
    assert await person.ask("Where is my parcel?") == ("answered", "It is on its way.")
    await person.ask("Thanks")
    shown = [(one.role, one.content) for one in model_of(agent).prompts[-1].messages[1:]]
    assert shown == [("user", "Where is my parcel?"), ("assistant", "It is on its way."), ("user", "Thanks")]


async def test_a_reply_row_says_how_the_reply_came_to_be(agent: Agent) -> None:
    model_of(agent).enqueue("one ", "two")
    await Person(agent).ask("count")
    [row] = await agent.database.read(_replies, W)
    prompt = model_of(agent).prompts[0]
    assert (row.model, row.state, row.finish_reason) == ("fake", "answered", "stop")
    assert (row.prompt_sha256, row.prompt_tokens, row.completion_tokens) == (prompt.sha256, prompt.num_tokens, 2)
    assert 0 <= row.first_piece_ms <= row.total_ms


def _replies(tx: Any) -> list[Any]:
    return list(tx.connection.execute(sa.select(reply).order_by(reply.c.last_seq)))


async def test_messages_that_arrive_together_are_answered_as_one(agent: Agent) -> None:
    hold = asyncio.Event()
    model_of(agent).enqueue("", "first", hold=hold)
    person = Person(agent)
    first = await person.say("Hello")
    await until(lambda: model_of(agent).num_open == 1)
    second = await person.say("I have a question")
    assert await reply_to(agent, second) == await reply_to(agent, first)
    assert users(agent) == "Hello\n\nI have a question"
    assert [one.author for one in await person.history()] == ["person", "person", "bot"]


async def test_a_message_after_the_first_piece_gets_the_next_reply(agent: Agent) -> None:
    hold = asyncio.Event()
    model_of(agent).enqueue("Wait", " for it", hold=hold)
    person = Person(agent)
    first = await person.say("one")
    await until(lambda: any(turn.pieces for turn in agent.conversations._live.turns()))
    second = await person.say("two")
    hold.set()
    assert await reply_to(agent, first) == ("answered", "Wait for it")
    assert await reply_to(agent, second) == ("answered", "two")
    assert [one.text for one in await person.history()] == ["one", "Wait for it", "two", "two"]


async def test_a_thousand_messages_are_answered_once_and_in_order(agent: Agent) -> None:
    person = Person(agent)
    accepted = await asyncio.gather(*(person.say(f"message {number}") for number in range(300)))
    assert sorted(one.seq for one in accepted) == list(range(1, 301))
    await reply_to(agent, max(accepted, key=lambda one: one.seq))
    rows = await agent.database.read(_replies, W)
    covered = [seq for row in rows for seq in range(row.first_seq, row.last_seq + 1)]
    assert covered == list(range(1, 301))


async def test_many_conversations_are_answered_at_the_same_time(agent: Agent) -> None:
    hold = asyncio.Event()
    for _ in range(20):
        model_of(agent).enqueue("", "done", hold=hold)
    asked = [await Person(agent, f"c{number}").say("hi") for number in range(20)]
    await until(lambda: model_of(agent).num_open == 20)
    hold.set()
    assert [await reply_to(agent, one) for one in asked] == [("answered", "done")] * 20


async def test_a_conversation_never_has_two_replies_at_once(agent: Agent) -> None:
    person, most = Person(agent), 0
    asked = []
    for number in range(5):
        model_of(agent).enqueue(f"reply {number} ", "more", delay=0.01)
        asked.append(await person.say(f"message {number}"))
        for _ in range(5):
            await asyncio.sleep(0.003)
            most = max(most, model_of(agent).num_open)
    await reply_to(agent, asked[-1])
    assert most == 1


async def test_an_expired_lease_under_a_running_reply_leaves_one_reply(agent: Agent) -> None:
    """As after a laptop's sleep: the same process claims the conversation again and must not work against itself."""
    model_of(agent).enqueue("old ", "words", hold=asyncio.Event())
    accepted = await Person(agent).say("hi")
    await until(lambda: model_of(agent).num_open == 1)
    model_of(agent).enqueue("new")
    await agent.database.write(_run_out, None)
    assert await reply_to(agent, accepted) == ("answered", "new")
    await until(lambda: model_of(agent).num_open == 0)
    assert model_of(agent).aborted == 1
    assert len(await agent.database.read(_replies, None)) == 1


def _run_out(tx: Any) -> None:
    tx.connection.execute(sa.update(conversation_work).values(lease_until=1))


async def test_stop_keeps_what_was_written_and_marks_it(agent: Agent) -> None:
    model_of(agent).enqueue("Once upon ", "a time", hold=asyncio.Event())
    person = Person(agent)
    accepted = await person.say("tell me a story")
    await until(lambda: any(turn.pieces for turn in agent.conversations._live.turns()))
    [turn] = agent.conversations._live.turns()
    assert await agent.conversations.stop(W, accepted.conversation_id, turn.reply_id)
    assert await reply_to(agent, accepted) == ("stopped", "Once upon ")
    await until(lambda: model_of(agent).aborted == 1)
    assert (await person.history())[-1].reply_state == "stopped"


async def test_a_stop_before_the_first_word_leaves_an_empty_reply(agent: Agent) -> None:
    model_of(agent).enqueue("", "never", hold=asyncio.Event())
    accepted = await Person(agent).say("hello")
    await until(lambda: model_of(agent).num_open == 1)
    assert await agent.conversations.stop(W, accepted.conversation_id, None)
    assert await reply_to(agent, accepted) == ("stopped", "")


async def test_a_late_stop_leaves_the_next_turn_alone(agent: Agent) -> None:
    person = Person(agent)
    accepted = await person.say("one")
    await reply_to(agent, accepted)
    [old] = [one.id for one in await person.history() if one.author == "bot"]
    hold = asyncio.Event()
    model_of(agent).enqueue("two", hold=hold)
    following = await person.say("two")
    await until(lambda: model_of(agent).num_open == 1)
    assert not await agent.conversations.stop(W, accepted.conversation_id, old)
    hold.set()
    assert await reply_to(agent, following) == ("answered", "two")


async def test_an_edit_during_the_reply_restarts_it(agent: Agent) -> None:
    model_of(agent).enqueue("About boots", " ...", hold=asyncio.Event())
    person = Person(agent)
    await person.say("Tell me about boots")
    await until(lambda: any(turn.pieces for turn in agent.conversations._live.turns()))
    model_of(agent).enqueue("About tents")
    edited = await person.say("Tell me about tents", edits="m1")
    assert await reply_to(agent, edited) == ("answered", "About tents")
    assert users(agent) == "Tell me about tents"
    assert [one.text for one in await person.history()] == ["Tell me about tents", "About tents"]


async def test_a_reply_can_be_asked_for_again(agent: Agent) -> None:
    model_of(agent).enqueue("weak")
    person = Person(agent)
    await person.ask("question")
    known = await agent.conversations.history.find(W, "web", "c")
    reply_id = (await person.history())[-1].id
    model_of(agent).enqueue("better")
    again = await agent.conversations.regenerate(W, known, reply_id, "again")
    assert await reply_to(agent, again) == ("answered", "better")
    assert [one.text for one in await person.history()] == ["question", "better"]
    with pytest.raises(Conflict):
        await agent.conversations.regenerate(W, known, reply_id, "again, of the old one")


class ChokingGenerator(FakeGenerator):
    """Breaks on every prompt whose last message says poison."""

    async def stream(self, prompt: Any, sampling: Any, version: Any = None) -> AsyncGenerator[Any, None]:
        if "poison" in prompt.messages[-1].content:
            raise GeneratorFailed("boom")
        async for event in super().stream(prompt, sampling, version):
            yield event


async def test_a_poison_message_gets_an_apology_and_blocks_nothing(
    start_agent: StartAgent, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.chat.turns.FIRST_RETRY_SECONDS", 0.01)
    async with start_agent(database_url, ChokingGenerator()) as agent:
        poisoned = Person(agent)
        accepted = await poisoned.say("poison")
        assert await Person(agent, "other").ask("hello") == ("answered", "hello")
        state, text = await reply_to(agent, accepted)
        assert (state, "could not answer" in text) == ("failed", True)
        assert await poisoned.ask("are you there?") == ("answered", "are you there?")
        seen = [one.content for one in model_of(agent).prompts[-1].messages]
        assert not any("could not answer" in one for one in seen), "an apology is not shown to the model"


async def test_after_two_failures_a_burst_is_answered_one_by_one(agent: Agent) -> None:
    hold = asyncio.Event()
    model_of(agent).enqueue("", error=GeneratorFailed("boom"), hold=hold)
    person = Person(agent)
    first = await person.say("good")
    await until(lambda: model_of(agent).num_open == 1)
    model_of(agent).enqueue("", error=GeneratorFailed("boom"))
    model_of(agent).enqueue("", error=GeneratorFailed("boom"))
    second = await person.say("bad")
    hold.set()
    assert (await reply_to(agent, first))[0] == "answered"
    assert (await reply_to(agent, second))[0] == "answered"
    assert [one.text for one in await person.history()] == ["good", "good", "bad", "bad"]


async def test_a_busy_model_counts_no_failed_attempt(agent: Agent) -> None:
    for _ in range(8):
        model_of(agent).enqueue("", error=GeneratorBusy(retry_after=0.01))
    assert await Person(agent).ask("hello") == ("answered", "hello")


async def test_a_message_longer_than_the_window_is_refused(agent: Agent) -> None:
    person = Person(agent)
    state, text = await person.ask("word " * 3000)
    assert (state, "too long" in text) == ("refused", True)
    assert await person.ask("short") == ("answered", "short")


async def test_a_burst_too_long_for_a_prompt_is_answered_in_parts(start_agent: StartAgent, sqlite_url: str) -> None:
    generator = FakeGenerator(context_tokens=400)
    async with start_agent(sqlite_url, generator, context_tokens=400, max_reply_tokens=100) as agent:
        hold = asyncio.Event()
        generator.enqueue("", "x", hold=hold)
        person = Person(agent)
        await person.say("begin")
        await until(lambda: generator.num_open == 1)
        asked = [await person.say(f"{number} " + "word " * 150) for number in range(4)]
        hold.set()
        assert (await reply_to(agent, asked[-1]))[0] == "answered"
        rows = await agent.database.read(_replies, W)
        assert len(rows) > 1
        assert rows[-1].last_seq == 5


async def test_work_is_claimed_on_arrival_not_at_the_next_poll(agent: Agent) -> None:
    """Work is claimed when it arrives, not at the next poll: 20 turns take less than 20 polls' time."""
    person = Person(agent)
    started = asyncio.get_running_loop().time()
    for number in range(20):
        await person.ask(f"message {number}")
    assert asyncio.get_running_loop().time() - started < 20 * 0.5


async def test_shutdown_lets_a_reply_finish(start_agent: StartAgent, database_url: str) -> None:
    async with start_agent(database_url) as agent:
        model_of(agent).enqueue("almost ", "done", delay=0.1)
        accepted = await Person(agent).say("hello")
        await until(lambda: model_of(agent).num_open == 1)
        following = asyncio.create_task(reply_to(agent, accepted))
        await agent.conversations.drain(5.0)
        assert await following == ("answered", "almost done")
        with pytest.raises(ShuttingDown):
            await Person(agent, "late").say("too late")


async def test_a_reply_cut_off_by_shutdown_is_made_after_the_restart(
    start_agent: StartAgent, database_url: str
) -> None:
    async with start_agent(database_url, grace_seconds=0.05) as agent:
        model_of(agent).enqueue("never finished", hold=asyncio.Event())
        accepted = await Person(agent).say("hello")
        await until(lambda: model_of(agent).num_open == 1)
    async with start_agent(database_url) as again:
        assert await reply_to(again, accepted) == ("answered", "hello")
        [row] = await again.database.read(_replies, W)
        assert (row.first_seq, row.last_seq) == (1, 1)


async def test_two_processes_share_a_database(start_agent: StartAgent, postgres: Any, migrated_postgres: str) -> None:
    """Asked at one, answered by either, followed and stopped from the other."""
    from tests.conftest import new_postgres_database

    url = new_postgres_database(postgres, migrated_postgres)
    idle = FakeGenerator()
    async with start_agent(url, lease_seconds=0.6) as working, start_agent(url, idle, lease_seconds=0.6) as other:
        idle._ready = False  # claims nothing, as while its model is loading
        accepted = await Person(other).say("hello")
        assert await reply_to(other, accepted) == ("answered", "hello")
        model_of(working).enqueue("Once ", "upon", hold=asyncio.Event())
        story = await Person(other, "story").say("tell")
        await until(lambda: any(turn.pieces for turn in working.conversations._live.turns()))
        assert await other.conversations.stop(W, story.conversation_id, None)
        assert await reply_to(other, story) == ("stopped", "Once ")
        idle._ready = True
