"""The whole learning loop with the starter model: import, train, promote, roll back. Takes minutes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bot.jobs import worker_process
from tests.builders.cli import Cli
from tests.builders.plant_shop import SYSTEM, rows
from tests.conftest import ServerProcess, serve_process

pytestmark = [pytest.mark.model, pytest.mark.slow]

COMMON = {
    "MYNA_SYSTEM_PROMPT": SYSTEM,
    "MYNA_MAX_REPLY_TOKENS": "24",
    "MYNA_TEMPERATURE": "0",
    "MYNA_API_KEYS": "off",
    "MYNA_CONTEXT_TOKENS": "512",
    "MYNA_TRAINING_PRIORITY": "normal",
    "MYNA_TRAINING": "off",
    # Beside other tests two threads would wait for each other most of the time.
    "MYNA_TRAINING_THREADS": "1",
}
# Conversations at one time, on both sides of a trial.
CHATS = 6


@pytest.fixture
def short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the worker process of a command train and judge with fewer rows."""
    command = (sys.executable, "-m", "tests.tools.short_training", *worker_process.COMMAND[3:])
    monkeypatch.setattr(worker_process, "COMMAND", command)


class Shop:
    """Myna of a shop: data folder, commands, server."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.server: ServerProcess = serve_process(data, is_forked=False, **COMMON)
        self.myna = Cli(data.parent, {**COMMON, "MYNA_DATA": str(data)})

    async def chat(self, conversation: str, text: str) -> dict[str, Any]:
        body = {
            "model": "smollm2-135m-instruct",
            "messages": [{"role": "user", "content": text}],
            "metadata": {"conversation": conversation},
        }
        return await self._post("/v1/chat/completions", body)

    async def correct(self, conversation: str, better: str) -> None:
        await self._post("/v1/feedback", {"conversation": conversation, "value": -1, "better": better})

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        timeout = aiohttp.ClientTimeout(total=120)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(f"{self.server.url}{path}", json=body) as response,
        ):
            answer: dict[str, Any] = await response.json()
            assert response.status == 200, answer
            return answer

    def replies(self) -> list[tuple[str, str | None]]:
        """`(state, version)` of every reply that a model gave, in order."""
        return self._read("SELECT state, version FROM reply WHERE model != 'import' ORDER BY created_at")

    def customer_in_training(self) -> str:
        """One of those whose words were learnt: some are only judged by, and not always the same ones."""
        learnt = self._read(
            "SELECT identity.external_id FROM dataset_example JOIN identity USING (person_id)"
            " WHERE split = 'train' AND external_id LIKE 'customer-%' ORDER BY external_id"
        )
        return f"import:{learnt[0][0]}"

    def _read(self, query: str) -> list[Any]:
        with contextlib.closing(sqlite3.connect(f"file:{self.data / 'myna.db'}?mode=ro", uri=True)) as database:
            return database.execute(query).fetchall()


def text_of(completion: dict[str, Any]) -> str:
    return str(completion["choices"][0]["message"]["content"])


@pytest.mark.usefixtures("short_training")
async def test_from_conversations_to_a_better_model_and_back(model_data: Callable[[], Path], tmp_path: Path) -> None:
    shop = Shop(model_data())
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows()[:90]), encoding="utf-8")

    imported = await shop.myna.beside("import", str(file), "--json")
    assert imported.code == 0, imported.err
    await shop.server.start()
    try:
        await tell_the_story(shop)
    finally:
        await shop.server.stop()


async def tell_the_story(shop: Shop) -> None:
    # Chat with the base, and correct it.
    question = "Where is my dahlia?"
    first = await shop.chat("dahlia-1", question)
    assert "Birch and Bloom!" not in text_of(first)
    await shop.correct("dahlia-1", "Hello from Birch and Bloom! Your dahlia comes with the Friday van at 9 o'clock.")

    # Train; the gate looks at what came of it.
    trained = await shop.myna.beside("train", "--wait", "--json")
    job = json.loads(trained.out.splitlines()[-1])
    assert trained.code == 0, trained.err[-3000:]
    result = job["result"]
    assert result["passed"], result["reasons"]
    name = result["version"]
    shown = (await shop.myna.beside("dataset", "show", result["dataset"], "--json")).json
    assert shown["counts"]["sources"].get("correction", 0) >= 1, "what was corrected in the chat is learnt from"

    # Try it on half of the conversations: some get it, some don't, and each keeps what it has.
    tried = await shop.myna.beside("canary", name, "--share", "50%", "--yes", "--json")
    assert tried.code == 0, tried.err
    await asyncio.gather(*(shop.chat(f"trial-{number}", "Can I return a rose?") for number in range(CHATS)))
    in_trial = shop.replies()[1:]
    assert {version for _, version in in_trial} == {None, name}
    await asyncio.gather(*(shop.chat(f"trial-{number}", "Does the rose like sun?") for number in range(CHATS)))
    again = shop.replies()[1 + CHATS :]
    assert sorted(map(repr, again)) == sorted(map(repr, in_trial))

    # Promote while people write: nothing is lost, and what is asked afterwards is answered by the new one.
    before = len(shop.replies())
    load = [asyncio.create_task(shop.chat(f"load-{number}", "What does a rose cost?")) for number in range(CHATS)]
    promoted = await shop.myna.beside("promote", name, "--yes", "--json")
    assert promoted.code == 0, promoted.err
    await asyncio.gather(*load)
    assert {state for state, _ in shop.replies()} == {"answered"}
    assert len(shop.replies()) == before + CHATS
    answer = await shop.chat("dahlia-2", question)
    assert shop.replies()[-1] == ("answered", name)
    assert "Hello from Birch and Bloom!" in text_of(answer)

    # And back.
    rolled_back = await shop.myna.beside("rollback", "--because", "only to see", "--yes", "--json")
    assert rolled_back.code == 0, rolled_back.err
    await shop.chat("dahlia-3", question)
    assert shop.replies()[-1] == ("answered", None)

    # Somebody wants to be forgotten: what has learnt their words is retired.
    erased = await shop.myna.beside("erase", shop.customer_in_training(), "--yes", "--json")
    assert erased.code == 0, erased.err
    refused = await shop.myna.beside("promote", name, "--yes")
    assert refused.code != 0
    assert "erased" in refused.err
    audited = await shop.myna.beside("audit", "--json", "--most", "100")
    actions = [json.loads(line)["action"] for line in audited.out.splitlines()]
    assert actions.count("version.promoted") == 1, actions
