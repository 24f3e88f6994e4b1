"""Latency of acknowledging Slack's events, while the database is busy with replies and web visitors.

    python -m benchmarks.slack_acks                 SQLite
    python -m benchmarks.slack_acks --postgresql    PostgreSQL, started for the run

Signed events come at a steady rate, each a direct message in a thread of its own, and every one is answered into a
Slack of ours on the same machine. Slack gives three seconds. The load and that Slack are a second process.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from adapters.cli.web_wiring import make_web_app
from adapters.cli.wiring import running_agent
from benchmarks.pipeline import InstantGenerator, new_postgresql, say
from benchmarks.table import print_rows
from bot.access.installation import migrate_database
from bot.settings import Settings
from tests.fakes.slack.deliveries import EVENTS, signed
from tests.fakes.slack.records import SECRET, TOKEN
from tests.fakes.slack.server import FakeSlack, running_slack


async def serve(url: str, slack_url: str, ready: Any) -> None:
    settings = Settings(
        data=Path(tempfile.mkdtemp()),
        database_url=url,
        log_level="error",
        slack_bot_token=TOKEN,
        slack_signing_secret=SECRET,
        slack_api_url=slack_url,
    )
    async with running_agent(settings, InstantGenerator()) as agent:
        runner = web.AppRunner(make_web_app(agent), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=2048).start()
        ready.put(runner.addresses[0][1])
        await asyncio.Event().wait()


def server_process(url: str, slack_url: str, ready: Any) -> None:
    asyncio.run(serve(url, slack_url, ready))


async def acknowledge(session: aiohttp.ClientSession, base: str, slack: FakeSlack, number: int) -> float:
    """Send an event; return the seconds until it is acknowledged."""
    channel, user = f"D{number % 500:05}", f"U{number % 500:05}"
    content = json.dumps(slack.message(f"Where is my parcel {number}?", channel=channel, user=user)).encode()
    started = time.perf_counter()
    async with session.post(base + EVENTS, data=content, headers=signed(content)) as response:
        assert response.status == 200, await response.text()
    return time.perf_counter() - started


async def visit(session: aiohttp.ClientSession, base: str, rate: float) -> None:
    """Chat as visitors of the web chat, until cancelled."""
    async with session.post(f"{base}/api/visitor", json={}) as response:
        token = (await response.json())["token"]
    number, running = 0, set()
    while True:
        await asyncio.sleep(1 / rate)
        number += 1
        task = asyncio.create_task(say(session, base, token, f"chat{number % 100}", number))
        running.add(task)
        task.add_done_callback(running.discard)


async def measure(slack: FakeSlack, port: int, rate: float, seconds: float, web_rate: float) -> dict[str, Any]:
    base = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        visitors = asyncio.create_task(visit(session, base, web_rate))
        await asyncio.gather(*[acknowledge(session, base, slack, number) for number in range(20)])
        started, steady = time.perf_counter(), []
        for number in range(20, 20 + int(rate * seconds)):
            await asyncio.sleep(max(0.0, started + (number - 20) / rate - time.perf_counter()))
            steady.append(asyncio.create_task(acknowledge(session, base, slack, number)))
        latencies = sorted(await asyncio.gather(*steady))
        visitors.cancel()
        answered = await until_answered(slack, 20 + len(steady))
    return {
        "events": len(latencies),
        "p50_ms": round(1000 * statistics.median(latencies), 1),
        "p99_ms": round(1000 * latencies[int(0.99 * len(latencies))], 1),
        "most_ms": round(1000 * latencies[-1], 1),
        "answered": answered,
    }


async def until_answered(slack: FakeSlack, count: int) -> int:
    """Wait until every message is answered or no more replies come; return the number of replies."""
    seen = -1
    while seen != (now := len(slack.called("chat.postMessage"))) and now < count:
        seen = now
        await asyncio.sleep(3)
    return len(slack.posted)


async def run(arguments: argparse.Namespace, url: str) -> dict[str, Any]:
    async with running_slack() as slack:
        ready: Any = multiprocessing.get_context("spawn").Queue()
        server = multiprocessing.get_context("spawn").Process(
            target=server_process, args=(url, slack.url, ready), daemon=True
        )
        server.start()
        try:
            port = await asyncio.to_thread(ready.get, timeout=60)
            return await measure(slack, port, arguments.rate, arguments.seconds, arguments.web_rate)
        finally:
            server.terminate()
            await asyncio.to_thread(server.join)


def main() -> None:
    parser = argparse.ArgumentParser(description="Latency of acknowledging Slack's events.")
    parser.add_argument("--postgresql", action="store_true", help="start a PostgreSQL server for the run")
    parser.add_argument("--folder", help="where the database lies; /dev/shm leaves out what the disk takes")
    parser.add_argument("--rate", type=float, default=100.0, help="events a second")
    parser.add_argument("--web-rate", type=float, default=30.0, help="messages a second of the web chat beside them")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        print_rows((run_once(arguments) for _ in range(arguments.repeat)), as_json=arguments.json)


def run_once(arguments: argparse.Namespace) -> dict[str, Any]:
    folder = tempfile.mkdtemp(prefix="myna-bench-", dir=arguments.folder)
    url = new_postgresql(Path(folder)) if arguments.postgresql else f"sqlite:///{folder}/acks.db"
    migrate_database(Settings(data=Path(tempfile.mkdtemp()), database_url=url), lambda _: None)
    return {"database": url.partition(":")[0], **asyncio.run(run(arguments, url))}


if __name__ == "__main__":
    main()
