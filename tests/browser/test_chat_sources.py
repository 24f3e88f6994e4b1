"""A newcomer's path: `myna kb add` a folder of Markdown, and the chat answers from it and cites it.

The starter model and the embedder are the real ones.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from bot.generation.models.sources import EMBEDDER
from tests.builders.chat_pages import open_page, replies, visitor
from tests.builders.pages import DESKTOP, PHONE, serious_findings
from tests.conftest import ServerProcess, serve_process

pytestmark = [pytest.mark.browser, pytest.mark.model, pytest.mark.asyncio(loop_scope="session")]

CONTACT = "help@shop.example"
ARTICLES = {
    "returns.md": "# Returns\n\nYou can send anything back within 30 days of delivery.\n\n"
    "## Refunds\n\nThe refund arrives five business days after the parcel has reached us.\n",
    "gift-cards.md": "# Gift cards\n\nGift cards are valid for three years. They are never paid out in cash.\n",
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shop_server(
    model_data: Callable[[], Path], embedder_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ServerProcess]:
    """Run `myna serve`, to which a folder of articles is added while it runs."""
    data, folder = model_data(), tmp_path_factory.mktemp("articles")
    (data / "models" / EMBEDDER).symlink_to(embedder_path)
    for name, text in ARTICLES.items():
        (folder / name).write_text(text, encoding="utf-8")
    server = serve_process(data, MYNA_TEMPERATURE="0", MYNA_CONTACT=CONTACT, MYNA_MAX_REPLY_TOKENS="64")
    await server.start()
    adding = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "adapters.cli.main", "kb", "add", str(folder)),
        stdout=asyncio.subprocess.PIPE,
        env={name: value for name, value in server.environment.items() if name != "MYNA_PORT"},
    )
    out, _ = await adding.communicate()
    assert out.decode().startswith("2 articles in 3 passages"), out
    yield server
    await server.stop()


async def ask(page: Any, text: str) -> Any:
    """Send a message, and return the whole reply."""
    count = await replies(page).count()
    await page.get_by_role("textbox").fill(text)
    await page.keyboard.press("Enter")
    reply = replies(page).nth(count)
    await expect(reply).to_have_attribute("data-state", "answered", timeout=90_000)
    return reply


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
async def test_an_answer_links_to_its_article(browser: Browser, shop_server: ServerProcess, viewport: Any) -> None:
    async with visitor(browser, viewport=viewport) as context:
        page = await open_page(context, shop_server.url)
        reply = await ask(page, "How long do I have to send something back?")
        mark = reply.locator("a.cite").first
        await expect(mark).to_have_text("[1]")
        sources = reply.get_by_role("list", name="Sources").get_by_role("listitem")
        await expect(sources.first).to_have_text("[1] Returns")
        await page.reload()
        await expect(replies(page).first.locator("a.cite").first).to_have_text("[1]")
        async with context.expect_page() as opening:
            await replies(page).first.get_by_role("link", name="Returns", exact=True).click()
        article = await opening.value
        await expect(article.get_by_role("heading", level=1)).to_have_text("Returns")
        await expect(article.get_by_text("within 30 days of delivery")).to_be_visible()
        await expect(article.get_by_role("heading", level=2)).to_have_text("Refunds")
        assert await article.evaluate("document.documentElement.scrollWidth <= innerWidth")


async def test_a_question_outside_the_articles_gets_i_don_t_know(browser: Browser, shop_server: ServerProcess) -> None:
    async with visitor(browser) as context:
        page = await open_page(context, shop_server.url)
        reply = await ask(page, "What is the capital of Mongolia?")
        await expect(reply).to_contain_text("I don't know")
        await expect(reply).to_contain_text(CONTACT)
        await expect(reply.get_by_role("list", name="Sources")).to_have_count(0)
        small_talk = await ask(page, "Hello!")
        await expect(small_talk).not_to_contain_text("I don't know")


async def test_sources_are_accessible(browser: Browser, shop_server: ServerProcess) -> None:
    async with visitor(browser, color_scheme="dark") as context:
        page = await open_page(context, shop_server.url)
        reply = await ask(page, "Can I have the money of my gift card in cash?")
        await expect(reply.get_by_role("list", name="Sources")).to_contain_text("Gift cards")
        assert await serious_findings(page) == []
        async with context.expect_page() as opening:
            await reply.get_by_role("link", name="Gift cards").last.press("Enter")
        assert await serious_findings(await opening.value) == []
