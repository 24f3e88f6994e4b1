"""Answers and intents on the admin page in a real Chromium: gaps become articles, intents are trained.

The library, the job that reads and the embedder are real; only the model that answers is scripted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from bot.access.roles import Actor
from bot.knowledge.search.embedder import Embedder
from bot.learning.data.review_queue import Reviews
from storage import knowledge
from tests.builders.admin_pages import Opening, confirm, go, log_in, opened, opening
from tests.builders.agents import StartAgent
from tests.builders.pages import DESKTOP, PHONE, serious_findings
from tests.builders.shop import INTENTS_CSV, RETURNS, Person

pytestmark = [pytest.mark.browser, pytest.mark.model, pytest.mark.asyncio(loop_scope="session")]

QUESTION, ANSWER = "Do you sell gift cards?", "We sell gift cards of 25, 50 and 100 euros, at the till."
LOOKS: dict[str, Any] = {
    "wide and light": {"viewport": DESKTOP},
    "phone and dark": {"viewport": PHONE, "color_scheme": "dark"},
}


@pytest.fixture
def open_counter(
    start_agent: StartAgent, sqlite_url: str, tmp_path: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> Opening:
    """Start a server with one article, and a worker beside it that reads others."""
    return opening(start_agent, sqlite_url, tmp_path, embedder, monkeypatch, returns=RETURNS)


async def check(page: Page, name: str) -> None:
    """Check a view: nothing wider than the screen, nothing serious for a screen reader."""
    assert await serious_findings(page) == [], name
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name


@pytest.mark.parametrize("look", LOOKS)
async def test_a_gap_becomes_an_article(browser: Browser, open_counter: Opening, look: str) -> None:
    async with open_counter() as server, opened(browser, server.url, **LOOKS[look]) as (page, complaints):
        person = Person(server.agent)
        for asked in (QUESTION, "Can I buy a gift card?", "Do you repair bicycles?"):
            assert (await person.ask(asked))[0].startswith("I don't know")
        await log_in(page, "trainer")
        await go(page, "Answers")
        await expect(page.get_by_text("Gaps of the last 90 days: 2")).to_be_visible()
        await page.get_by_text("asked 2 times").click()
        form = page.locator("form").filter(has=page.get_by_label("Draft of the article")).first
        await expect(form).to_be_visible()
        await check(page, "gaps")

        draft = form.get_by_label("Draft of the article")
        await form.get_by_role("button", name="Add as an article").click()
        await expect(form.get_by_role("alert")).to_contain_text("The draft has no answer yet")
        await expect(draft).to_be_focused()
        await expect(draft).to_have_attribute("aria-invalid", "true")
        await check(page, "gap-refused")
        await draft.fill((await draft.input_value()).replace("(Write the answer here.)", ANSWER))
        await form.get_by_role("button", name="Add as an article").click()
        await expect(page.get_by_role("link", name="How far it is read")).to_be_visible()
        await check(page, "gap-added")

        await page.get_by_text("asked once").click()
        await page.get_by_role("button", name="Needs no article").click()
        await confirm(page, "Needs no article")
        await page.get_by_role("button", name="Look again").click()
        await expect(page.get_by_text("No gaps: in the last 90 days")).to_be_visible()
        await page.locator("#content").get_by_role("heading", name="Answers word for word").wait_for()

        await go(page, "Articles")
        await expect(page.get_by_text("Articles: 2")).to_be_visible()
        await page.get_by_role("textbox", name="Question").fill(QUESTION)
        await page.get_by_role("textbox", name="Question").press("Enter")
        await expect(page.locator(".passages > li").first).to_contain_text(ANSWER)
        assert complaints == []


@pytest.mark.parametrize("look", LOOKS)
async def test_answers_are_edited_and_the_threshold_reset(browser: Browser, open_counter: Opening, look: str) -> None:
    async with open_counter() as server, opened(browser, server.url, **LOOKS[look]) as (page, complaints):
        agent, person = server.agent, Person(server.agent)
        await person.ask(QUESTION)
        reviews = Reviews(agent.scope)
        await reviews.correct(Actor("web:bob", "agent"), (await person.history())[-1].id, ANSWER)
        report = {
            "questions": 200,
            "answered": 0.95,
            "answered_by_default": 0.884,
            "others": 50,
            "refused": 0.9,
            "refused_by_default": 0.94,
        }
        await agent.database.write(knowledge.set_threshold, agent.workspace_id, "shell:ada", 0.31, report)
        await log_in(page, "trainer")
        await go(page, "Answers")
        await expect(page.get_by_text("There are no such answers yet.")).to_be_visible()
        await page.get_by_role("button", name="Add an answer").click()
        dialog = page.get_by_role("dialog")
        await dialog.get_by_label("Question").fill("Where are you?")
        await dialog.get_by_label("Answer").fill("In Hamburg.\nBeside the station. " + "Come and see us! " * 12)
        await check(page, "answer-dialog")
        await confirm(page, "Add")
        assert (await person.ask("where are you"))[0].startswith("In Hamburg.\nBeside the station.")

        await page.get_by_role("button", name="Make it an answer").click()
        await expect(dialog.get_by_label("Question")).to_have_value(QUESTION)
        await dialog.get_by_label("Question").fill("Are there gift cards?")
        await confirm(page, "Add")
        await expect(page.get_by_text("Answers: 2")).to_be_visible()
        await expect(page.get_by_text("Corrections that could become answers")).to_have_count(0)
        await check(page, "answers")
        await page.get_by_label("Question or answer").fill("hamburg")
        await expect(page.get_by_text("Answers: 1")).to_be_visible()
        await page.get_by_role("button", name="Remove the answer to: Where are you?").click()
        await confirm(page, "Remove")
        await expect(page.get_by_text("No answer fits.")).to_be_visible()

        await expect(page.get_by_text("Of 200 questions with an article, 95.0 % are answered")).to_be_visible()
        await page.get_by_role("button", name="Back to the default").click()
        await confirm(page, "Back to the default")
        await expect(page.get_by_text("Nobody: it is the default")).to_be_visible()
        assert complaints == []


@pytest.mark.parametrize("look", LOOKS)
async def test_intents_are_trained_tried_edited_and_removed(browser: Browser, open_counter: Opening, look: str) -> None:
    async with open_counter() as server, opened(browser, server.url, **LOOKS[look]) as (page, complaints):
        await log_in(page, "trainer")
        await go(page, "Intents")
        await expect(page.get_by_text("There are no intents yet.")).to_be_visible()
        await check(page, "intents-none")
        bad = "text,intent\n,a\nx,a\nx,b\n"
        for content, told in ((bad, 'line 4: "x" has the intent "a"'), (INTENTS_CSV, "3 intents are known")):
            chosen: Any = {"name": "intents.csv", "mimeType": "text/csv", "buffer": content.encode()}
            await page.get_by_label("CSV file").set_input_files(chosen)
            await page.get_by_role("button", name="Train", exact=True).click()
            await expect(page.get_by_text(told)).to_be_visible()
            if content == bad:
                await expect(page.get_by_text("line 2: the text is missing")).to_be_visible()
                await check(page, "intents-bad")
        await page.get_by_label("Message", exact=True).fill("wheres my ordr")
        await page.get_by_label("Message", exact=True).press("Enter")
        await expect(page.get_by_text("It is about this.")).to_be_visible()
        await check(page, "intents")
        await page.get_by_label("Message", exact=True).fill("What is the capital of France?")
        await page.get_by_label("Message", exact=True).press("Enter")
        await expect(page.get_by_text("Out of scope", exact=True)).to_be_visible()

        async with page.expect_download() as download:
            await page.get_by_role("link", name="Download as CSV").click()
        assert (await download.value).suggested_filename == "intents.csv"
        await page.get_by_role("button", name="Edit", exact=True).click()
        editor = page.locator("form").filter(has=page.get_by_role("heading", name="Edit the phrases"))
        text = editor.get_by_label("Phrases")
        await text.fill((await text.input_value()).replace("order status", "parcel"))
        await check(page, "intents-edit")
        await editor.get_by_role("button", name="Train", exact=True).click()
        await expect(editor).to_have_count(0)
        await expect(page.get_by_role("table", name="Known intents")).to_contain_text("parcel")
        await page.get_by_role("button", name="Forget all").click()
        await confirm(page, "Forget all")
        await expect(page.get_by_text("There are no intents yet.")).to_be_visible()
        assert complaints == []


async def test_a_viewer_sees_no_controls(browser: Browser, open_counter: Opening) -> None:
    async with open_counter() as server, opened(browser, server.url) as (page, complaints):
        await Person(server.agent).ask(QUESTION)
        await log_in(page, "viewer")
        await go(page, "Answers")
        await page.get_by_text("asked once").click()
        await expect(page.locator("pre").filter(has_text="(Write the answer here.)")).to_be_visible()
        for name in ("Add as an article", "Needs no article", "Add an answer"):
            await expect(page.get_by_role("button", name=name)).to_have_count(0)
        await go(page, "Intents")
        await expect(page.get_by_text("A trainer can train some.")).to_be_visible()
        await expect(page.get_by_role("button", name="Train")).to_have_count(0)
        assert complaints == []
