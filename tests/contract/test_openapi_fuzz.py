"""The OpenAPI document against the server: made-up requests from the one, every answer checked by the other.

Schemathesis makes the requests; those that are worth a name are in the scenarios.
"""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import schemathesis
from aiohttp import web
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.config import SchemathesisConfig

from adapters.cli.web_wiring import make_web_app
from adapters.cli.wiring import running_agent
from adapters.http import server
from adapters.http.openapi import assemble
from adapters.openai import api, v1_feedback
from adapters.web import chat_document, feedback_api
from bot.completions.api_keys_access import create_key
from bot.settings import Settings
from tests.fakes.generator import FakeGenerator

pytestmark = pytest.mark.slow

DOCUMENT = assemble([module.DOCUMENT for module in (chat_document, feedback_api, api, v1_feedback, server)])
NOT_DOCUMENTED = {"/", "/widget.js", "/favicon.ico", "/static/{name}", "/articles/{id}/{name}"}  # pages and scripts
EXAMPLES = 25

config = SchemathesisConfig.from_dict(
    {
        "seed": 1,
        "generation": {"max-examples": EXAMPLES, "deterministic": True, "database": "none"},
        "request-timeout": 20,
    }
)
schema = schemathesis.openapi.from_dict(DOCUMENT, config=config)
load_all_checks()
# A schema can't say that the last of the messages must be the visitor's own and hold something visible, nor that those
# above it are not read. The scenarios have a table of both.
BEYOND_THE_SCHEMA = CHECKS.get_by_names(["positive_data_acceptance", "negative_data_rejection"])


@dataclass(frozen=True)
class Served:
    url: str
    app: web.Application
    secret: str


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path) -> Iterator[Served]:
    """The web channel in a thread with a loop of its own, because Schemathesis calls it synchronously."""
    data = tmp_path_factory.mktemp("fuzz")
    shutil.copy(migrated_sqlite, data / "myna.db")
    settings = Settings(data=data, max_reply_tokens=20, grace_seconds=1.0)
    started: list[Served] = []
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    ending = asyncio.Event()

    async def serve() -> None:
        generator = FakeGenerator()
        await generator.start()
        async with running_agent(settings, generator) as agent:
            app = await asyncio.to_thread(make_web_app, agent)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            secret = await create_key(agent.scope, "fuzz", None, None)
            started.append(Served(f"http://127.0.0.1:{runner.addresses[0][1]}", app, secret))
            ready.set()
            await ending.wait()
            await runner.cleanup()

    def run() -> None:
        try:
            loop.run_until_complete(serve())
        finally:
            ready.set()
            loop.close()

    thread = threading.Thread(target=run, name="served")
    thread.start()
    ready.wait()
    assert started, "the server did not start"
    yield started[0]
    loop.call_soon_threadsafe(ending.set)
    thread.join()


@pytest.fixture(scope="module")
def token(served: Served) -> str:
    """A visitor with one conversation, `chat`, so that not every made-up id is unknown."""
    token = requests.post(f"{served.url}/api/visitor", json={}, timeout=20).json()["token"]
    message = {"id": "m1", "role": "user", "parts": [{"type": "text", "text": "hello"}]}
    said = requests.post(
        f"{served.url}/api/chat",
        json={"id": "chat", "messages": [message]},
        headers={"Authorization": f"Bearer {token}"},
        timeout=20,
    )
    assert said.status_code == 200
    return str(token)


def test_every_route_is_in_the_document_and_every_entry_is_a_route(served: Served) -> None:
    routes = {
        (route.method, route.resource.canonical)
        for route in served.app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    described = {
        (method.upper(), path)
        for path, entry in DOCUMENT["paths"].items()
        for method in entry
        if method in {"get", "post", "put", "patch", "delete"}
    }
    # The admin page's own API is for that page alone.
    public = {one for one in routes if one[1] not in NOT_DOCUMENTED and not one[1].startswith("/admin")}
    assert described == public


def test_the_whole_document_is_served(served: Served) -> None:
    response = requests.get(f"{served.url}/openapi.json", timeout=20)
    assert response.headers["content-type"] == "application/json"
    assert response.json() == DOCUMENT


def check(case: schemathesis.Case, served: Served, headers: dict[str, str], *, known_chat: bool = False) -> None:
    if known_chat:
        case.path_parameters["id"] = "chat"
    left_out = BEYOND_THE_SCHEMA if known_chat or case.path == "/api/chat" or case.path.startswith("/v1/") else []
    case.call_and_validate(base_url=served.url, headers=headers, excluded_checks=left_out)


@schema.parametrize()
def test_answers_to_a_visitor_are_as_described(case: schemathesis.Case, served: Served, token: str) -> None:
    check(case, served, {"Authorization": f"Bearer {token}"})


@schema.include(path_regex="^/v1/").parametrize()
def test_answers_to_a_program_are_as_described(case: schemathesis.Case, served: Served) -> None:
    if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
        case.body["model"] = "fake"  # or hardly anything would come further than its name
    check(case, served, {"Authorization": f"Bearer {served.secret}"})


@schema.include(path_regex="^/api/.*{id}").parametrize()
def test_answers_about_a_chat_that_exists_are_as_described(case: schemathesis.Case, served: Served, token: str) -> None:
    check(case, served, {"Authorization": f"Bearer {token}"}, known_chat=True)


@schema.parametrize()
def test_answers_to_a_stranger_are_as_described(case: schemathesis.Case, served: Served) -> None:
    check(case, served, {})
