"""Background tasks for calls to Slack, with failures logged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from bot.chat.delivery import Never, NotNow, Unknown

log = logging.getLogger("myna.slack")

CLOSE_SECONDS = 2.0


class Background:
    """Background tasks of one part of the channel; a reference is kept until each ends."""

    def __init__(self, close_seconds: float = CLOSE_SECONDS) -> None:
        self._close_seconds = close_seconds
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` as a task; log its exception."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            is_from_slack = isinstance(error, NotNow | Never | Unknown)
            log.warning("Slack was not told: %s", error, exc_info=None if is_from_slack else error)

    async def close(self) -> None:
        """Wait up to `close_seconds` for the tasks, then cancel the rest."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._close_seconds)
        unfinished = list(self._tasks)
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
