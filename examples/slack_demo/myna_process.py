"""`myna serve` as a child process, connected to the fake Slack."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import aiohttp

from bot.settings import load_settings
from tests.fakes.slack.records import APP_TOKEN, SECRET, TOKEN

STOP_SECONDS = 30.0
LOG_LINES = 15


class MynaEnded(Exception):
    """Myna ended by itself; the message has its last words."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def slack_settings(api_url: str, *, socket_mode: bool) -> dict[str, str]:
    """Return the settings that connect Myna to the fake Slack."""
    way = {"MYNA_SLACK_APP_TOKEN": APP_TOKEN} if socket_mode else {"MYNA_SLACK_SIGNING_SECRET": SECRET}
    return {"MYNA_SLACK_BOT_TOKEN": TOKEN, "MYNA_SLACK_API_URL": api_url, **way}


def prepare_data(data: Path, environ: Mapping[str, str]) -> None:
    """Make the data folder, with the person's own models linked, so that none is downloaded again."""
    models = load_settings(environ).data / "models"
    models.mkdir(parents=True, exist_ok=True)
    data.mkdir(parents=True, exist_ok=True)
    if not (data / "models").exists():
        (data / "models").symlink_to(models)


class MynaProcess:
    """`myna serve` under the person's own settings, except for the address, the database and Slack."""

    def __init__(self, data: Path, port: int, environ: Mapping[str, str], slack: Mapping[str, str]) -> None:
        others = {name: value for name, value in environ.items() if not name.startswith("MYNA_SLACK_")}
        own = {
            "MYNA_DATA": str(data),
            "MYNA_DATABASE_URL": f"sqlite:///{data / 'myna.db'}",
            "MYNA_HOST": "127.0.0.1",
            "MYNA_PORT": str(port),
            "MYNA_PUBLIC_URL": "",
            # Empty, or those of a settings file would hold, which may name a real Slack.
            "MYNA_SLACK_CLIENT_ID": "",
            "MYNA_SLACK_CLIENT_SECRET": "",
            "MYNA_SLACK_SIGNING_SECRET": "",
            "MYNA_SLACK_APP_TOKEN": "",
        }
        self.url = f"http://127.0.0.1:{port}"
        self._environ = {**others, **own, **slack}
        self._log = data / "myna.log"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start Myna in a session of its own, so that Ctrl-C reaches only us, and we end it in order."""
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "adapters.cli.main", "serve"),
                env=self._environ,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def until_ready(self) -> None:
        """Wait for the model. Raises `MynaEnded`."""
        async with aiohttp.ClientSession() as session:
            while not await self._answers(session):
                if self._process is None or self._process.returncode is not None:
                    raise self._last_words()
                await asyncio.sleep(0.2)

    async def _answers(self, session: aiohttp.ClientSession) -> bool:
        try:
            async with session.get(f"{self.url}/readyz") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    async def until_it_ends(self) -> None:
        """Wait until Myna ends by itself, and raise `MynaEnded`."""
        if self._process is not None:
            await self._process.wait()
        raise self._last_words()

    def _last_words(self) -> MynaEnded:
        lines = self._log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        code = self._process.returncode if self._process else None
        return MynaEnded(f"Myna ended with status {code}. The last lines of its log:\n  " + "\n  ".join(lines))

    async def stop(self) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()
