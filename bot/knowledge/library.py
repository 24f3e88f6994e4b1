"""The articles as people handle them: added, listed, shown, removed, read again.

Knows: who may do what, what people type, that every change of sources is followed by a job that reads them. Does not
know: how that job is done, formats, searches.
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
# Enough that some have ended, where somebody changes much in a row.
SYNCS_LOOKED_AT = 20


@dataclass(frozen=True, slots=True)
class Shown:
    """An article with its passages: `(headings, text)`."""

    article: Article
    passages: Sequence[tuple[tuple[str, ...], str]]


@dataclass(frozen=True, slots=True)
class Listed:
    """The first articles of a list, and how many are on the whole of it."""

    articles: Sequence[Article]
    count: int


@dataclass(frozen=True, slots=True)
class Reading:
    """The jobs that read the sources: those not ended, the one that ended last, and the last that read them all."""

    under_way: Sequence[Job]
    ended: Job | None
    done: Job | None


class Library:
    """The sources and articles of one workspace. Whoever changes something is a trainer; a viewer may look."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def add(self, actor: Actor, target: str, audience: str = "public") -> tuple[Source, Job]:
        """Add a folder, a file or the address of a page; a job reads it. The same target again changes its audience.

        Raises `InvalidInput` for what can't become articles.
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
        """As `add`, for an address and nothing else: whoever is not at this machine may not read its files."""
        actor.check("trainer")
        chosen = _audience(audience)
        try:
            check_url(url)
        except Unreadable as error:
            raise InvalidInput(f"{url} is not added: {error}.", field="target") from error
        return await self._put(actor, "url", url, chosen)

    async def upload(self, actor: Actor, name: str, content: bytes, audience: str = "public") -> tuple[Source, Job]:
        """Add a file that lies nowhere. Its name says what it is. Raises `InvalidInput` for one that can't be read."""
        actor.check("trainer")
        chosen, plain = _audience(audience), Path(name).name
        if not is_readable_name(plain):
            raise InvalidInput(_not_read(plain), field="name")
        if len(content) > MAX_BYTES:
            raise InvalidInput(f"{plain} has more than {MAX_BYTES // 2**20} MB.", field="content")
        return await self._put(actor, "upload", UPLOAD + plain, chosen, content)

    async def sync(self, actor: Actor) -> Job:
        """Read all sources again. If that waits already, it is the same job; one that runs has begun before this."""
        actor.check("trainer")
        job, _ = await self._scope.write(
            jobs.create, actor.name, KIND, {}, device=jobs.KNOWLEDGE_DEVICE, beside_running=True
        )
        return job

    async def remove(self, actor: Actor, which: str) -> tuple[str, Job]:
        """Take a source, or the article that is all of one, out of the index. Raises `NotFound` and `Conflict`."""
        actor.check("trainer")
        location = await self._location_of(which)
        if not await self._scope.write(knowledge.remove_source, actor.name, location):
            raise NotFound(f"There is no source or article {which!r}.", hint="list_articles")
        return location, await self.sync(actor)

    @property
    def endings(self) -> tuple[str, ...]:
        """The endings of names that are read."""
        return endings()

    async def sources(self, actor: Actor) -> Sequence[Source]:
        """Where articles come from."""
        actor.check("viewer")
        found = await self._scope.read(knowledge.sources)
        return [one for one in found if one.removed_at is None]

    async def reading(self, actor: Actor) -> Reading:
        """How far the sources are read."""
        actor.check("viewer")
        newest = await self._scope.read(jobs.newest_of_kind, KIND, SYNCS_LOOKED_AT)
        ended = [one for one in newest if one.state not in OPEN_STATES]
        return Reading(
            [one for one in reversed(newest) if one.state in OPEN_STATES],
            ended[0] if ended else None,
            next((one for one in ended if one.state == "done"), None),
        )

    async def list(self, actor: Actor, text: str = "", audience: str | None = None, most: int = 100) -> Listed:
        """The first articles with a text in title or name, of one audience or all, by title."""
        actor.check("viewer")
        audiences = AUDIENCES if audience is None else (_audience(audience),)
        return Listed(*await self._scope.read(knowledge.articles_with, text, audiences, most))

    async def articles(self, actor: Actor) -> Sequence[Article]:
        """All articles that a search finds, by name."""
        actor.check("viewer")
        return await self._scope.read(knowledge.articles)

    async def show(self, actor: Actor, which: str) -> Shown:
        """An article by its name or id. Raises `NotFound`, and `Conflict` if several are called so."""
        actor.check("viewer")
        found = await self._scope.read(knowledge.find_articles, which)
        if not found:
            raise NotFound(f"There is no article {which!r}.", hint="list_articles")
        if len(found) > 1:
            ids = ", ".join(f"{one.id} ({one.location})" for one in found)
            raise Conflict(f"Several articles are called {which!r}; say which by its id: {ids}.")
        return Shown(found[0], await self._scope.read(knowledge.texts, found[0].id))

    async def read(self, audience: Audience, article_id: str, name: str) -> Shown:
        """What somebody of an audience may read: the article, or the one that has its name now. Raises `NotFound`."""
        for which in (article_id, name):
            found = await self._scope.read(knowledge.find_articles, which)
            seen = [one for one in found if one.audience in audiences_of(audience)]
            if len(seen) == 1:
                return Shown(seen[0], await self._scope.read(knowledge.texts, seen[0].id))
        raise NotFound("This article is no longer here.")

    async def _put(
        self, actor: Actor, kind: SourceKind, location: str, audience: Audience, content: bytes | None = None
    ) -> tuple[Source, Job]:
        source = await self._scope.write(knowledge.put_source, actor.name, kind, location, audience, content)
        return source, await self.sync(actor)

    async def _location_of(self, which: str) -> str:
        sources = {one.location for one in await self._scope.read(knowledge.sources)}
        candidates = [which, UPLOAD + which]
        if which.strip() and not which.startswith(("http://", "https://")):
            candidates.append(await asyncio.to_thread(_absolute, which))
        if found := next((one for one in candidates if one in sources), None):
            return found
        articles = await self._scope.read(knowledge.find_articles, which)
        for one in articles:
            if one.location in sources:
                return one.location
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
    except RuntimeError as error:  # a home of somebody who is not known
        raise InvalidInput(f"{target}: {error}.", field="target") from error


def _audience(value: str) -> Audience:
    for one in AUDIENCES:
        if one == value:
            return one
    raise InvalidInput(f"An audience is one of {', '.join(AUDIENCES)}.", field="audience")


def _not_read(name: str) -> str:
    return f"{name} is not read. What is: {' '.join(endings())}."
