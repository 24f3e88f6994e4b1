"""Run `myna` as a person or a script does, in this process or in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from adapters.cli import main
from tests.fakes.openai_server import OpenAIServer

ROOT = Path(__file__).parent.parent.parent
MYNA: Sequence[str] = (sys.executable, "-m", "adapters.cli.main")
# Streams, environment and working folder belong to the whole process, so that commands in it take turns.
_turn = threading.Lock()


@dataclass(frozen=True)
class Done:
    """A run that has ended: its exit code and what it printed."""

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
    """Runs `myna` in this process, in the working folder and with the settings of the test alone.

    It takes a tenth of the time of a process. Signals, locks between processes, broken pipes, and commands that run
    until they are stopped need a process: see `process`. No run may show a traceback; only a worker that it starts may
    log one, where `worker_may_fail`.
    """

    worker_may_fail = False

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.settings: dict[str, str] = {"MYNA_DATA": str(folder / "data"), **(settings or {})}

    @property
    def data(self) -> Path:
        return Path(self.settings["MYNA_DATA"])

    @property
    def environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MYNA_")}
        return inherited | {"PYTHONPATH": str(ROOT)} | self.settings

    @property
    def process(self) -> CliProcess:
        """Return a runner of the same command line with a process for each run."""
        return CliProcess(self.folder, self.settings)

    def __call__(self, *arguments: str, stdin: str | bytes = "", **settings: str) -> Done:
        given = stdin.encode() if isinstance(stdin, str) else stdin
        done = self._run(arguments, given, self.environment | settings)
        assert "Traceback" not in (done.out if self.worker_may_fail else done.out + done.err), done.err
        return done

    async def beside(self, *arguments: str, stdin: str | bytes = "", **settings: str) -> Done:
        """Run in a thread, so that a scripted server on the loop may answer meanwhile."""
        return await asyncio.to_thread(self, *arguments, stdin=stdin, **settings)

    def _run(self, arguments: Sequence[str], given: bytes, environment: Mapping[str, str]) -> Done:
        with (
            _turn,
            mock.patch.dict(os.environ, environment, clear=True),
            contextlib.chdir(self.folder),
            _nothing_left_behind(),
            _streams(given) as printed,
            _fresh_logging(),
        ):
            try:
                code = main.main(arguments)
            except SystemExit as ended:
                assert isinstance(ended.code, int), ended.code
                code = ended.code
        return Done(code, printed["out"], printed["err"])


class CliProcess(Cli):
    """Runs `myna` in a process of its own."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None, command: Sequence[str] = MYNA) -> None:
        super().__init__(folder, settings)
        self.command = command

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the command as a shell does, in a process group of its own."""
        return subprocess.Popen(
            [*self.command, *arguments],
            env=self.environment,
            cwd=self.folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
        )

    def _run(self, arguments: Sequence[str], given: bytes, environment: Mapping[str, str]) -> Done:
        done = subprocess.run(
            [*self.command, *arguments], env=environment, cwd=self.folder, input=given, capture_output=True, timeout=120
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


@contextlib.contextmanager
def _streams(given: bytes) -> Iterator[dict[str, str]]:
    """Replace the standard streams with files that are no terminal; yield the printed text, filled in at the end.

    Standard error is a file, because a worker that the command starts inherits it.
    """
    printed: dict[str, str] = {}
    source = io.TextIOWrapper(io.BytesIO(given), encoding="utf-8")
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with tempfile.TemporaryFile() as file:
        err = io.TextIOWrapper(file, encoding="utf-8", write_through=True)
        before = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            with mock.patch.multiple(sys, stdin=source, stdout=out, stderr=err):
                yield printed
        finally:
            os.dup2(before, 2)
            os.close(before)
        for name, stream in (("out", out), ("err", err)):
            stream.seek(0)
            printed[name] = stream.read()


@contextlib.contextmanager
def _fresh_logging() -> Iterator[None]:
    """Let the command set up logging as in a new process, and put back what was there."""
    known = [logger for logger in logging.root.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    loggers = [logging.root, *known]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    loggers[0].handlers.clear()
    try:
        yield
    finally:
        for logger, level, handlers in before:
            logger.setLevel(level)
            logger.handlers[:] = handlers


@contextlib.contextmanager
def _nothing_left_behind() -> Iterator[None]:
    """Fail if a thread is left that would keep a process from ending, except beside a loop that may start threads."""
    before = set(threading.enumerate())
    yield
    if threading.current_thread() is threading.main_thread():
        left = [one for one in threading.enumerate() if one not in before and not one.daemon]
        assert left == [], "a process would not end"


def remote(server: OpenAIServer) -> dict[str, str]:
    """Return the settings for a scripted model behind an OpenAI API."""
    return {"MYNA_GENERATOR": "remote", "MYNA_REMOTE_URL": server.url, "MYNA_MODEL": "served"}
