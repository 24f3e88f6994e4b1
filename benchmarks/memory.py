"""Memory of the server process: resident megabytes, as Linux reports them.

    python -m benchmarks.memory                 both parts
    python -m benchmarks.memory --part model    only `myna serve` with its model

The first part opens conversations on a server whose model answers at once, then leaves a number of replies running,
each with its reader connected. The second starts `myna serve` with the model of the settings and talks to it.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.pipeline import InstantGenerator, say, serve
from benchmarks.table import print_rows
from bot.access.installation import migrate_database
from bot.generation.port import Event, Piece, Prompt, Sampling
from bot.settings import Settings

MEGABYTE = 2**20
STUCK = "Please wait."


class SometimesStuckGenerator(InstantGenerator):
    """Answers at once, but never ends a reply to a message that asks it to wait."""

    async def stream(
        self, prompt: Prompt, sampling: Sampling, version: str | None = None, *, priority: int = 0
    ) -> AsyncGenerator[Event, None]:
        if prompt.messages[-1].content == STUCK:
            yield Piece("One moment ")
            await asyncio.Event().wait()
        async for event in super().stream(prompt, sampling, version):
            yield event


def resident(pid: int) -> tuple[float, float]:
    """Return a process's resident megabytes now and at their peak (proc(5): VmRSS, VmHWM)."""
    status = Path(f"/proc/{pid}/status").read_text()
    now, peak = (int(re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)[1]) for name in ("VmRSS", "VmHWM"))  # type: ignore[index]
    return round(now / 1024, 1), round(peak / 1024, 1)


def row(what: str, pid: int, idle: float) -> dict[str, Any]:
    now, peak = resident(pid)
    return {
        "state".ljust(40): what.ljust(40),
        "resident_mb": now,
        "over_idle_mb": round(now - idle, 1),
        "peak_mb": peak,
    }


# --- many conversations ---


def server_process(url: str, ready: Any) -> None:
    asyncio.run(serve(url, ready, SometimesStuckGenerator()))


@contextmanager
def pipeline_server() -> Iterator[tuple[int, int]]:
    """Run a server whose model answers at once, and yield its process id and port."""
    url = f"sqlite:///{tempfile.mkdtemp()}/memory.db"
    migrate_database(Settings(data=Path(tempfile.mkdtemp()), database_url=url), lambda _: None)
    ready: Any = multiprocessing.Queue()
    server = multiprocessing.Process(target=server_process, args=(url, ready), daemon=True)
    server.start()
    try:
        assert server.pid is not None
        yield server.pid, ready.get(timeout=60)
    finally:
        server.terminate()
        server.join()


async def open_conversations(
    pid: int, port: int, conversations: int, running: int, report: Callable[..., None]
) -> None:
    base = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        async with session.post(f"{base}/api/visitor", json={}) as response:
            token = (await response.json())["token"]
        for number in range(50):
            await say(session, base, token, f"warm{number}", 0)
        idle, _ = resident(pid)
        report(row("idle", pid, idle))
        for start in range(0, conversations, 50):
            await asyncio.gather(*(say(session, base, token, f"c{i}", 0) for i in range(start, start + 50)))
        report(row(f"{conversations:,} conversations open", pid, idle))
        waiting = [asyncio.create_task(say(session, base, token, f"r{i}", 0, STUCK)) for i in range(running)]
        await until_open(session, base, running)
        report(row(f"... and {running:,} readers of running replies", pid, idle))
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)


async def until_open(session: aiohttp.ClientSession, base: str, streams: int) -> None:
    while True:
        async with session.get(f"{base}/metrics") as response:
            if f"myna_streams_open {float(streams)}" in await response.text():
                return
        await asyncio.sleep(0.2)


# --- the real model ---


@contextmanager
def model_server() -> Iterator[tuple[int, str]]:
    """Run `myna serve` on an empty database with the model of the settings, and yield its process id and URL."""
    environment = {**os.environ, "MYNA_PORT": "0", "MYNA_DATABASE_URL": f"sqlite:///{tempfile.mkdtemp()}/memory.db"}
    server = subprocess.Popen(
        [sys.executable, "-m", "adapters.cli.main", "serve"], env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        yield server.pid, url_of(server)
    finally:
        server.terminate()
        server.wait()


def url_of(server: subprocess.Popen[str]) -> str:
    assert server.stderr is not None
    url = ""
    for line in server.stderr:
        if "loaded" in line:
            return url
        if found := re.search(r"http://\S+:\d+", line):
            url = found[0]
    raise SystemExit("`myna serve` ended; start it by hand to see why.")


async def hold_a_conversation(pid: int, url: str, report: Callable[..., None]) -> None:
    async with aiohttp.ClientSession() as session:
        idle, _ = resident(pid)
        report(row("model loaded", pid, idle))
        async with session.post(f"{url}/api/visitor", json={}) as response:
            token = (await response.json())["token"]
        for number in range(3):
            await say(session, url, token, "c1", number, "Tell me a story about a parcel, please.")
        report(row("after three replies", pid, idle))


def main() -> None:
    parser = argparse.ArgumentParser(description="Resident memory of Myna.")
    parser.add_argument("--part", choices=["conversations", "model", "both"], default="both")
    parser.add_argument("--conversations", type=int, default=10_000)
    parser.add_argument("--running", type=int, default=1_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    print_rows(measure(arguments), as_json=arguments.json)


def measure(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    if arguments.part != "model":
        with pipeline_server() as (pid, port):
            asyncio.run(open_conversations(pid, port, arguments.conversations, arguments.running, rows.append))
        yield from rows
        rows.clear()
    if arguments.part != "conversations":
        with model_server() as (pid, url):
            asyncio.run(hold_a_conversation(pid, url, rows.append))
        yield from rows


if __name__ == "__main__":
    main()
