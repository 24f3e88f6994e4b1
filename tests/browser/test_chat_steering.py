"""Steering from the chat page in a real Chromium: a notice that is neither kept nor rated.

No model is needed: replies come from a script.
"""

from __future__ import annotations

import pytest
from playwright.async_api import Browser, expect

from tests.builders.agents import StartAgent
from tests.builders.chat_pages import ask, button, complaints, open_page, own, replies, visitor
from tests.builders.logins import log_in
from tests.builders.web import serve

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


async def test_a_notice_stands_in_its_place_and_is_not_kept(
    browser: Browser, start_agent: StartAgent, sqlite_url: str
) -> None:
    async with start_agent(sqlite_url) as agent, serve(agent) as server, visitor(browser) as context:
        somebody = await log_in(server)
        await context.add_cookies([{"name": "myna_admin", "value": somebody.secret, "url": server.url}])
        page = await open_page(context, server.url)
        heard = complaints(page)
        assert "Answers: base" in await ask(page, "/myna status", 1)
        assert await button(page, "Good answer").count() == 0
        assert await ask(page, "hello", 2) == "hello"
        assert "No version yet" in await ask(page, "/myna versions", 3)
        assert await ask(page, "and on", 4) == "and on"
        said = [await one.inner_text() for one in await own(page).locator(".bubble").all()]
        assert said == ["/myna status", "hello", "/myna versions", "and on"]
        assert await button(page, "Good answer").count() == 2
        await page.reload()
        await expect(replies(page)).to_have_count(2)
        assert [one.messages[-1].content for one in server.generator.prompts] == ["hello", "and on"]
        assert heard == []
