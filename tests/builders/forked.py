"""Processes forked from one that has imported Myna: they start in a tenth of a second, where imports take seconds."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).parent.parent.parent
Main = Callable[[list[str]], object]
_fork = multiprocessing.get_context("forkserver")
_fork.set_forkserver_preload(["adapters.cli.serving", "tests.crash.agent", "tests.tools.small_jobs"])


class RunningProcess(Protocol):
    """Methods of `subprocess.Popen` that `ForkedProcess` has, too."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, sig: int, /) -> None: ...

    def kill(self) -> None: ...


class ForkedProcess:
    """A process of its own that runs `main(arguments)` of a module, with its output in `log`.

    `main` and its module are imported by name in the process. Standard input is empty.
    """

    def __init__(self, main: Main, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._process = _fork.Process(target=_run, args=(main, list(arguments), dict(environment), log))
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if (code := self._process.exitcode) is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0)
        return code

    def send_signal(self, sig: int, /) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self) -> None:
        self._process.kill()


def _run(main: Main, arguments: list[str], environment: dict[str, str], log: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(main(arguments))  # type: ignore[arg-type]
