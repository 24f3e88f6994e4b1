"""The worker as a child: started when a job waits and nobody does it, again if it dies, ended with its parent.

Knows: the process, when it is needed, for how long to leave it alone after it died. Does not know: what it does. It
inherits standard error, so that its log stands in its parent's; its standard input is how it learns of a parent's
death.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import Sequence

from storage import jobs
from storage.database import Database, StorageUnavailable

log = logging.getLogger("myna.worker")

COMMAND: Sequence[str] = (sys.executable, "-m", "adapters.cli.main", "worker", "--once", "--child")
LOOK_SECONDS = 1.0
FIRST_PAUSE_SECONDS, MOST_PAUSE_SECONDS = 2.0, 120.0
# One that ran for longer had begun its work, and what ended it is another matter.
STARTED_SECONDS = 60.0


class WorkerProcess:
    """Keeps a worker for one device while it has something to do.

    `patience` is for how long a job may wait for other workers.
    """

    def __init__(self, database: Database, device: str, *, patience: float = 0.0) -> None:
        self._database = database
        self._device = device
        self._patience = patience
        self._process: subprocess.Popen[bytes] | None = None
        self._told: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._waits_since: float | None = None
        self._pause = 0.0
        self._not_before = 0.0
        self._ending = False

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def keep(self) -> None:
        """Look after the worker until cancelled. Run it as one task, and `close` afterwards."""
        while not self._ending:
            try:
                await self._look()
            except StorageUnavailable as error:
                log.warning("it can't be seen whether a job waits: %s", error)
            except OSError as error:
                self._leave_alone(f"can't be started: {error.strerror}")
            await asyncio.sleep(LOOK_SECONDS)

    def terminate(self) -> None:
        """Tell the worker to save a checkpoint and end, and start none any more."""
        self._ending = True
        # Once only: a second signal tells a worker not to wait for its checkpoint.
        if self._process is not None and self._process is not self._told and self._process.poll() is None:
            self._told = self._process
            self._process.terminate()

    async def close(self, grace_seconds: float) -> None:
        """End the worker; one that is not done within the grace is killed. Doing it twice is the same as once."""
        self.terminate()
        process, self._process = self._process, None
        if process is None:
            return
        if not await asyncio.to_thread(_ends_within, process, grace_seconds):
            log.warning("the worker does not end, and is killed; its job goes on from the last checkpoint")
            process.kill()
        await asyncio.to_thread(process.communicate)

    async def _look(self) -> None:
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                return
            await asyncio.to_thread(self._process.communicate)
            self._process = None
            if code == 0:
                self._pause = 0.0
            else:
                self._leave_alone(f"ended with {code}")
        now = time.monotonic()
        if now < self._not_before:
            return
        if not await self._database.read(jobs.is_waiting, None, self._device):
            self._waits_since = None
            return
        self._waits_since = self._waits_since or now
        if now - self._waits_since >= self._patience and not self._ending:
            await self._start()

    async def _start(self) -> None:
        starting = asyncio.ensure_future(asyncio.to_thread(_start_process, self._device))
        # Once begun it is seen through, or a cancelled look would leave a process that nobody knows.
        try:
            self._process = await asyncio.shield(starting)
        except asyncio.CancelledError:
            self._process = await starting
            raise
        self._started_at = time.monotonic()
        log.info("a job waits: the worker is process %d", self._process.pid)

    def _leave_alone(self, why: str) -> None:
        if time.monotonic() - self._started_at > STARTED_SECONDS:
            self._pause = 0.0
        self._pause = min(max(FIRST_PAUSE_SECONDS, self._pause * 2), MOST_PAUSE_SECONDS)
        self._not_before = time.monotonic() + self._pause
        log.error("the worker %s; the next one starts in %.0f s at the earliest", why, self._pause)


def _start_process(device: str) -> subprocess.Popen[bytes]:
    # A process group of its own: Ctrl-C at the parent's terminal is for the parent to pass on.
    return subprocess.Popen(
        (*COMMAND, "--device", device), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, process_group=0
    )


def _ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True
