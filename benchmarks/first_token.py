"""Time to first token with and without knowledge, one conversation at a time.

Part of `python -m benchmarks.knowledge DATA`. Each question about kb_en is asked over the web chat, of a server with
the articles and then of a server without; replies in Myna's own words ("I don't know", an article) are counted apart,
as no model is asked for them.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from benchmarks.knowledge_installation import Knowledge, read_rows

QUESTIONS, WARM = 45, 5
START_SECONDS = 180.0
OWN_WORDS = ("I don't know", "Our article")


@dataclass(frozen=True, slots=True)
class Reply:
    first_ms: float
    text: str

    @property
    def is_models(self) -> bool:
        return not self.text.startswith(OWN_WORDS)


@asynccontextmanager
async def server(data: Path) -> AsyncIterator[str]:
    """Run a server on the data folder, and yield its address."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MYNA_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "adapters.cli.main", "serve"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment | {"MYNA_DATA": str(data), "MYNA_PORT": str(port), "MYNA_TRAINING": "off"},
    )
    try:
        await _ready(f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait)


async def _ready(base: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline:
            try:
                async with session.get(f"{base}/readyz") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.2)
    raise SystemExit(f"no server answers at {base}")


async def ask(session: aiohttp.ClientSession, base: str, token: str, question: str) -> Reply:
    body = {
        "id": uuid.uuid4().hex,
        "trigger": "submit-message",
        "messages": [{"id": uuid.uuid4().hex, "role": "user", "parts": [{"type": "text", "text": question}]}],
    }
    started, first, text = time.perf_counter(), 0.0, ""
    async with session.post(f"{base}/api/chat", json=body, headers={"Authorization": f"Bearer {token}"}) as response:
        async for line in response.content:
            if b'"type":"start"' in line:
                text = ""
            elif b'"text-delta"' in line:
                first = first or time.perf_counter() - started
                text += json.loads(line[6:])["delta"]
    return Reply(first * 1000, text)


async def measure(data: Path, work: Path) -> None:
    """Print all figures."""
    knowledge = Knowledge(work / "with-articles")
    await knowledge.read(data / "kb_en" / "articles")
    await knowledge.close()
    rows = random.Random(4).sample(read_rows(data / "kb_en" / "questions.jsonl"), QUESTIONS)
    async with (
        server(work / "with-articles") as known,
        server(work / "without") as plain,
        aiohttp.ClientSession() as session,
    ):
        replies: dict[str, list[Reply]] = {known: [], plain: []}
        tokens = {base: await _visitor(session, base) for base in replies}
        for row in rows:
            for base, found in replies.items():
                found.append(await ask(session, base, tokens[base], row["question"]))
    _report(replies[known][WARM:], replies[plain][WARM:])


async def _visitor(session: aiohttp.ClientSession, base: str) -> str:
    async with session.post(f"{base}/api/visitor", json={}) as response:
        return str((await response.json())["token"])


def _report(known: list[Reply], plain: list[Reply]) -> None:
    made = statistics.median(one.first_ms for one in known if one.is_models)
    without = statistics.median(one.first_ms for one in plain)
    own = [one.first_ms for one in known if not one.is_models]
    print(
        f"first word with articles {made:.0f} ms, without {without:.0f} ms: {made - without:.0f} ms added "
        f"(medians of {len(known) - len(own)} and {len(plain)})"
    )
    if own:
        print(f"{len(own)} replies in Myna's own words: {statistics.median(own):.0f} ms")
