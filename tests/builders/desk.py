"""A library with a worker and a search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapters.cli.job_kinds import all_tasks
from bot.access.roles import Actor
from bot.jobs.contract import Services
from bot.jobs.control import Jobs
from bot.jobs.worker import Worker
from bot.knowledge.library import Library
from bot.knowledge.search.embedder import Embedder
from bot.knowledge.search.search import Search
from bot.settings import Settings
from storage.database import Database
from storage.learning_values import Job
from storage.schema import DEFAULT_WORKSPACE
from storage.scope import Scope

ADMIN = Actor("test", "admin")


class Desk:
    """An installation with a library, a worker and a search."""

    def __init__(self, database: Database, data: Path, embedder: Embedder) -> None:
        self.database, self.embedder = database, embedder
        self.scope = Scope(database, DEFAULT_WORKSPACE)
        self.settings = Settings(data=data)
        self.library = Library(self.scope)
        self.search = Search(self.scope, lambda: embedder)
        self.docs = data / "docs"
        self.docs.mkdir(parents=True)

    def write(self, name: str, content: str | bytes) -> Path:
        file = self.docs / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    async def work(self, tasks: Any = None) -> None:
        services = Services(self.settings, self.database, 1)
        await Worker(services, tasks or all_tasks(), lease_seconds=30.0, heartbeat_seconds=0.05).work(once=True)

    async def done(self, job: Job) -> dict[str, Any]:
        await self.work()
        ended = await Jobs(Scope(self.database, DEFAULT_WORKSPACE)).find(ADMIN, job.id)
        assert ended.state == "done", ended
        return dict(ended.result or {})

    async def add(self, target: Path | None = None, audience: str = "public") -> dict[str, Any]:
        _, job = await self.library.add(ADMIN, str(target or self.docs), audience)
        return await self.done(job)

    async def sync(self) -> dict[str, Any]:
        return await self.done(await self.library.sync(ADMIN))

    async def found(self, question: str, audiences: Sequence[Any] = ("public",)) -> list[str]:
        return [hit.passage.name for hit in await self.search.search(question, audiences)]

    async def names(self) -> list[str]:
        return [one.name for one in await self.library.articles(ADMIN)]
