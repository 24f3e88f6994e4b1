"""HTTP server of the demo page, on the address of the fake Slack that it shows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from adapters.web import pages as chat_pages
from examples.slack_demo.actions import Actions, refusal
from examples.slack_demo.journal import Handler, Journal
from examples.slack_demo.sight import Sight
from tests.fakes.slack.server import FakeSlack

STATIC = Path(__file__).parent / "static"
LOOK_SECONDS = 0.2
PULSE_SECONDS = 15.0
_HOSTS = {"127.0.0.1", "localhost"}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class RunningDemo:
    slack: FakeSlack
    url: str


class Page:
    """The demo page; `stopping` ends its event streams, which are open as long as a browser shows the page."""

    def __init__(self, slack: FakeSlack) -> None:
        self._slack = slack
        self._journal = Journal(slack)
        self._sight = Sight(slack, self._journal)
        self._stopping = asyncio.Event()

    def make_app(self) -> web.Application:
        app = web.Application(middlewares=[self._guard])
        app.on_shutdown.append(self._stop)
        app.add_routes(self._slack.routes())
        app.add_routes(Actions(self._sight).routes())
        app.add_routes([web.get("/", self._index), web.get("/demo/events", self._events)])
        app.router.add_static("/static", STATIC)
        app.add_routes([web.get("/web/element.js", self._shared)])
        return app

    async def _stop(self, _: web.Application) -> None:
        self._stopping.set()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse requests of other sites by Host (DNS rebinding) and Origin (CSRF)."""
        host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
        if host.partition(":")[0] not in _HOSTS or origin not in (None, f"http://{host}"):
            raise refusal(web.HTTPForbidden, "this is not for other sites")
        if request.path.startswith("/api/"):
            return await self._journal.note_call(request, handler)
        response = await handler(request)
        if not response.prepared:
            response.headers.update(_HEADERS)
        return response

    async def _index(self, _: web.Request) -> web.StreamResponse:
        return web.FileResponse(STATIC / "page.html")

    async def _shared(self, _: web.Request) -> web.StreamResponse:
        """Serve the module that makes elements for Myna's own pages: this page uses it too."""
        return web.FileResponse(chat_pages.STATIC / "element.js")

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Stream a person's whole view each time it changes."""
        user = request.query.get("user", "")
        if user not in self._sight.people:
            raise refusal(web.HTTPNotFound, "there is no such person")
        response = web.StreamResponse(headers={**_HEADERS, "Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            await self._show(user, response)
        except ConnectionError:
            pass  # they have closed the page
        return response

    async def _show(self, user: str, response: web.StreamResponse) -> None:
        shown, silent = "", 0.0
        while not self._stopping.is_set():
            seen = json.dumps(self._sight.of(user))
            silent = 0.0 if seen != shown else silent + LOOK_SECONDS
            if seen != shown:
                await response.write(f"data: {seen}\n\n".encode())
            elif silent >= PULSE_SECONDS:  # or nobody would notice that the page is gone
                silent = 0.0
                await response.write(b":\n\n")
            shown = seen
            await asyncio.sleep(LOOK_SECONDS)


@asynccontextmanager
async def running_demo(port: int = 0) -> AsyncIterator[RunningDemo]:
    """Serve the fake Slack and its page on 127.0.0.1. Raises `OSError` if the port is taken."""
    slack = FakeSlack()
    slack.echoes = True
    runner = web.AppRunner(Page(slack).make_app(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        slack.url = f"{url}/api/"
        yield RunningDemo(slack, url)
    finally:
        await slack.deliverer.close()
        await slack.sockets.close()
        await runner.cleanup()
