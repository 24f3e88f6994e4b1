"""An agent that kills itself before or after a named commit.

Its process runs `main(["URL", "PORT", *options])`. Its model replies with the prompt it saw; `tests.crash.laws`
checks the database afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import random
import signal
import tempfile
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from adapters.cli import web_wiring, wiring
from adapters.slack import live_reply
from adapters.slack.client import SlackClient
from bot.chat import turns
from bot.chat.delivery import Unknown
from bot.chat.turns import Conversations
from bot.errors import GeneratorFailed
from bot.generation.port import ChatMessage, Finish, Piece, Prompt, Sampling
from bot.settings import Settings
from storage import inbox, migrate, outbox, shown_parts
from storage.database import Database
from storage.values import Accepted, Incoming, Outgoing, Sender, text_part
from tests.fakes.slack.records import SECRET, TOKEN

CHANNEL = "called"
POINTS: dict[str, tuple[Any, str]] = {
    "accept": (inbox, "accept"),
    "claim": (inbox, "claim"),
    "heartbeat": (inbox, "heartbeat"),
    "complete": (inbox, "complete"),
    "release": (inbox, "release"),
    "send.claim": (outbox, "claim"),
    "send.intent": (outbox, "intend"),
    "send.record": (outbox, "record_and_go_on"),
}


# With Slack: the units that record the messages of a live reply.
SLACK_POINTS: dict[str, tuple[Any, str]] = {"show.begin": (shown_parts, "begin"), "show.name": (shown_parts, "name")}


class TellingModel:
    """Replies with all user messages of its prompt, so that a reply proves the memory behind it."""

    model = "telling"
    context_tokens = 100_000
    ready = True
    takes_tools = False
    versions = ()

    def __init__(self, seed: int, word_seconds: float) -> None:
        self._random = random.Random(seed)
        self._word_seconds = word_seconds

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def encode(self, messages: Sequence[ChatMessage]) -> Prompt:
        text = repr([(message.role, message.content) for message in messages])
        return Prompt(tuple(messages), (), len(text) // 4, hashlib.sha256(text.encode()).hexdigest())

    async def stream(
        self, prompt: Prompt, sampling: Sampling, version: str | None = None
    ) -> AsyncGenerator[Piece | Finish, None]:
        await asyncio.sleep(self._random.uniform(0, 0.03))
        seen = " ".join(said.content.replace("\n\n", " ") for said in prompt.messages if said.role == "user")
        if prompt.messages[-1].content.endswith("poison"):
            raise GeneratorFailed("poison")
        for word in ["saw", *seen.split()]:
            await asyncio.sleep(self._random.uniform(0, self._word_seconds))
            yield Piece(f"{word} ")
        yield Finish("stop", prompt.num_tokens, 1)


class HttpPoster:
    """Posts to a fake channel over HTTP, and can ask it for its messages."""

    def __init__(self, url: str, die_after_post: bool) -> None:
        self._url = url
        self._die_after_post = die_after_post

    async def post(self, outgoing: Outgoing) -> str:
        try:
            async with aiohttp.ClientSession() as session, session.post(f"{self._url}/{outgoing.id}") as response:
                provider_id = await response.text()
        except aiohttp.ClientError as error:
            raise Unknown(str(error)) from error
        if self._die_after_post:
            die()
        return provider_id

    async def find(self, outgoing: Outgoing) -> str | None:
        async with aiohttp.ClientSession() as session, session.get(f"{self._url}/{outgoing.id}") as response:
            return await response.text() if response.status == 200 else None


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point: str, when: str, hits: int) -> None:
    """Make the process die at the `hits`-th commit of a unit of work: just before it, or just after."""
    module, name = (POINTS | SLACK_POINTS)[point]
    original: Callable[..., Any] = getattr(module, name)
    left = [hits]

    def unit(*args: Any, **kwargs: Any) -> Any:
        value = original(*args, **kwargs)
        left[0] -= 1
        if left[0] == 0 and when == "before":
            die()
        return value

    setattr(module, name, unit)
    if when == "after":
        write = Database.write

        async def write_then_die(self: Database, given: Any, *args: Any, **kwargs: Any) -> Any:
            value = await write(self, given, *args, **kwargs)
            if given is unit and left[0] <= 0:
                die()
            return value

        Database.write = write_then_die  # type: ignore[method-assign]


def arm_call(method: str, hits: int) -> None:
    """Make the process die after Slack has carried out a call and before its answer is read."""
    call, left = SlackClient.call, [hits]

    async def call_then_die(self: SlackClient, name: str, **arguments: Any) -> Any:
        answer = await call(self, name, **arguments)
        left[0] -= name == method
        if name == method and left[0] == 0:
            die()
        return answer

    SlackClient.call = call_then_die  # type: ignore[method-assign]


def arm_migration(when: str) -> None:
    original = migrate.command.upgrade

    def upgrade(*args: Any) -> None:
        original(*args)
        die()

    if when == "before":
        migrate.command.upgrade = upgrade
        return
    whole = migrate.upgrade

    def upgrade_then_die(url: str) -> Any:
        whole(url)
        die()

    migrate.upgrade = upgrade_then_die


def acknowledge_early() -> None:
    """Answer before the commit: a mutant that the laws must catch."""
    accept = Conversations.accept
    tasks: set[asyncio.Task[Any]] = set()

    async def early(self: Conversations, workspace_id: str, incoming: Incoming) -> Accepted:
        task = asyncio.create_task(accept(self, workspace_id, incoming))
        tasks.add(task)
        return Accepted("", 0, duplicate=False)

    Conversations.accept = early  # type: ignore[method-assign]


async def take(request: web.Request) -> web.Response:
    """Handle `POST /say {conversation, key, text}`: 200 once the message is accepted."""
    said = await request.json()
    incoming = Incoming(
        CHANNEL, said["conversation"], Sender("someone"), said["key"], (text_part(said["text"]),), said["key"]
    )
    await request.app["agent"].conversations.accept("default", incoming)
    return web.json_response({"ok": True})


def make_plain_app(agent: Any) -> web.Application:
    web_app = web.Application()
    web_app["agent"] = agent
    web_app.router.add_post("/say", take)
    web_app.router.add_get("/readyz", lambda _: web.json_response({}))  # type: ignore[arg-type]
    return web_app


async def run(arguments: argparse.Namespace) -> None:
    settings = Settings(
        data=Path(tempfile.mkdtemp()),
        database_url=arguments.url,
        lease_seconds=arguments.lease,
        grace_seconds=1.0,
        article_words=50,  # to find out how many would suit the device, torch is imported, which takes seconds
        **(
            {"slack_bot_token": TOKEN, "slack_signing_secret": SECRET, "slack_api_url": arguments.slack_url}
            if arguments.slack_url
            else {}
        ),
    )
    posters = (
        {CHANNEL: HttpPoster(arguments.channel_url, arguments.point == "send.post")} if arguments.channel_url else {}
    )
    model: Any = TellingModel(arguments.port, arguments.word_seconds)
    async with wiring.running_agent(settings, model, posters) as agent:
        web_app = web_wiring.make_web_app(agent) if arguments.slack_url else make_plain_app(agent)
        runner = web.AppRunner(web_app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", arguments.port).start()
        await asyncio.Event().wait()


def main(given: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("port", type=int)
    parser.add_argument("--lease", type=float, default=1.0)
    parser.add_argument("--channel-url")
    parser.add_argument("--slack-url")
    parser.add_argument("--word-seconds", type=float, default=0.002)
    parser.add_argument("--point")
    parser.add_argument("--when", choices=["before", "after"], default="before")
    parser.add_argument("--hits", type=int, default=1)
    parser.add_argument("--acknowledge-early", action="store_true")
    arguments = parser.parse_args(given)
    if arguments.acknowledge_early:
        acknowledge_early()
    if arguments.point == "migrate":
        arm_migration(arguments.when)
    elif (arguments.point or "").startswith("call."):
        arm_call(arguments.point.removeprefix("call."), arguments.hits)
    elif arguments.point in POINTS | SLACK_POINTS:
        arm(arguments.point, arguments.when, arguments.hits)
    turns.FIRST_RETRY_SECONDS = 0.02
    live_reply.FLUSH_SECONDS = 0.05
    migrate.upgrade(arguments.url)
    asyncio.run(run(arguments))
