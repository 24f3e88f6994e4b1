"""Articles on the admin page in a real Chromium: upload, search, removal.

The library, the job that reads and the embedder are real; only the model that answers is scripted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from bot.knowledge.search.embedder import Embedder
from tests.builders.admin_pages import Opening, confirm, go, log_in, opened, opening
from tests.builders.agents import StartAgent
from tests.builders.pages import DESKTOP, PHONE, serious_findings

pytestmark = [pytest.mark.browser, pytest.mark.model, pytest.mark.asyncio(loop_scope="session")]

RETURNS = (
    "# Returns\n\nYou can send anything back within 30 days of delivery.\n\n## Refunds\n\nThe refund takes five days.\n"
)


@pytest.fixture
def open_shelf(
    start_agent: StartAgent, sqlite_url: str, tmp_path: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> Opening:
    """Start a server with a worker beside it that reads articles."""
    return opening(start_agent, sqlite_url, tmp_path, embedder, monkeypatch)


async def upload(page: Page, *files: tuple[str, bytes], audience: str = "Everybody") -> None:
    form = page.locator("form").filter(has=page.get_by_role("heading", name="Upload files"))
    await form.get_by_label("Audience").select_option(audience)
    chosen: Any = [{"name": name, "mimeType": "text/plain", "buffer": content} for name, content in files]
    await form.get_by_label("Files").set_input_files(chosen)
    await form.get_by_role("button", name="Upload").click()


def sources(page: Page) -> Any:
    return page.get_by_role("table", name="Where they come from").get_by_role("row")


@pytest.mark.parametrize("look", ["wide and light", "phone and dark"])
async def test_a_file_is_uploaded_searched_and_removed(browser: Browser, open_shelf: Opening, look: str) -> None:
    options = {"viewport": PHONE, "color_scheme": "dark"} if "phone" in look else {"viewport": DESKTOP}
    async with open_shelf() as server, opened(browser, server.url, **options) as (page, complaints):
        await log_in(page, "trainer")
        await go(page, "Articles")
        await expect(page.get_by_text("There are no articles yet.")).to_be_visible()
        assert await serious_findings(page) == []

        await upload(page, ("returns.md", RETURNS.encode()), ("virus.exe", b"x"), ("broken.pdf", b"%PDF-1.4"))
        await expect(page.get_by_text("2 of 3 files are sent.")).to_be_visible()
        await expect(page.get_by_text("virus.exe is not a supported file.")).to_be_visible()
        await expect(sources(page)).to_have_count(3)
        await expect(page.get_by_text("Not read yet")).to_have_count(0)
        await page.get_by_text("Could not be read: 1").click()
        await expect(page.get_by_text("broken.pdf: it is damaged")).to_be_visible()

        await page.get_by_label("Question").fill("How long does the refund take?")
        await page.get_by_label("Question").press("Enter")
        await expect(page.get_by_text("Myna answers", exact=True)).to_be_visible()
        first = page.locator(".passages > li").first
        await expect(first).to_contain_text("The refund takes five days.")
        await expect(first).to_contain_text("Read for the answer")
        assert await serious_findings(page) == []
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")

        await first.get_by_role("link", name="Returns › Refunds").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Returns")
        await expect(page.get_by_role("heading", level=2, name="Passages: 2")).to_be_visible()
        await expect(page.get_by_text("within 30 days of delivery")).to_be_visible()
        assert await serious_findings(page) == []
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")

        await go(page, "Articles")
        for name in ("returns.md", "broken.pdf"):
            await page.get_by_role("button", name=f"Remove {name}").click()
            await confirm(page, "Remove")
        await expect(page.get_by_text("There are no articles yet.")).to_be_visible()
        assert complaints == []


async def test_an_error_stands_beside_its_field(browser: Browser, open_shelf: Opening) -> None:
    async with open_shelf() as server, opened(browser, server.url) as (page, complaints):
        await log_in(page, "trainer")
        await go(page, "Articles")
        address = page.get_by_label("Address")
        await address.press("Enter")
        await expect(page.get_by_role("alert").filter(has_text="Type the address of a page.")).to_be_visible()
        for wrong in ("/etc/passwd", "http://127.0.0.1/"):
            await address.fill(wrong)
            await address.press("Enter")
            await expect(page.get_by_role("alert").filter(has_text=f"{wrong} is not added")).to_be_visible()
            await expect(address).to_be_focused()
            await expect(address).to_have_attribute("aria-invalid", "true")
        await page.get_by_role("button", name="Upload").click()
        await expect(page.get_by_role("alert").filter(has_text="Choose files first.")).to_be_visible()
        # Made in the page: to send as many bytes to the browser takes many seconds.
        await page.get_by_label("Files").evaluate(
            """input => {
                const chosen = new DataTransfer();
                chosen.items.add(new File([new Uint8Array(20 * 2**20 + 1)], 'large.txt'));
                input.files = chosen.files;
                input.dispatchEvent(new Event('change', { bubbles: true }));
            }"""
        )
        await page.get_by_role("button", name="Upload").click()
        await expect(page.get_by_text("It is larger than 20 MB.")).to_be_visible()
        assert complaints == []


async def test_a_file_can_be_dropped(browser: Browser, open_shelf: Opening) -> None:
    async with open_shelf() as server, opened(browser, server.url) as (page, complaints):
        await log_in(page, "trainer")
        await go(page, "Articles")
        dropped = await page.evaluate_handle(
            "() => { const data = new DataTransfer(); data.items.add(new File(['# Owl'], 'owl.md')); return data; }"
        )
        form = page.locator("form").filter(has=page.get_by_role("heading", name="Upload files"))
        for event in ("dragover", "drop"):
            await form.dispatch_event(event, {"dataTransfer": dropped})
        await form.get_by_label("Audience").select_option("Staff only")
        await form.get_by_role("button", name="Upload").click()
        await expect(page.get_by_text("1 of 1 files are sent.")).to_be_visible()
        await expect(sources(page).last).to_contain_text("owl.md")
        await expect(sources(page).last).to_contain_text("Staff only")
        assert complaints == []


async def test_articles_are_filtered_while_typing(
    browser: Browser, open_shelf: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.admin.articles_api.MOST", 2)
    async with open_shelf() as server, opened(browser, server.url) as (page, complaints):
        await log_in(page, "trainer")
        await go(page, "Articles")
        await upload(page, *((f"{name}.md", f"# {name}\n\nA bird.".encode()) for name in ("Crow", "Owl", "Wren")))
        await expect(page.get_by_text("Articles: 3")).to_be_visible()
        await expect(page.get_by_text("The first 2 are shown.")).to_be_visible()
        await page.get_by_label("Title or name").fill("wre")
        await expect(page.get_by_text("Articles: 1")).to_be_visible()
        await expect(page.get_by_role("link", name="Wren")).to_be_visible()
        await page.get_by_label("Title or name").fill("parrot")
        await expect(page.get_by_text("No article fits.")).to_be_visible()
        assert complaints == []


async def test_a_viewer_sees_no_controls(browser: Browser, open_shelf: Opening) -> None:
    async with open_shelf() as server, opened(browser, server.url) as (page, complaints):
        await log_in(page, "viewer")
        await go(page, "Articles")
        await expect(page.get_by_text("A trainer can add some.")).to_be_visible()
        for name in ("Add", "Upload", "Read all again"):
            await expect(page.get_by_role("button", name=name, exact=True)).to_have_count(0)
        assert complaints == []
