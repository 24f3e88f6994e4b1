"""AI SDK (npm `ai` 6), unmodified, as a client of the web chat."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.builders.web import Visitor, WebServer
from tests.tools.npm import node_environment

pytestmark = pytest.mark.node

SCRIPT = Path(__file__).parents[1] / "node" / "chat.mjs"
WHOLE = ["start", "start-step", "text-start", "text-delta", "text-end", "finish-step", "finish"]


class Sdk:
    """The running script. Each command is answered by one line; events come in between."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._lines: list[dict[str, Any]] = []

    async def tell(self, command: str, chat: str = "a", **options: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"chat": chat, "command": command, **options}).encode() + b"\n")
        await self._process.stdin.drain()

    async def heard(self, key: str, value: str, chat: str = "a") -> dict[str, Any]:
        """The next line of a chat that has this."""
        assert self._process.stdout is not None
        async with asyncio.timeout(30):
            while True:
                for line in self._lines:
                    if line["chat"] == chat and line.get(key) == value:
                        self._lines.remove(line)
                        assert "failed" not in line, line["failed"]
                        return line
                text = await self._process.stdout.readline()
                assert text, "the script ended"
                self._lines.append(json.loads(text))

    async def do(self, command: str, chat: str = "a", **options: Any) -> dict[str, Any]:
        await self.tell(command, chat, **options)
        return await self.heard("done", command, chat)


@asynccontextmanager
async def sdk_of(server: WebServer, visitor: Visitor, chat: str = "c1") -> AsyncIterator[Sdk]:
    node, environment = node_environment()
    token = visitor.headers["Authorization"].removeprefix("Bearer ")
    process = await asyncio.create_subprocess_exec(
        str(node),
        str(SCRIPT),
        f"{server.url}/api/chat",
        token,
        chat,
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**22,
    )
    try:
        yield Sdk(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


@pytest.fixture
async def person(sqlite_server: WebServer) -> Visitor:
    return await sqlite_server.visitor()


@pytest.fixture
async def sdk(sqlite_server: WebServer, person: Visitor) -> AsyncIterator[Sdk]:
    async with sdk_of(sqlite_server, person) as running:
        yield running


def shown(report: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["role"], one["text"]) for one in report["messages"]]


async def test_a_message_is_answered(sdk: Sdk, person: Visitor) -> None:
    report = await sdk.do("send", text="hello")
    assert (report["status"], report["error"]) == ("ready", None)
    assert report["parts"] == WHOLE
    assert report["finishReason"] == "stop"
    assert shown(report) == [("user", "hello"), ("assistant", "hello")]
    assert report["messages"][1]["metadata"] == {"state": "answered"}
    assert await person.history() == shown(report)


async def test_a_second_message_goes_on_with_the_chat(sdk: Sdk, person: Visitor) -> None:
    await sdk.do("send", text="one")
    report = await sdk.do("send", text="two")
    assert shown(report) == [("user", "one"), ("assistant", "one"), ("user", "two"), ("assistant", "two")]
    assert await person.history() == shown(report)
    stored = await person.json("/api/chat/c1")
    assert [one["id"] for one in stored["messages"]] == [one["id"] for one in report["messages"]]


async def test_a_running_reply_is_resumed_from_its_start(sqlite_server: WebServer, sdk: Sdk) -> None:
    hold = asyncio.Event()
    sqlite_server.generator.enqueue("one ", "two", hold=hold)
    await sdk.tell("send", text="count")
    first = await sdk.heard("event", "text")
    await sdk.tell("resume", chat="b")
    second = await sdk.heard("event", "text", chat="b")
    assert (second["streamId"], second["text"]) == (first["streamId"], "one ")
    hold.set()
    sender, resumed = await sdk.heard("done", "send"), await sdk.heard("done", "resume", chat="b")
    assert shown(sender) == [("user", "count"), ("assistant", "one two")]
    assert shown(resumed) == [("assistant", "one two")]
    assert resumed["parts"][-1] == "finish"


async def test_after_a_disconnect_the_reply_goes_on_and_is_resumed(
    sqlite_server: WebServer, sdk: Sdk, person: Visitor
) -> None:
    """`stop()` of the SDK only closes the connection."""
    hold = asyncio.Event()
    sqlite_server.generator.enqueue("one ", "two", hold=hold)
    await sdk.tell("send", text="count")
    await sdk.heard("event", "text")
    await sdk.do("disconnect")
    await sdk.heard("done", "send")
    await sdk.tell("resume", chat="b")
    await sdk.heard("event", "text", chat="b")
    hold.set()
    assert shown(await sdk.heard("done", "resume", chat="b")) == [("assistant", "one two")]
    assert await person.history() == [("user", "count"), ("assistant", "one two")]
    assert sqlite_server.generator.aborted == 0


async def test_with_nothing_running_a_resume_does_nothing(sdk: Sdk) -> None:
    await sdk.do("send", text="hello")
    assert (await sdk.do("read"))["read"] is None
    report = await sdk.do("resume")
    assert (report["status"], report["error"]) == ("ready", None)
    assert shown(report) == [("user", "hello"), ("assistant", "hello")]


async def test_a_resumed_stream_can_be_read_without_a_chat(sqlite_server: WebServer, sdk: Sdk) -> None:
    hold = asyncio.Event()
    sqlite_server.generator.enqueue("one ", "two ", "three", hold=hold)
    await sdk.tell("send", text="count")
    await sdk.heard("event", "text")
    await sdk.tell("read", chat="b")
    async with asyncio.timeout(20):
        while await sqlite_server.metric("myna_streams_open") < 2:
            await asyncio.sleep(0.01)
    hold.set()
    texts = (await sdk.heard("done", "read", chat="b"))["read"]
    assert texts[-1] == "one two three"
    assert all(after.startswith(before) for before, after in itertools.pairwise(texts))


async def test_another_reply_replaces_the_last_one(sqlite_server: WebServer, sdk: Sdk, person: Visitor) -> None:
    first = await sdk.do("send", text="hello")
    sqlite_server.generator.enqueue("better")
    report = await sdk.do("regenerate")
    assert (report["status"], report["error"]) == ("ready", None)
    assert shown(report) == [("user", "hello"), ("assistant", "better")]
    sqlite_server.generator.enqueue("best")
    report = await sdk.do("regenerate", messageId=report["messages"][1]["id"])
    assert shown(report) == [("user", "hello"), ("assistant", "best")]
    assert report["messages"][1]["id"] != first["messages"][1]["id"]
    sqlite_server.generator.enqueue("perfect")
    report = await sdk.do("regenerate", messageId=report["messages"][0]["id"])
    assert shown(report) == [("user", "hello"), ("assistant", "perfect")]
    assert await person.history() == shown(report)


async def test_an_edited_message_gets_an_answer_of_its_own(sdk: Sdk, person: Visitor) -> None:
    first = await sdk.do("send", text="frist")
    await sdk.do("send", text="second")
    report = await sdk.do("send", text="first", messageId=first["messages"][0]["id"])
    assert (report["status"], report["error"]) == ("ready", None)
    assert shown(report) == [("user", "first"), ("assistant", "first")]
    assert await person.history() == shown(report)


async def test_a_stop_ends_the_sdks_stream_with_an_abort(sqlite_server: WebServer, sdk: Sdk, person: Visitor) -> None:
    sqlite_server.generator.enqueue("one ", "two", hold=asyncio.Event())
    await sdk.tell("send", text="count")
    running = await sdk.heard("event", "text")
    assert await person.stop(running["streamId"]) is True
    report = await sdk.heard("done", "send")
    assert (report["status"], report["error"]) == ("ready", None)
    assert report["last"] == {"type": "abort", "reason": "stopped"}
    assert shown(report) == [("user", "count"), ("assistant", "one ")]
    assert report["messages"][1]["metadata"] == {"state": "stopped"}
    assert await person.history() == shown(report)
    assert (await sdk.do("read"))["read"] is None


async def test_a_refusal_reaches_the_application_with_its_words(sqlite_server: WebServer, sdk: Sdk) -> None:
    report = await sdk.do("send", text=" ")
    assert report["status"] == "error"
    assert json.loads(report["error"])["error"]["code"] == "invalid_input"


async def test_a_failed_reply_is_a_finish_not_a_broken_stream(sqlite_server: WebServer, sdk: Sdk) -> None:
    """The text that ends it tells the person; the state tells the application."""
    words = "word " * 3_000
    report = await sdk.do("send", text=words)
    assert (report["status"], report["error"]) == ("ready", None)
    assert report["finishReason"] == "other"
    assert report["messages"][1]["metadata"] == {"state": "refused"}
    assert report["messages"][1]["text"]
