"""The chat page and the widget in a real Chromium."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, expect

from tests.builders.pages import DESKTOP

REPLY_MS = 90_000
WORDS = re.compile(r"\S+\s+\S+")


@asynccontextmanager
async def visitor(browser: Browser, **options: Any) -> AsyncIterator[BrowserContext]:
    """Open a browser context for a new person."""
    context = await browser.new_context(**{"viewport": DESKTOP, "locale": "en-GB", **options})
    context.set_default_timeout(30_000)
    try:
        yield context
    finally:
        await context.close()


async def open_page(context: BrowserContext, url: str) -> Page:
    page = await context.new_page()
    await page.goto(url)
    await expect(box(page)).to_be_visible()
    return page


def box(page: Page) -> Locator:
    return page.get_by_role("textbox")


def own(page: Page) -> Locator:
    return page.locator("myna-chat article.user")


def replies(page: Page) -> Locator:
    return page.locator("myna-chat article.assistant")


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


async def send(page: Page, text: str) -> None:
    await box(page).fill(text)
    await box(page).press("Enter")
    await expect(own(page).last).to_contain_text(text)


async def answered(page: Page, count: int) -> None:
    """Wait until no reply is running and this many are finished."""
    await expect(page.locator("myna-chat article.assistant[aria-busy=false]")).to_have_count(count, timeout=REPLY_MS)
    await expect(button(page, "Stop the reply")).to_be_hidden(timeout=REPLY_MS)


async def ask(page: Page, text: str, count: int = 1) -> str:
    await send(page, text)
    await answered(page, count)
    return await replies(page).last.locator(".bubble").inner_text()


async def live_text(page: Page) -> str:
    """Return the first words of a reply that is still being written."""
    live = page.locator("myna-chat article.assistant[aria-busy=true] .bubble")
    await expect(live).to_have_text(WORDS, timeout=REPLY_MS)
    return await live.inner_text()


def complaints(page: Page) -> list[str]:
    """Collect the page's script errors and violations of its content security policy."""
    found: list[str] = []

    def on_console(message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text or "TrustedHTML" in message.text:
            found.append(message.text)

    page.on("console", on_console)
    page.on("pageerror", lambda error: found.append(str(error)))
    return found


async def fits(page: Page) -> bool:
    return await page.evaluate(
        """() => {
          const log = document.querySelector('myna-chat').shadowRoot.querySelector('.log');
          return document.documentElement.scrollWidth <= innerWidth && log.scrollWidth <= log.clientWidth;
        }"""
    )


@asynccontextmanager
async def foreign_page(live_server: Any) -> AsyncIterator[str]:
    """Serve a foreign site with a strict policy, and a style sheet that would break a careless widget."""
    host = live_server.url

    async def page(_: web.Request) -> web.Response:
        policy = f"default-src 'none'; script-src {host}; connect-src {host}; style-src 'self'"
        html = (
            '<!doctype html><html lang="en"><head><title>Corner shop</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<link rel="stylesheet" href="/shop.css"></head><body><main><h1>Corner shop</h1></main>'
            f'<script async src="{host}/widget.js" data-title="Shop help" data-color="#7a1f4b"></script></body></html>'
        )
        return web.Response(text=html, content_type="text/html", headers={"content-security-policy": policy})

    async def style(_: web.Request) -> web.Response:
        css = "body { background: #fff; color: #000 } button { color: lime !important } div { float: right }"
        return web.Response(text=css, content_type="text/css")

    app = web.Application()
    app.add_routes([web.get("/", page), web.get("/shop.css", style)])
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", live_server.foreign_port).start()
        yield f"http://127.0.0.1:{live_server.foreign_port}/"
    finally:
        await runner.cleanup()
