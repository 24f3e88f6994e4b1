"""SIGKILL just before and after each commit of a message: every law still holds."""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import new_postgres_database
from tests.crash.agent import POINTS
from tests.crash.harness import Channel, People, agent_process, until_drained
from tests.crash.laws import broken_laws

pytestmark = pytest.mark.slow

# The hit of a point at which the process dies; 1 for points that are not listed.
HITS = {"accept": 4, "claim": 2, "heartbeat": 1, "complete": 2, "send.claim": 2, "send.intent": 2, "send.record": 2}
CASES = [(point, when) for point in POINTS if point != "release" for when in ("before", "after")]


async def run_until_dead_then_recover(url: str, point: str, when: str, poison: bool = False) -> list[str]:
    async with Channel().serving() as channel:
        options = ["--channel-url", channel.url, "--lease", "0.6"]
        doomed = agent_process(url, *options, "--point", point, "--when", when, "--hits", str(HITS.get(point, 1)))
        await doomed.start()
        people = People([doomed])
        talks = [asyncio.create_task(people.talk(f"c{number}", 3, 0.05)) for number in range(4)]
        if poison:
            talks.append(asyncio.create_task(people.say("p", 1, "-poison")))
        assert doomed.process is not None
        code = await asyncio.to_thread(doomed.process.wait, 60)
        assert code == -9, doomed.log.read_text()
        doomed.arguments[2:] = options
        await doomed.start()
        await asyncio.gather(*talks)
        await until_drained(url)
        await doomed.kill()
        return await asyncio.to_thread(broken_laws, url, people.acknowledged, dict(channel.posts))


@pytest.mark.parametrize(("point", "when"), CASES, ids=lambda value: str(value))
async def test_a_kill_at_a_commit_loses_and_doubles_nothing(sqlite_url: str, point: str, when: str) -> None:
    assert await run_until_dead_then_recover(sqlite_url, point, when) == []


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_kill_while_releasing_a_failed_turn(sqlite_url: str, when: str) -> None:
    assert await run_until_dead_then_recover(sqlite_url, "release", when, poison=True) == []


async def test_a_kill_between_posting_and_recording_posts_once(sqlite_url: str) -> None:
    assert await run_until_dead_then_recover(sqlite_url, "send.post", "after") == []


@pytest.mark.parametrize("point", ["accept", "complete", "send.intent"])
async def test_a_kill_at_a_commit_on_postgresql(postgres: object, migrated_postgres: str, point: str) -> None:
    url = new_postgres_database(postgres, migrated_postgres)
    assert await run_until_dead_then_recover(url, point, "before") == []


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_kill_while_migrating_leaves_a_database_that_migrates(empty_database_url: str, when: str) -> None:
    doomed = agent_process(empty_database_url, "--point", "migrate", "--when", when)
    with pytest.raises(AssertionError, match="the server ended"):
        await doomed.start()
    healthy = agent_process(empty_database_url)
    await healthy.start()
    people = People([healthy])
    await people.say("c", 1)
    await until_drained(empty_database_url)
    await healthy.kill()
    assert await asyncio.to_thread(broken_laws, empty_database_url, people.acknowledged) == []


async def test_the_laws_catch_an_acknowledgement_before_the_commit(sqlite_url: str) -> None:
    """The laws must be able to fail: this mutant loses messages that it acknowledged."""
    mutant = agent_process(sqlite_url, "--acknowledge-early", "--point", "accept", "--when", "before", "--hits", "3")
    await mutant.start()
    people = People([mutant])
    talk = asyncio.create_task(people.talk("c", 50, 0.0))
    assert mutant.process is not None
    await asyncio.to_thread(mutant.process.wait, 60)
    talk.cancel()
    await asyncio.gather(talk, return_exceptions=True)
    problems = await asyncio.to_thread(broken_laws, sqlite_url, people.acknowledged)
    assert any("lost" in problem for problem in problems)
