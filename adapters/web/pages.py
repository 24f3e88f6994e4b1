"""Web chat pages: chat page, widget, scripts and styles."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from adapters.http.origins import Origins

STATIC = Path(__file__).parent / "static"
_FILES = frozenset(path.name for path in STATIC.iterdir())
# All of these are public and small. Browsers ask at every load whether they changed, so an upgrade shows at once.
_REVALIDATE = {"Cache-Control": "no-cache"}
_FOR_ALL_SITES = {"Access-Control-Allow-Origin": "*", "Cross-Origin-Resource-Policy": "cross-origin", **_REVALIDATE}
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'self'; require-trusted-types-for 'script'; trusted-types myna; frame-ancestors "
)


class ChatPages:
    """Routes of the pages. Only sites in `origins` may embed the chat page (CSP `frame-ancestors`)."""

    def __init__(self, origins: Origins) -> None:
        policy = _PAGE_POLICY + " ".join(["'self'", *origins.allowed])
        self._page_headers = {"Content-Security-Policy": policy, **_REVALIDATE}

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/", self.page),
            web.get("/widget.js", self.widget),
            web.get("/favicon.ico", self.icon),
            web.get("/static/{name}", self.static),
        ]

    async def page(self, _: web.Request) -> web.FileResponse:
        return web.FileResponse(STATIC / "index.html", headers=self._page_headers)

    async def widget(self, _: web.Request) -> web.FileResponse:
        return web.FileResponse(STATIC / "widget.js", headers=_FOR_ALL_SITES)

    async def icon(self, _: web.Request) -> web.FileResponse:
        return web.FileResponse(STATIC / "icon.svg", headers=_REVALIDATE)

    async def static(self, request: web.Request) -> web.FileResponse:
        name = request.match_info["name"]
        if name not in _FILES:
            raise web.HTTPNotFound
        return web.FileResponse(STATIC / name, headers=_FOR_ALL_SITES)
