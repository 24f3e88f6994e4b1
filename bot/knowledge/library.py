"""Library: add, list, show and remove articles and their sources.

Every change of the sources starts a job that reads them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bot.access.roles import Actor
from bot.errors import Conflict, InvalidInput, NotFound
from bot.knowledge.reading.article_sources import check_url
from bot.knowledge.reading.formats import MAX_BYTES, Unreadable, endings, is_readable_name
from storage import jobs, knowledge
from storage.knowledge_values import AUDIENCES, Article, Audience, Source, SourceKind, audiences_of
from storage.learning_values import OPEN_STATES, Job
from storage.scope import Scope

KIND = "sync"
UPLOAD = "upload:"
MAX_UPLOAD_BYTES = MAX_BYTES
# Enough to include ended jobs after many changes in a row.
SYNCS_LOOKED_AT = 20


@dataclass(frozen=True, slots=True)
class Shown:
    """Article with its passages: `(headings, text)`."""

    article: Article
    passages: Sequence[tuple[tuple[str, ...], str]]


@dataclass(frozen=True, slots=True)
class Listed:
    """First articles of a list, and the length of the whole list."""

    articles: Sequence[Article]
    count: int


@dataclass(frozen=True, slots=True)
class Reading:
    """Sync jobs: the open ones, the last one that ended, and the last one that succeeded."""

    under_way: Sequence[Job]
    ended: Job | None
    done: Job | None


class Library:
    """Sources and articles of one workspace. Changes need the role trainer; looking needs the role viewer."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def add(self, actor: Actor, target: str, audience: str = "public") -> tuple[Source, Job]:
        """Add a folder, a file or the address of a page, and start the job that reads it.

        Adding a target again changes its audience. Raises `InvalidInput` for a target that can't become articles.
        """
        if not target.strip():
            raise InvalidInput("Say what to add: a folder, a file, or the address of a page.", field="target")
        if target.startswith(("http://", "https://")):
            return await self.add_page(actor, target, audience)
        actor.check("trainer")
        chosen = _audience(audience)
        kind, location = await asyncio.to_thread(_find_path, target)
        return await self._put(actor, kind, location, chosen)

    async def add_page(self, actor: Actor, url: str, audience: str = "public") -> tuple[Source, Job]:
        """Add the address of a page only: remote users may not read files of this machine."""
        actor.check("trainer")
        chosen = _audience(audience)
        try:
            check_url(url)
        except Unreadable as error:
            raise InvalidInput(f"{url} is not added: {error}.", field="target") from error
        return await self._put(actor, "url", url, chosen)

    async def upload(self, actor: Actor, name: str, content: bytes, audience: str = "public") -> tuple[Source, Job]:
        """Add a file's content; the ending of its name gives the format. Raises `InvalidInput` if unsupported."""
        actor.check("trainer")
        chosen, plain = _audience(audience), Path(name).name
        if not is_readable_name(plain):
            raise InvalidInput(_not_read(plain), field="name")
        if len(content) > MAX_BYTES:
            raise InvalidInput(f"{plain} is larger than {MAX_BYTES // 2**20} MB.", field="content")
        return await self._put(actor, "upload", UPLOAD + plain, chosen, content)

    async def sync(self, actor: Actor) -> Job:
        """Queue a job that reads all sources, or return the job already waiting. A running job does not count."""
        actor.check("trainer")
        job, _ = await self._scope.write(
            jobs.create, actor.name, KIND, {}, device=jobs.KNOWLEDGE_DEVICE, beside_running=True
        )
        return job

    async def remove(self, actor: Actor, which: str) -> tuple[str, Job]:
        """Remove a source, or the article that is its only content. Raises `NotFound` and `Conflict`."""
        actor.check("trainer")
        location = await self._location_of(which)
        if not await self._scope.write(knowledge.remove_source, actor.name, location):
            raise NotFound(f"There is no source or article {which!r}.", hint="list_articles")
        return location, await self.sync(actor)

    @property
    def endings(self) -> tuple[str, ...]:
        """Endings of readable file names."""
        return endings()

    async def sources(self, actor: Actor) -> Sequence[Source]:
        """Return the sources of articles."""
        actor.check("viewer")
        found = await self._scope.read(knowledge.sources)
        return [source for source in found if source.removed_at is None]

    async def reading(self, actor: Actor) -> Reading:
        """Return the state of the jobs that read the sources."""
        actor.check("viewer")
        newest = await self._scope.read(jobs.newest_of_kind, KIND, SYNCS_LOOKED_AT)
        ended = [job for job in newest if job.state not in OPEN_STATES]
        return Reading(
            [job for job in reversed(newest) if job.state in OPEN_STATES],
            ended[0] if ended else None,
            next((job for job in ended if job.state == "done"), None),
        )

    async def list(self, actor: Actor, text: str = "", audience: str | None = None, most: int = 100) -> Listed:
        """Return the first articles whose title or name contains `text`, of one audience or all, by title."""
        actor.check("viewer")
        audiences = AUDIENCES if audience is None else (_audience(audience),)
        return Listed(*await self._scope.read(knowledge.articles_with, text, audiences, most))

    async def articles(self, actor: Actor) -> Sequence[Article]:
        """Return all published articles, by name."""
        actor.check("viewer")
        return await self._scope.read(knowledge.articles)

    async def show(self, actor: Actor, which: str) -> Shown:
        """Return an article by its name or id. Raises `NotFound`, and `Conflict` if several have the name."""
        actor.check("viewer")
        found = await self._scope.read(knowledge.find_articles, which)
        if not found:
            raise NotFound(f"There is no article {which!r}.", hint="list_articles")
        if len(found) > 1:
            ids = ", ".join(f"{article.id} ({article.location})" for article in found)
            raise Conflict(f"Several articles are called {which!r}. Give the id of one: {ids}.")
        return Shown(found[0], await self._scope.read(knowledge.texts, found[0].id))

    async def read(self, audience: Audience, article_id: str, name: str) -> Shown:
        """Return an article that an audience may read, or its successor of the same name. Raises `NotFound`."""
        for which in (article_id, name):
            found = await self._scope.read(knowledge.find_articles, which)
            seen = [article for article in found if article.audience in audiences_of(audience)]
            if len(seen) == 1:
                return Shown(seen[0], await self._scope.read(knowledge.texts, seen[0].id))
        raise NotFound("This article is no longer here.")

    async def _put(
        self, actor: Actor, kind: SourceKind, location: str, audience: Audience, content: bytes | None = None
    ) -> tuple[Source, Job]:
        source = await self._scope.write(knowledge.put_source, actor.name, kind, location, audience, content)
        return source, await self.sync(actor)

    async def _location_of(self, which: str) -> str:
        sources = {source.location for source in await self._scope.read(knowledge.sources)}
        candidates = [which, UPLOAD + which]
        if which.strip() and not which.startswith(("http://", "https://")):
            candidates.append(await asyncio.to_thread(_absolute, which))
        if found := next((location for location in candidates if location in sources), None):
            return found
        articles = await self._scope.read(knowledge.find_articles, which)
        for article in articles:
            if article.location in sources:
                return article.location
        if articles:
            raise Conflict(
                f"{which} is one file of a folder: {articles[0].location}. Delete the file and have the articles "
                "read again, or remove the whole folder.",
                hint="sync_articles",
            )
        return which


def _find_path(target: str) -> tuple[SourceKind, str]:
    path = _absolute(target)
    if Path(path).is_dir():
        return "folder", path
    if not Path(path).is_file():
        raise InvalidInput(f"There is no file or folder {path}; an address begins with https://.", field="target")
    if not is_readable_name(path):
        raise InvalidInput(_not_read(Path(path).name), field="target")
    return "file", path


def _absolute(target: str) -> str:
    try:
        return str(Path(target).expanduser().absolute())
    except RuntimeError as error:  # the home folder of an unknown user
        raise InvalidInput(f"{target}: {error}.", field="target") from error


def _audience(value: str) -> Audience:
    for audience in AUDIENCES:
        if audience == value:
            return audience
    raise InvalidInput(f"The audience must be one of {', '.join(AUDIENCES)}.", field="audience")


def _not_read(name: str) -> str:
    return f"{name} is not a supported file. Supported: {' '.join(endings())}."
