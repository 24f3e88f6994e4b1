"""npm `@slack/bolt`, unchanged, lives with the fake Slack, over HTTP and over sockets.

Knows: what a person does and what Slack then holds. Does not know: how Bolt speaks to Slack.
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
from tests.fakes.slack.server import FakeSlack, running_slack
from tests.tools.npm import node_environment

pytestmark = [pytest.mark.node, pytest.mark.slow]

SCRIPT = Path(__file__).parents[1] / "node" / "bolt.mjs"


class Bolt:
    """The running script, which says what it was told."""

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


@pytest.fixture
async def slack() -> AsyncIterator[FakeSlack]:
    async with running_slack() as running:
        yield running


@pytest.fixture(params=["http", "sockets"])
async def bolt(slack: FakeSlack, request: pytest.FixtureRequest) -> AsyncIterator[Bolt]:
    node, environment = node_environment()
    process = await asyncio.create_subprocess_exec(
        str(node),
        str(SCRIPT),
        request.param,
        slack.url,
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
        slack.bot_url = f"http://127.0.0.1:{port}" if port else ""
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


async def test_a_mention_a_stream_feedback_a_modal_and_a_command(slack: FakeSlack, bolt: Bolt) -> None:
    asked = await slack.say(f"<@{BOT}> hello")
    await bolt.told("mention")
    assert slack.texts_in(asked) == [f"heard: <@{BOT}> hello"]
    asked = await slack.say("when do the roses bloom?", channel="D0ANA")
    await bolt.told("streamed")
    assert slack.texts_in(asked) == ["In May."]
    answer = slack.posted[-1]
    assert answer["streaming_state"] == "completed"
    assert (await slack.click("D0ANA", answer["ts"], "feedback", "bad")).status == 200
    assert (await bolt.told("feedback"))["value"] == "bad"
    (view,) = slack.views.values()
    for value, is_open in (("no", True), ("It was June.", False)):
        await slack.submit(view, {"why": {"text": {"type": "plain_text_input", "value": value}}})
        assert (await bolt.told("submitted"))["value"] == value
        assert (view.open, bool(view.errors)) == (is_open, is_open)
    await slack.slash("/myna", "help")
    await bolt.told("command")
    assert [one.text for one in slack.ephemerals] == ["at once: help"]
    assert slack.posted[-1]["text"] == "later"
    assert all(one.status == 200 for one in slack.deliveries)


@pytest.mark.parametrize("bolt", ["http"], indirect=True)
async def test_bolt_takes_only_what_slack_signed_just_now(slack: FakeSlack, bolt: Bolt) -> None:
    content = json.dumps(slack.message("hello", channel="D0ANA")).encode()
    sent = [
        (signed(content, at=time.time() - 301), 401),
        (signed(content, secret="another"), 401),
        (signed(content + b" "), 401),
        (signed(content), 200),
    ]
    async with aiohttp.ClientSession() as session:
        for headers, status in sent:
            async with session.post(slack.bot_url + "/slack/events", data=content, headers=headers) as response:
                assert response.status == status
    await bolt.told("streamed")
