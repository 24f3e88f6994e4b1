"""The unchanged npm package `@slack/bolt` works with the fake Slack.

Over HTTP and over sockets; a person acts, and the tests look at the state of the fake.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.fakes.slack.deliveries import signed
from tests.fakes.slack.records import APP_TOKEN, BOT, SECRET, TOKEN
from tests.fakes.slack.server import FakeSlack
from tests.tools.npm import node_environment

pytestmark = [pytest.mark.node, pytest.mark.slow]

SCRIPT = Path(__file__).parents[1] / "node" / "bolt.mjs"


class Bolt:
    """The running Bolt script, which prints each request it gets."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def told(self, what: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        async with asyncio.timeout(30):
            while line := await self._process.stdout.readline():
                found: dict[str, Any] = json.loads(line)
                assert found["what"] != "error", found
                if found["what"] == what:
                    return found
        raise AssertionError("the script ended")


@pytest.fixture(params=["http", "sockets"])
async def bolt(bare_slack: FakeSlack, request: pytest.FixtureRequest) -> AsyncIterator[Bolt]:
    node, environment = node_environment()
    process = await asyncio.create_subprocess_exec(
        str(node),
        str(SCRIPT),
        request.param,
        bare_slack.url,
        TOKEN,
        SECRET,
        APP_TOKEN,
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        started = Bolt(process)
        port = (await started.told("listens"))["port"]
        bare_slack.bot_url = f"http://127.0.0.1:{port}" if port else ""
        yield started
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def test_a_mention_a_stream_feedback_a_modal_and_a_command(bare_slack: FakeSlack, bolt: Bolt) -> None:
    asked = await bare_slack.say(f"<@{BOT}> hello")
    await bolt.told("mention")
    assert bare_slack.texts_in(asked) == [f"heard: <@{BOT}> hello"]
    asked = await bare_slack.say("when do the roses bloom?", channel="D0ANA")
    await bolt.told("streamed")
    assert bare_slack.texts_in(asked) == ["In May."]
    answer = bare_slack.posted[-1]
    assert answer["streaming_state"] == "completed"
    assert (await bare_slack.click("D0ANA", answer["ts"], "feedback", "bad")).status == 200
    assert (await bolt.told("feedback"))["value"] == "bad"
    (view,) = bare_slack.views.values()
    for value, is_open in (("no", True), ("It was June.", False)):
        await bare_slack.submit(view, {"why": {"text": {"type": "plain_text_input", "value": value}}})
        assert (await bolt.told("submitted"))["value"] == value
        assert (view.open, bool(view.errors)) == (is_open, is_open)
    await bare_slack.slash("/myna", "help")
    await bolt.told("command")
    assert [one.text for one in bare_slack.ephemerals] == ["at once: help"]
    assert bare_slack.posted[-1]["text"] == "later"
    assert all(one.status == 200 for one in bare_slack.deliveries)


@pytest.mark.parametrize("bolt", ["http"], indirect=True)
async def test_bolt_takes_only_recently_signed_requests(bare_slack: FakeSlack, bolt: Bolt) -> None:
    content = json.dumps(bare_slack.message("hello", channel="D0ANA")).encode()
    sent = [
        (signed(content, at=time.time() - 301), 401),
        (signed(content, secret="another"), 401),
        (signed(content + b" "), 401),
        (signed(content), 200),
    ]
    async with aiohttp.ClientSession() as session:
        for headers, status in sent:
            async with session.post(bare_slack.bot_url + "/slack/events", data=content, headers=headers) as response:
                assert response.status == status
    await bolt.told("streamed")
