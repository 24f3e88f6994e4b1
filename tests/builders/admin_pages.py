"""The admin page in a real Chromium."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, expect

from bot.knowledge.reading import sync_job
from bot.knowledge.search import search as search_module
from bot.knowledge.search.embedder import Embedder
from storage.database import Database
from tests.builders.agents import StartAgent
from tests.builders.desk import Desk
from tests.builders.learning import Learnt, fill_learning
from tests.builders.logins import PASSWORD, ROOT, accounts_of
from tests.builders.pages import DESKTOP
from tests.builders.web import WebServer, serve


@asynccontextmanager
async def filled_server(start_agent: StartAgent, url: str) -> AsyncIterator[tuple[WebServer, Learnt]]:
    async with start_agent(url) as agent, serve(agent) as server:
        for role in ("admin", "agent", "viewer"):
            await accounts_of(agent).create(ROOT, role, role, PASSWORD)
        yield server, await fill_learning(server)


@asynccontextmanager
async def opened(browser: Browser, url: str, **options: Any) -> AsyncIterator[tuple[Page, list[str]]]:
    """Open a page in a new browser context; yield it with the list of its errors."""
    context = await browser.new_context(**{"viewport": DESKTOP, "locale": "en-GB", **options})
    context.set_default_timeout(30_000)
    page = await context.new_page()
    found: list[str] = []

    def on_console(message: ConsoleMessage) -> None:
        # A browser writes each answer of 4xx and 5xx to the console, also those that the page expects.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            found.append(message.text)

    page.on("console", on_console)
    page.on("pageerror", lambda error: found.append(str(error)))
    try:
        await page.goto(f"{url}/admin")
        yield page, found
    finally:
        await context.close()


async def log_in(page: Page, name: str = "admin", password: str = PASSWORD) -> None:
    await page.get_by_label("Name", exact=True).fill(name)
    await page.get_by_label("Password", exact=True).fill(password)
    await page.get_by_label("Password", exact=True).press("Enter")


async def go(page: Page, name: str) -> None:
    await expect(page.locator(".bar")).to_be_visible()
    menu = page.get_by_role("button", name="Show menu")
    if await menu.is_visible():
        await menu.click()
    await page.get_by_role("link", name=name, exact=True).click()
    await expect(page.get_by_role("heading", level=1)).to_have_text(name)
    await expect(page.locator("#content > div > *").first).to_be_visible()


async def confirm(page: Page, label: str) -> None:
    await page.get_by_role("dialog").get_by_role("button", name=label, exact=True).click()
    await expect(page.get_by_role("dialog")).to_have_count(0)


Opening = Callable[[], AbstractAsyncContextManager[WebServer]]


def opening(
    start_agent: StartAgent,
    url: str,
    folder: Path,
    embedder: Embedder,
    monkeypatch: pytest.MonkeyPatch,
    **articles: str,
) -> Opening:
    """Start a server that has read these articles, by name, with a worker beside it that reads others."""
    for module in (search_module, sync_job):
        monkeypatch.setattr(module, "resolve_embedder", lambda *_: folder)
        monkeypatch.setattr(module, "Embedder", lambda *_, **__: embedder)

    @asynccontextmanager
    async def start() -> AsyncIterator[WebServer]:
        async with start_agent(url) as agent, serve(agent) as server:
            for role in ("viewer", "trainer"):
                await accounts_of(agent).create(ROOT, role, role, PASSWORD)
            database = Database(url)
            desk = Desk(database, folder / "desk", embedder)
            for name, text in articles.items():
                desk.write(f"{name}.md", text)
            if articles:
                await desk.add()
            working = asyncio.create_task(work(desk))
            try:
                yield server
            finally:
                working.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await working
                await database.close()

    return start


async def work(desk: Desk) -> None:
    while True:
        await desk.work()
        await asyncio.sleep(0.2)
