"""The `myna` program as a test runs it: in a folder of its own, with the test's settings and no others."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes.openai_server import OpenAIServer

MYNA = [sys.executable, "-m", "adapters.cli.main"]


@dataclass(frozen=True)
class Done:
    """An ended run of `myna`: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def rows(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


class Cli:
    """Runs `myna` in an empty working folder, with the settings of the test and no others."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.settings: dict[str, str] = {"MYNA_DATA": str(self.data)}

    @property
    def environment(self) -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if not name.startswith("MYNA_")} | self.settings

    def __call__(self, *arguments: str, stdin: str = "", **settings: str) -> Done:
        done = subprocess.run(
            [*MYNA, *arguments],
            env=self.environment | settings,
            cwd=self.folder,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    async def beside(self, *arguments: str, stdin: str = "", **settings: str) -> Done:
        """Run without stopping the loop, on which the scripted server answers."""
        return await asyncio.to_thread(self, *arguments, stdin=stdin, **settings)


def remote(server: OpenAIServer) -> dict[str, str]:
    """Return settings that have a scripted server answer."""
    return {"MYNA_GENERATOR": "remote", "MYNA_REMOTE_URL": server.url, "MYNA_MODEL": "served"}
