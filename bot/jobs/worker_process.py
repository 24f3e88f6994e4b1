"""Supervision of the worker's process: start on demand, backoff, shutdown.

The child inherits standard error, so its log goes to its parent's log. Its standard input is a pipe whose end of file
tells it that the parent has died.
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
CHECK_SECONDS = 1.0
FIRST_PAUSE_SECONDS, MOST_PAUSE_SECONDS = 2.0, 120.0
# A worker that ran for longer did start well: whatever ended it, the backoff begins anew.
STARTED_SECONDS = 60.0


class WorkerProcess:
    """Keeps a worker for one device while jobs wait for it.

    `patience` is the time in seconds that a job waits for other workers first.
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
        """Return True while the child process lives."""
        return self._process is not None and self._process.poll() is None

    async def keep(self) -> None:
        """Start the worker whenever a job waits, until cancelled. Run it as a single task; call `close` afterwards."""
        while not self._ending:
            try:
                await self._check()
            except StorageUnavailable as error:
                log.warning("can't check for waiting jobs: %s", error)
            except OSError as error:
                self._back_off(f"can't be started: {error.strerror}")
            await asyncio.sleep(CHECK_SECONDS)

    def terminate(self) -> None:
        """Tell the worker to save a checkpoint and end, and start no other."""
        self._ending = True
        # Once only: a second signal tells a worker not to wait for its checkpoint.
        if self._process is not None and self._process is not self._told and self._process.poll() is None:
            self._told = self._process
            self._process.terminate()

    async def close(self, grace_seconds: float) -> None:
        """End the worker; kill it if it does not end within the grace time. Idempotent."""
        self.terminate()
        process, self._process = self._process, None
        if process is None:
            return
        if not await asyncio.to_thread(_ends_within, process, grace_seconds):
            log.warning("the worker does not end and is killed; its job will go on from the last checkpoint")
            process.kill()
        await asyncio.to_thread(process.communicate)

    async def _check(self) -> None:
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                return
            await asyncio.to_thread(self._process.communicate)
            self._process = None
            if code == 0:
                self._pause = 0.0
            else:
                self._back_off(f"ended with {code}")
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
        # Shielded: a cancellation in the middle would leave a process that no object knows.
        try:
            self._process = await asyncio.shield(starting)
        except asyncio.CancelledError:
            self._process = await starting
            raise
        self._started_at = time.monotonic()
        log.info("a job waits: the worker is process %d", self._process.pid)

    def _back_off(self, why: str) -> None:
        if time.monotonic() - self._started_at > STARTED_SECONDS:
            self._pause = 0.0
        self._pause = min(max(FIRST_PAUSE_SECONDS, self._pause * 2), MOST_PAUSE_SECONDS)
        self._not_before = time.monotonic() + self._pause
        log.error("the worker %s; the next one starts in %.0f s at the earliest", why, self._pause)


def _start_process(device: str) -> subprocess.Popen[bytes]:
    # A process group of its own: Ctrl-C at the terminal must reach the parent only, which passes it on.
    return subprocess.Popen(
        (*COMMAND, "--device", device), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, process_group=0
    )


def _ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True
