"""Posts of an agent in a fake Slack, and its outbox."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import sqlalchemy as sa

from storage import schema
from tests.builders.web import WebServer
from tests.fakes.slack.records import SECRET, TOKEN, Json
from tests.fakes.slack.server import FakeSlack

StartInSlack = Callable[..., AbstractAsyncContextManager[WebServer]]


def in_slack(slack: FakeSlack) -> dict[str, Any]:
    """Return the settings of an agent that is connected to the fake."""
    return {"slack_bot_token": TOKEN, "slack_signing_secret": SECRET, "slack_api_url": slack.url, "lease_seconds": 3.0}


async def rows_of(server: WebServer, table: str) -> list[dict[str, Any]]:
    def read(tx: Any) -> list[dict[str, Any]]:
        return [dict(row._mapping) for row in tx.connection.execute(sa.select(schema.metadata.tables[table]))]

    return await server.agent.database.read(read, None)


async def delivered(server: WebServer, count: int = 1) -> None:
    """Wait until this many replies are delivered and the outbox has none left."""
    for _ in range(1500):
        states = [row["state"] for row in await rows_of(server, "outbox")]
        if len(states) >= count and not {"pending", "sending"} & set(states):
            assert not await rows_of(server, "shown_part")
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"not delivered: {states}")


def only_reply(slack: FakeSlack) -> Json:
    assert len(slack.posted) == 1, [one["text"] for one in slack.posted]
    return slack.posted[0]
