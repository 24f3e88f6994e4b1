"""Latency of replies while a training runs on the same machine.

    python -m benchmarks.chat_while_training rows.jsonl

Serves the starter model, imports the file (chat `messages`), and asks one question after another, over HTTP and each in
a conversation of its own: first with nothing else running, then while a training of 150 rows is at its steps, and while
it is at its evaluation. Prints the median and the 95th percentile of the whole reply and of its first token, and their
ratios to the first.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.table import print_rows
from bot.generation.models.sources import STARTER, resolve_model
from bot.settings import load_settings
from tests.conftest import serve_process

QUESTIONS = (
    "Where is my order {number}?",
    "How do I send parcel {number} back?",
    "What does delivery to street {number} cost?",
    "Can I pay invoice {number} later?",
    "My account {number} is locked. What now?",
)
SETTINGS = {"MYNA_API_KEYS": "off", "MYNA_MAX_REPLY_TOKENS": "48", "MYNA_TEMPERATURE": "0", "MYNA_LOG_LEVEL": "error"}


def myna(data: Path, *arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "adapters.cli.main", *arguments, "--json"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(data), "MYNA_DATA": str(data)},
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else None


async def ask(session: aiohttp.ClientSession, url: str, number: int) -> tuple[float, float]:
    """Ask a question; return the seconds to the first token and to the end."""
    text = QUESTIONS[number % len(QUESTIONS)].format(number=4000 + number)
    body = {"model": STARTER, "messages": [{"role": "user", "content": text}], "stream": True}
    began, first = time.perf_counter(), None
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        async for line in response.content:
            if first is None and b'"content":"' in line.replace(b": ", b":"):
                first = time.perf_counter() - began
    return first or 0.0, time.perf_counter() - began


async def ask_many(url: str, count: int, first_number: int) -> list[tuple[float, float]]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as session:
        return [await ask(session, url, first_number + number) for number in range(count)]


def summed_up(when: str, timings: list[tuple[float, float]]) -> dict[str, Any]:
    row: dict[str, Any] = {"when": when, "replies": len(timings)}
    for place, name in enumerate(("first token", "reply")):
        values = sorted(1000 * one[place] for one in timings)
        row[f"{name} p50 ms"] = round(statistics.median(values))
        row[f"{name} p95 ms"] = round(values[round(0.95 * (len(values) - 1))])
    return row


async def measure(file: Path, count: int) -> list[dict[str, Any]]:
    settings = load_settings({})
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        (data / "models").mkdir()
        (data / "models" / STARTER).symlink_to(resolve_model(STARTER, settings.data, print))
        myna(data, "import", str(file))
        server = serve_process(data, **SETTINGS)
        await server.start()
        try:
            await ask_many(server.url, 3, 0)
            idle = await ask_many(server.url, count, 100)
            await asyncio.to_thread(myna, data, "train", "--rows", "150")
            await until_phase(data, "answers")
            training = await ask_many(server.url, count, 500)
            job = await until_phase(data, "answers")
            await until_phase(data, "evaluation")
            evaluating = await ask_many(server.url, count, 900)
            await until_phase(data, "evaluation")
        finally:
            await server.stop()
    measured = (("idle", idle), ("training", training), ("evaluation", evaluating))
    rows = [summed_up(when, timings) for when, timings in measured]
    speeds = ("", round(job["progress"]["tokens_per_second"]), "")
    return [row | ratios(row, rows[0]) | {"tokens/s trained": speed} for row, speed in zip(rows, speeds, strict=True)]


def ratios(row: dict[str, Any], first: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{name} p95, ratio": round(row[f"{name} p95 ms"] / first[f"{name} p95 ms"], 2)
        for name in ("first token", "reply")
    }


async def until_phase(data: Path, phase: str) -> Any:
    """Wait until the training is in the phase, and return its job; the phase may end right after."""
    while True:
        (job,) = await asyncio.to_thread(myna, data, "jobs")
        if job["state"] not in ("queued", "running"):
            raise SystemExit(f"the training ended: {job}")
        if ((job["progress"] or {}).get("phase") or "").startswith(phase):
            return job
        await asyncio.sleep(3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--replies", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    print_rows(asyncio.run(measure(arguments.file, arguments.replies)), as_json=arguments.json)


if __name__ == "__main__":
    main()
