"""Released versions in this process: choose one for a turn, load ahead, and unload after use.

Every turn reads the release number together with its context. If the number is newer than the one known here, the
release is read before the turn goes on, so a promotion takes effect with the next reply, in every process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bot.errors import GeneratorUnavailable, MynaError
from bot.generation.port import Generator
from bot.learning.release.canary_harm import is_challengers
from bot.learning.versions import NAME_START, fault_of, folder_of
from storage import audit, releases, versions
from storage.database import StorageUnavailable
from storage.learning_values import Release, Version
from storage.scope import Scope
from storage.transaction import Transaction

log = logging.getLogger("myna.versions")

LOOK_SECONDS = 1.0
# Delay before a version that could not be loaded is tried again: its folder may have been put back.
TRY_AGAIN_SECONDS = 60.0
# Time that a version stays loaded after the last request of a program by its name.
ASKED_SECONDS = 600.0


class ReleasedVersions:
    """The release of one workspace as this process knows it, with its versions loaded."""

    def __init__(self, scope: Scope, generator: Generator, data: Path) -> None:
        self._scope = scope
        self._generator = generator
        self._data = data
        self._release = Release()
        self._changed = asyncio.Event()
        self._loading: dict[str, asyncio.Task[bool]] = {}
        self._unusable: dict[str, float] = {}
        self._reported: set[str] = set()
        self._mine: set[str] = set()
        self._in_use: Counter[str] = Counter()
        self._asked_at: dict[str, float] = {}

    @property
    def release(self) -> Release:
        """The release, as of the last look."""
        return self._release

    def note_change(self) -> None:
        """Wake `watch` to look at once: this process has changed the release."""
        self._changed.set()

    async def choose(self, workspace_id: str, conversation_id: str, number: int) -> str | None:
        """Return the loaded version that answers a conversation under the release `number`; None is the base.

        If a version can't be loaded, the champion takes its place, then the previous version, then the base.
        """
        if workspace_id != self._scope.workspace_id:
            return None
        if number > self._release.number:
            await self._look()
        for version in self._candidates(conversation_id):
            if version.name in self._generator.versions or await self._load(version):
                return version.name
        return None

    def _candidates(self, conversation_id: str) -> list[Version]:
        now, wanted = self._release, []
        if now.canary and now.challenger and is_challengers(now.canary.salt, conversation_id, now.canary.share):
            wanted.append(now.challenger)
        if now.champion is not None:
            wanted.append(now.champion)
            if now.previous is not None and fault_of(now.previous) is None:
                wanted.append(now.previous)
        return wanted

    async def load_asked(self, name: str) -> None:
        """Load a trained version that a program asks for by its name; it stays `ASKED_SECONDS` after the last request.

        A version that may not be used any more is unloaded instead, unless it answers chats.
        """
        if not name.startswith(NAME_START) or name == self._generator.model:
            return
        if name in self._asked_at and name in self._generator.versions:
            self._asked_at[name] = asyncio.get_running_loop().time()
            return
        all_versions = await self._scope.read(versions.list_all)
        version = next((known for known in all_versions if known.name == name), None)
        if version is None or (fault_of(version) is not None and name not in self._kept()):
            self._asked_at.pop(name, None)
            if name in self._mine:
                await self._unload(name)
        elif name in self._generator.versions or await self._load(version):
            self._asked_at[name] = asyncio.get_running_loop().time()

    @contextlib.contextmanager
    def held(self, name: str | None) -> Iterator[None]:
        """Keep a version loaded inside the `with` block."""
        self._in_use[name or ""] += 1
        try:
            yield
        finally:
            self._in_use[name or ""] -= 1

    async def give_up(self, name: str, error: Exception) -> None:
        """Put a version aside for `TRY_AGAIN_SECONDS`: it was loaded, but the model could not use it."""
        await self._note_unusable(name, error)
        await self._generator.unload_version(name)

    async def watch(self) -> None:
        """Follow the release and keep its versions loaded, until cancelled. Run it as one task."""
        while True:
            self._changed.clear()
            if self._generator.ready:
                try:
                    await self._look()
                    await self._keep_loaded()
                except StorageUnavailable as error:
                    log.error("the release can't be read, trying again: %s", error)
                except Exception:
                    log.exception("the released versions can't be kept loaded, trying again")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._changed.wait()

    async def _look(self) -> None:
        found = await self._scope.read(releases.current)
        if found.number > self._release.number:
            self._release = found
            # A version may have been retired with it: the next request for it checks that again.
            self._asked_at.clear()

    def _kept(self) -> dict[str, Version]:
        """Return the release's versions by name; an unusable champion stays (erasure policy `mark`)."""
        now = self._release
        wanted = [now.champion, now.challenger]
        if now.previous is not None and fault_of(now.previous) is None:
            wanted.append(now.previous)
        return {version.name: version for version in wanted if version is not None}

    async def _keep_loaded(self) -> None:
        named = self._kept()
        for name, version in named.items():
            if name not in self._generator.versions:
                await self._load(version)
        now = asyncio.get_running_loop().time()
        self._asked_at = {name: at for name, at in self._asked_at.items() if at > now - ASKED_SECONDS}
        for name in self._mine - named.keys():
            if not self._in_use[name] and name not in self._asked_at:
                await self._unload(name)

    async def _unload(self, name: str) -> None:
        self._mine.discard(name)
        await self._generator.unload_version(name)

    async def _load(self, version: Version) -> bool:
        """Load a version; False if it can't be used now. Concurrent calls for the same version share one loading."""
        if self._unusable.get(version.name, 0.0) > asyncio.get_running_loop().time():
            return False
        task = self._loading.get(version.name)
        if task is None:
            task = asyncio.create_task(self._load_now(version), name=f"load-{version.name}")
            self._loading[version.name] = task
            task.add_done_callback(lambda _: self._loading.pop(version.name, None))
        return await asyncio.shield(task)

    async def _load_now(self, version: Version) -> bool:
        try:
            await self._generator.load_version(
                version.name, folder_of(self._data, version.name), version.weights_sha256
            )
        except GeneratorUnavailable:
            raise
        except Exception as error:
            await self._note_unusable(version.name, error)
            return False
        self._mine.add(version.name)
        self._unusable.pop(version.name, None)
        self._reported.discard(version.name)
        return True

    async def _note_unusable(self, name: str, error: Exception) -> None:
        self._unusable[name] = asyncio.get_running_loop().time() + TRY_AGAIN_SECONDS
        if name in self._reported:
            return
        self._reported.add(name)
        why = error.message if isinstance(error, MynaError) else repr(error)
        log.error("the version %s can't be used, another one answers in its place: %s", name, why)
        try:
            await self._scope.write(_record_unusable, name, type(error).__name__)
        except StorageUnavailable:
            log.error("that %s can't be used is not in the audit log", name)


def _record_unusable(tx: Transaction, name: str, why: str) -> None:
    audit.record(tx, "system", "version.unusable", name, {"why": why})
