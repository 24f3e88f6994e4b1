"""Lost, failed and late replies while versions are promoted under load.

    python -m benchmarks.promotion                 SQLite
    python -m benchmarks.promotion --postgresql    PostgreSQL, with two agents that share it

The same conversations run once without any change and once with a promotion or a rollback every half second. The
generator is scripted, and takes 20 ms to load a version; a reply takes 5 ms. Prints the longest wait of each run, and
how many messages that were sent after a change was committed still got what answered before it (must be 0).
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import logging
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapters.cli.wiring import Agent, running_agent
from benchmarks.pipeline import InstantGenerator, new_postgresql
from benchmarks.table import print_rows
from bot.access.installation import migrate_database
from bot.access.roles import Actor
from bot.generation.port import Event, Prompt, Sampling
from bot.settings import Settings
from storage import versions
from storage.learning_values import Version
from storage.transaction import Transaction
from storage.values import Incoming, Sender, text_part
from tests.builders.versions import add_evaluation, add_job_and_dataset, new_version

ACTOR = Actor("shell:benchmark", "admin")
LOADING_SECONDS = 0.02
REPLY_SECONDS = 0.005


class VersionedGenerator(InstantGenerator):
    """Loads slowly, answers soon, and records the version of each answer."""

    def __init__(self) -> None:
        self.versions: tuple[str, ...] = ()  # type: ignore[assignment]
        self.answered: dict[str, str | None] = {}

    async def load_version(self, name: str, folder: Path, sha256: str | None = None) -> None:
        await asyncio.sleep(LOADING_SECONDS)
        self.versions = tuple({*self.versions, name})

    async def unload_version(self, name: str) -> None:
        self.versions = tuple(one for one in self.versions if one != name)

    async def stream(
        self, prompt: Prompt, sampling: Sampling, version: str | None = None, *, priority: int = 0
    ) -> AsyncGenerator[Event, None]:
        self.answered[prompt.messages[-1].content] = version
        await asyncio.sleep(REPLY_SECONDS)
        async for event in super().stream(prompt, sampling, version, priority=priority):
            yield event


@asynccontextmanager
async def agents(url: str, count: int) -> AsyncIterator[list[Agent]]:
    async with AsyncExitStack() as stack:
        settings = Settings(data=Path(tempfile.mkdtemp()), database_url=url)
        yield [await stack.enter_async_context(running_agent(settings, VersionedGenerator())) for _ in range(count)]


async def add_version(agent: Agent, number: int) -> Version:
    def register(tx: Transaction) -> Version:
        weights = hashlib.sha256(str(number).encode()).hexdigest()
        made = versions.register(tx, new_version(*add_job_and_dataset(tx), weights=weights))
        add_evaluation(tx, made.id)
        return made

    return await agent.database.write(register, agent.workspace_id)


@dataclass
class Seen:
    """Replies as the people in the conversations saw them."""

    waits: list[float] = field(default_factory=list)
    asked: dict[str, tuple[float, float]] = field(default_factory=dict)
    not_answered: int = 0


async def talk(agent: Agent, chat: str, until: float, seen: Seen) -> None:
    number = 0
    while time.monotonic() < until:
        number += 1
        text = f"{chat}: where is parcel {number}?"
        began = time.monotonic()
        incoming = Incoming("web", chat, Sender(chat), f"{chat}-{number}", (text_part(text),))
        accepted = await agent.conversations.accept(agent.workspace_id, incoming)
        state = "lost"
        async for batch in agent.conversations.history.follow(agent.workspace_id, accepted):
            state = getattr(batch[-1], "state", state)
        ended = time.monotonic()
        seen.waits.append(ended - began)
        seen.asked[text] = began, ended
        seen.not_answered += state != "answered"
        await asyncio.sleep(0.1)


async def change(agent: Agent, made: list[Version], until: float, commits: list[tuple[float, str | None]]) -> None:
    """Promote the versions in turn, with a rollback after each second promotion."""
    number = 0
    while time.monotonic() < until - 1:
        await asyncio.sleep(0.5)
        number += 1
        if number % 3 == 0:
            changed = await agent.releases.rollback(ACTOR, "benchmark")
        else:
            now = (await agent.releases.current()).champion
            wanted = next(one for one in made[number % 3 :] + made if now is None or one.id != now.id)
            changed = await agent.releases.promote(ACTOR, wanted.name, override_reason="benchmark")
        commits.append((time.monotonic(), changed.champion.name if changed.champion else None))


def count_stale(
    asked: dict[str, tuple[float, float]], answered: dict[str, str | None], commits: list[tuple[float, str | None]]
) -> int:
    """Count the replies by a version that was released neither when they were asked for nor until they ended."""
    stale = 0
    for text, (began, ended) in asked.items():
        then = [version for at, version in commits if at <= began][-1:] or [None]
        later = [version for at, version in commits if began < at <= ended]
        stale += answered[text] not in (*then, *later)
    return stale


async def run(url: str, count: int, chats: int, seconds: float, *, changing: bool) -> dict[str, Any]:
    seen, commits = Seen(), list[tuple[float, str | None]]()
    async with agents(url, count) as running:
        made = [await add_version(running[0], number) for number in range(3)]
        until = time.monotonic() + seconds
        work: list[Coroutine[Any, Any, None]] = [
            talk(running[i % count], f"{changing}-{i}", until, seen) for i in range(chats)
        ]
        if changing:
            work.append(change(running[0], made, until, commits))
        await asyncio.gather(*work)
        answered = {text: name for one in running for text, name in one.generator.answered.items()}  # type: ignore[attr-defined]
    ordered = sorted(seen.waits)
    return {
        "changes": len(commits),
        "replies": len(ordered),
        "not_answered": seen.not_answered,
        "p50_ms": round(1000 * ordered[len(ordered) // 2]),
        "p99_ms": round(1000 * ordered[int(0.99 * len(ordered))]),
        "longest_ms": round(1000 * ordered[-1]),
        "stale": count_stale(seen.asked, answered, commits),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Replies while versions are promoted and rolled back.")
    parser.add_argument("--postgresql", action="store_true", help="start a PostgreSQL server, and two agents on it")
    parser.add_argument("--chats", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    folder = Path(tempfile.mkdtemp(prefix="myna-bench-"))
    url = new_postgresql(folder) if arguments.postgresql else f"sqlite:///{folder}/promotion.db"
    migrate_database(Settings(data=folder, database_url=url), lambda _: None)
    count = 2 if arguments.postgresql else 1
    rows = (
        {
            "run": "changing" if changing else "no change",
            "processes": count,
            **asyncio.run(run(url, count, arguments.chats, arguments.seconds, changing=changing)),
        }
        for changing in (False, True)
    )
    print_rows(rows, as_json=arguments.json)


if __name__ == "__main__":
    main()
