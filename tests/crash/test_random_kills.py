"""Hundreds of messages under random kills and freezes: every law still holds.

The seed is printed, so that a failure can be examined.
"""

from __future__ import annotations

import asyncio
import random
import signal

import pytest

from tests.conftest import ServerProcess, new_postgres_database
from tests.crash.harness import Channel, People, agent_process, until_drained
from tests.crash.laws import broken_laws

pytestmark = pytest.mark.slow

CONVERSATIONS = 30
MESSAGES = 8
KILLS = 8


async def torment(servers: list[ServerProcess], dice: random.Random, done: asyncio.Event, freeze: bool) -> None:
    """Kill one process after another, or freeze it where another process can take over."""
    for _ in range(KILLS):
        await asyncio.sleep(dice.uniform(0.3, 0.9))
        if done.is_set():
            return
        victim = dice.choice(servers)
        assert victim.process is not None
        if freeze and dice.random() < 0.4:
            victim.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(dice.uniform(0.5, 1.5))
            victim.process.send_signal(signal.SIGCONT)
        else:
            await victim.kill()
            await victim.start()


async def run(url: str, processes: int, seed: int) -> None:
    print(f"seed {seed}")
    async with Channel().serving() as channel:
        servers = [agent_process(url, "--channel-url", channel.url, "--lease", "0.8") for _ in range(processes)]
        for server in servers:
            await server.start()
        people, done, dice = People(servers, seed), asyncio.Event(), random.Random(seed)
        tormentor = asyncio.create_task(torment(servers, dice, done, freeze=processes > 1))
        await asyncio.gather(*(people.talk(f"c{number}", MESSAGES, 1.0) for number in range(CONVERSATIONS)))
        done.set()
        await tormentor
        await until_drained(url)
        for server in servers:
            await server.kill()
        assert len(people.acknowledged) == CONVERSATIONS * MESSAGES
        assert await asyncio.to_thread(broken_laws, url, people.acknowledged, dict(channel.posts)) == []


async def test_random_kills_of_one_process_on_sqlite(sqlite_url: str) -> None:
    await run(sqlite_url, 1, random.randrange(2**32))


async def test_random_kills_and_freezes_of_three_processes_on_postgresql(
    migrated_postgres: str, postgres: object
) -> None:
    await run(new_postgres_database(postgres, migrated_postgres), 3, random.randrange(2**32))
