"""Installation for the knowledge benchmarks, with articles read by the real job."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapters.cli.job_kinds import all_tasks
from bot.access.installation import migrate_database
from bot.access.roles import Actor
from bot.generation.models.sources import resolve_embedder
from bot.jobs.contract import Services
from bot.jobs.control import Jobs
from bot.jobs.worker import Worker
from bot.knowledge.library import Library
from bot.knowledge.search.embedder import Embedder
from bot.knowledge.search.search import Search
from bot.settings import Settings
from storage.database import Database
from storage.schema import DEFAULT_WORKSPACE
from storage.scope import Scope

ADMIN = Actor("benchmark", "admin")


def read_rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


class Knowledge:
    """An installation of its own with some articles in it."""

    def __init__(self, data: Path) -> None:
        self.settings = Settings(data=data)
        (data / "models").mkdir(parents=True, exist_ok=True)
        migrate_database(self.settings, lambda _: None)
        self.database = Database(self.settings.resolved_database_url)
        self.scope = Scope(self.database, DEFAULT_WORKSPACE)
        self.library = Library(self.scope)
        # Fetched once a checkout, and not for each measurement.
        cache = Path(".cache")
        folder = resolve_embedder(self.settings.embedder, cache, print)
        if not (data / "models" / folder.name).exists():
            (data / "models" / folder.name).symlink_to(folder.resolve())
        self.embedder = Embedder(folder, name=self.settings.embedder)
        self.search = Search(Scope(self.database, DEFAULT_WORKSPACE), lambda: self.embedder)

    async def read(self, folder: Path) -> dict[str, Any]:
        """Add a folder and read it by the job; return the job's result, with `seconds`."""
        _, job = await self.library.add(ADMIN, str(folder))
        started = time.perf_counter()
        await Worker(Services(self.settings, self.database, 2), all_tasks(), lease_seconds=30.0).work(once=True)
        seconds = time.perf_counter() - started
        done = await Jobs(Scope(self.database, DEFAULT_WORKSPACE)).find(ADMIN, job.id)
        assert done.state == "done", done
        return dict(done.result or {}) | {"seconds": seconds}

    async def ranks(self, questions: Sequence[dict[str, Any]]) -> list[int | None]:
        """Return for each question the rank of the first right article, from 0 on; None if it is not found."""
        return [await self.search.place_of(one["question"], one["gold"], ["public"]) for one in questions]

    async def close(self) -> None:
        await self.search.close()
        await self.database.close()
