"""SIGKILL around every commit and Slack call of a live reply: it is shown once."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
import sqlalchemy as sa

from storage import schema
from storage.engines import sqlite_engine
from tests.builders.waiting import until
from tests.crash.harness import agent_process, until_drained
from tests.fakes.slack.records import BOT
from tests.fakes.slack.server import FakeSlack, running_slack

pytestmark = pytest.mark.slow

# Dying just before a commit equals dying after the step before it, so only points that change the state are listed.
POINTS = [
    ("accept", "after"),
    ("claim", "after"),
    ("show.begin", "after"),
    ("call.chat_startStream", "after"),
    ("show.name", "after"),
    ("call.chat_appendStream", "after"),
    ("complete", "before"),
    ("complete", "after"),
    ("send.intent", "after"),
    ("call.chat_stopStream", "after"),
    ("send.record", "before"),
    ("send.record", "after"),
]
WITHOUT_STREAMS = [("call.chat_postMessage", "after"), ("call.chat_update", "after")]
AT_ONCE = 4
QUESTIONS = [f"question {number} " + "with many words " * 8 for number in range(3)]


async def kill_and_recover(url: str, point: str, when: str, slack: FakeSlack) -> list[str]:
    """Ask three questions, die, start again; return the threads."""
    options = ["--slack-url", slack.url, "--lease", "1.5", "--word-seconds", "0.03"]
    doomed = agent_process(url, *options, "--point", point, "--when", when, "--hits", "2")
    await doomed.start()
    slack.bot_url = doomed.url
    asked = [asyncio.create_task(slack.say(f"<@{BOT}> {question}")) for question in QUESTIONS]
    assert doomed.process is not None
    assert await asyncio.to_thread(doomed.process.wait, 60) == -9, doomed.log.read_text()
    doomed.arguments[2:] = options
    await doomed.start()
    threads = await asyncio.gather(*asked)
    for minutes in (1, 5, 5):
        slack.clock.advance(minutes * 60)
        await asyncio.sleep(0.3)
    await until(lambda: len(slack.posted) >= len(QUESTIONS), seconds=60)
    await until_drained(url)
    await asyncio.sleep(0.5)
    await doomed.kill()
    return threads


def problems_with(url: str, slack: FakeSlack, threads: list[str]) -> list[str]:
    problems = []
    for thread, question in zip(threads, QUESTIONS, strict=True):
        shown = [text.strip() for text in slack.texts_in(thread)]
        if shown != [f"saw {question.strip()}"]:
            problems.append(f"shown is {shown}")
    if slack.running_streams or not all(post.get("blocks") for post in slack.posted):
        problems.append("a reply is not complete")
    engine = sqlite_engine(sa.make_url(url), read_only=True)
    with engine.begin() as connection:
        problems += [f"left over: {row}" for row in connection.execute(sa.select(schema.shown_part)).all()]
        states = set(connection.execute(sa.select(schema.outbox.c.state)).scalars())
    engine.dispose()
    return problems + ([f"posts are {states}"] if states != {"sent"} else [])


async def test_a_kill_anywhere_leaves_one_reply_in_each_thread(tmp_path: Path, migrated_sqlite: Path) -> None:
    """Kills between a call to Slack and its answer are among them (slackapi/slack-api-specs#10)."""
    room = asyncio.Semaphore(AT_ONCE)

    async def problems_after(point: str, when: str, *, streams: bool) -> tuple[str, list[str]]:
        path = tmp_path / f"{point}-{when}.db"
        await asyncio.to_thread(shutil.copy, migrated_sqlite, path)
        async with room, running_slack() as slack:
            slack.stream_seconds = slack.stream_idle_seconds = 1e6  # the clock is advanced for deliveries only
            if not streams:
                slack.troubles["chat.startStream"].extend(["unknown_method"] * 100)
            threads = await kill_and_recover(f"sqlite:///{path}", point, when, slack)
            return f"{point} {when}", await asyncio.to_thread(problems_with, f"sqlite:///{path}", slack, threads)

    found = await asyncio.gather(
        *[problems_after(*point, streams=True) for point in POINTS],
        *[problems_after(*point, streams=False) for point in WITHOUT_STREAMS],
    )
    assert {name: problems for name, problems in found if problems} == {}
