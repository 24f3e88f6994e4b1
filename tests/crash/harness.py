"""Harness for agents that die: senders that retry, and a channel that counts posts."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import aiohttp
import sqlalchemy as sa
from aiohttp import web

from storage.engines import postgresql_engine, sqlite_engine
from storage.schema import conversation_work, outbox
from tests.conftest import ServerProcess, free_port
from tests.crash import agent


def agent_process(url: str, *options: str) -> ServerProcess:
    """Return an agent process on a database, not yet started."""
    port = free_port()
    return ServerProcess(agent.main, [url, str(port), *options], dict(os.environ), port)


class People:
    """Senders that repeat a message, with the same idempotency key, until a process acknowledges it."""

    def __init__(self, servers: Sequence[ServerProcess], seed: int = 0) -> None:
        self._servers = servers
        self._random = random.Random(seed)
        self.acknowledged: dict[str, tuple[str, str]] = {}

    async def say(self, conversation: str, number: int, suffix: str = "") -> None:
        key, text = f"{conversation}#{number}", f"{conversation}#{number}{suffix}"
        body = {"conversation": conversation, "key": key, "text": text}
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=3)) as session:
            while not await self._delivered(session, body):
                await asyncio.sleep(self._random.uniform(0.02, 0.1))
        self.acknowledged[key] = (conversation, text)

    async def _delivered(self, session: aiohttp.ClientSession, body: dict[str, str]) -> bool:
        try:
            async with session.post(self._random.choice(self._servers).url + "/say", json=body) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def talk(self, conversation: str, messages: int, pause: float) -> None:
        for number in range(1, messages + 1):
            await self.say(conversation, number)
            await asyncio.sleep(self._random.uniform(0, pause))


async def until_drained(url: str, seconds: float = 60) -> None:
    """Wait until every conversation is answered and every reply posted, at most `seconds`; the laws judge the rest."""
    parsed = sa.make_url(url)
    engine = (sqlite_engine if parsed.get_backend_name() == "sqlite" else postgresql_engine)(parsed, read_only=True)
    waiting = sa.select(sa.func.count()).where(
        sa.or_(conversation_work.c.enq_seq > conversation_work.c.done_seq, conversation_work.c.owner.is_not(None))
    )
    unsent = sa.select(sa.func.count()).where(outbox.c.state.in_(("pending", "sending")))

    def count() -> int:
        with engine.begin() as connection:
            return int(connection.execute(waiting).scalar_one() + connection.execute(unsent).scalar_one())

    try:
        async with asyncio.timeout(seconds):
            while await asyncio.to_thread(count):
                await asyncio.sleep(0.1)
    except TimeoutError:
        pass
    finally:
        engine.dispose()


class Channel:
    """A fake channel that counts posts by id and can look them up."""

    def __init__(self) -> None:
        self.posts: Counter[str] = Counter()
        self.url = ""

    async def _post(self, request: web.Request) -> web.Response:
        self.posts[request.match_info["id"]] += 1
        return web.Response(text=f"ts-{request.match_info['id']}")

    async def _find(self, request: web.Request) -> web.Response:
        known = request.match_info["id"] in self.posts
        return web.Response(text=f"ts-{request.match_info['id']}", status=200 if known else 404)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Channel]:
        app = web.Application()
        app.router.add_post("/{id}", self._post)
        app.router.add_get("/{id}", self._find)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        yield self
        await runner.cleanup()
