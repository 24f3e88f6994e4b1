"""The fake Slack as a whole, listening on a free port of this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from tests.fakes.slack.people import People
from tests.fakes.slack.views import use_response_url
from tests.fakes.slack.web_api import WebApi


class FakeSlack(People):
    """A Slack with one team, three people, the bot, and a channel besides their direct messages."""

    def routes(self) -> list[web.RouteDef]:
        web_api = WebApi(self, self.oauth, self.sockets)
        return [
            web.post("/api/{method}", web_api.call),
            web.get("/api/{method}", web_api.call),
            web.post("/response/{key}", self._respond),
            web.post("/upload/{key}", self._upload),
            web.get("/oauth/v2/authorize", self.oauth.authorize),
            web.get("/link/", self.sockets.connect),
        ]

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        """Receive the content at an upload URL: 200 if its length is the announced one."""
        file, content = self.files[request.match_info["key"]], await request.read()
        if len(content) != file.length:
            return web.Response(status=400)
        file.content = content
        return web.Response(text=f"OK - {file.length}")

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        status, body = use_response_url(self, request.match_info["key"], await request.json())
        return web.json_response(body, status=status)


@asynccontextmanager
async def running_slack() -> AsyncIterator[FakeSlack]:
    """Run a fake on a free port of this machine; `url` is the Web API's."""
    slack = FakeSlack()
    app = web.Application()
    app.add_routes(slack.routes())
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    slack.url = f"http://127.0.0.1:{runner.addresses[0][1]}/api/"
    try:
        yield slack
    finally:
        await slack.deliverer.close()
        await slack.sockets.close()
        await runner.cleanup()
