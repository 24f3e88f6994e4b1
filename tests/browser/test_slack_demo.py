"""The page of `make slack-demo` in a real Chromium, over HTTP, with a scripted model.

Waits are for conditions, never for times.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Browser, ConsoleMessage, Locator, Page, expect

from bot.chat.feedback import Feedback
from examples.slack_demo.markup import to_people, to_slack
from examples.slack_demo.page import RunningDemo, running_demo
from storage.votes import Vote
from tests.builders.agents import StartAgent
from tests.builders.waiting import until
from tests.builders.web import serve
from tests.fakes.generator import FakeGenerator
from tests.fakes.slack.records import APP_TOKEN, BOT, SECRET, TOKEN

pytestmark = pytest.mark.asyncio(loop_scope="session")
IDS = {"Myna": BOT, "Ana": "U0ANA"}


@dataclass
class Scene:
    demo: RunningDemo
    agent: Any

    @property
    def generator(self) -> FakeGenerator:
        assert isinstance(self.agent.generator, FakeGenerator)
        return self.agent.generator


@asynccontextmanager
async def scene(start_agent: StartAgent, url: str, **slack: str) -> AsyncIterator[Scene]:
    async with running_demo() as demo:
        options = {"slack_bot_token": TOKEN, "slack_api_url": demo.slack.url, "lease_seconds": 3.0, **slack}
        async with start_agent(url, **options) as agent, serve(agent) as server:
            demo.slack.bot_url = server.url if "slack_signing_secret" in slack else ""
            yield Scene(demo, agent)


@pytest_asyncio.fixture(loop_scope="session")
async def over_http(start_agent: StartAgent, sqlite_url: str) -> AsyncIterator[Scene]:
    async with scene(start_agent, sqlite_url, slack_signing_secret=SECRET) as running:
        yield running


@asynccontextmanager
async def looking(browser: Browser, url: str, **options: Any) -> AsyncIterator[Page]:
    """Open the page, and fail if its console reports a problem."""
    context = await browser.new_context(**{"viewport": {"width": 1280, "height": 800}, "locale": "en-GB", **options})
    page, found = await context.new_page(), list[str]()

    def on_console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            found.append(message.text)

    page.on("console", on_console)
    page.on("pageerror", lambda error: found.append(str(error)))
    page.set_default_timeout(10_000)
    try:
        await page.goto(url)
        yield page
        assert found == []
    finally:
        await context.close()


async def say(page: Page, text: str, box: str = "Message #shop") -> None:
    await page.get_by_label(box, exact=True).fill(text)
    await page.get_by_label(box, exact=True).press("Enter")


def thread(page: Page) -> Locator:
    return page.get_by_role("complementary", name="Thread")


def answers(page: Page) -> Locator:
    return thread(page).locator(".from-bot")


async def votes_on_the_reply(running: Scene) -> list[Vote]:
    """Return the votes on the first reply; its thumbs carry its id."""
    thumbs = running.demo.slack.posted[0]["blocks"][-1]["elements"][0]
    reply_id = thumbs["positive_button"]["value"].partition(":")[2]
    return await Feedback(running.agent.scope).votes_on(reply_id)


# --- in a browser ---


@pytest.mark.browser
async def test_a_mention_is_answered_in_its_thread(over_http: Scene, browser: Browser) -> None:
    go_on = asyncio.Event()
    over_http.generator.enqueue("**Roses** bloom in May.", " <img src=x> & more.", hold=go_on)
    async with looking(browser, over_http.demo.url) as page:
        await say(page, "@myna when do the roses bloom, & is 1 < 2?")
        await expect(answers(page).locator("strong").nth(1)).to_have_text("Roses")
        await expect(thread(page).get_by_text("Myna is answering ...")).to_be_visible()
        await expect(thread(page).get_by_role("button", name="Stop")).to_be_visible()
        go_on.set()
        await expect(answers(page).locator(".text")).to_have_text("Roses bloom in May. <img src=x> & more.")
        await expect(thread(page).get_by_role("button", name="Stop")).to_be_hidden()
        await expect(page.get_by_role("log", name="Messages", exact=True)).to_contain_text("is 1 < 2?")
        await expect(page.get_by_label("Reply ...")).to_be_focused()
        assert await page.get_by_role("img").count() == 0
        await say(page, "and in autumn?", "Reply ...")
        await expect(answers(page).locator(".text").nth(1)).to_have_text("and in autumn?")
        await page.reload()
        await expect(answers(page)).to_have_count(2)
    prompts = [one.messages[-1].content for one in over_http.generator.prompts]
    assert prompts == ["when do the roses bloom, & is 1 < 2?", "and in autumn?"]


@pytest.mark.browser
async def test_stop_ends_the_answer(over_http: Scene, browser: Browser) -> None:
    over_http.generator.enqueue("This goes on", " and on", hold=asyncio.Event())
    async with looking(browser, over_http.demo.url) as page:
        await say(page, "@Myna tell me everything")
        await expect(answers(page).locator(".text")).to_have_text("This goes on")
        await thread(page).get_by_role("button", name="Stop").click()
        await expect(answers(page).get_by_text("Stopped")).to_be_visible()
        await expect(thread(page).get_by_role("button", name="Stop")).to_be_hidden()
        await expect(answers(page).locator(".text")).to_have_text("This goes on")
        await page.keyboard.press("Escape")
        await expect(thread(page)).to_be_hidden()
    assert over_http.generator.aborted == 1


@pytest.mark.browser
async def test_a_thumb_down_asks_what_was_wrong(over_http: Scene, browser: Browser) -> None:
    over_http.generator.enqueue("In winter.")
    async with looking(browser, over_http.demo.url) as page:
        await say(page, "@Myna when do the roses bloom?")
        await thread(page).get_by_role("button", name="Mark this answer as bad").click()
        form = page.get_by_role("dialog", name="What was wrong?")
        await expect(form).to_be_visible()
        await form.get_by_role("button", name="Send").click()
        reason = form.get_by_label("What was wrong with this answer?")
        await expect(form.get_by_text("Please write something")).to_be_visible()
        await expect(reason).to_be_focused()
        await reason.fill("It is wrong.")
        await form.get_by_label("What would have been a better answer?").fill("In May.")
        await form.get_by_role("button", name="Send").click()
        await expect(form).to_be_hidden()
        assert await votes_on_the_reply(over_http) == [Vote(-1, "It is wrong.", "In May.")]
        pressed = thread(page).get_by_role("button", name="Mark this answer as bad")
        await expect(pressed).to_have_attribute("aria-pressed", "true")
        await thread(page).get_by_role("button", name="Mark this answer as good").click()
        await expect(pressed).to_have_attribute("aria-pressed", "false")
        await pressed.click()
        await expect(form).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(form).to_be_hidden()


@pytest.mark.browser
async def test_command_answers_are_ephemeral(over_http: Scene, browser: Browser) -> None:
    async with looking(browser, over_http.demo.url) as page:
        await say(page, "/myna help")
        note = page.locator(".only-mine")
        await expect(note).to_contain_text("Only visible to you")
        await expect(note.locator("code").first).to_have_text("/myna help")
        await page.get_by_label("You are").select_option("U0BEN")
        await expect(note).to_be_hidden()
        await page.get_by_label("You are").select_option("U0LIN")
        await say(page, "/myna help")
        await expect(note).to_contain_text("重新开始")
        await note.get_by_role("button", name="Dismiss message").click()
        await expect(note).to_be_hidden()
        await say(page, "@Myna hello")
        await expect(answers(page)).to_have_count(1)
        await expect(thread(page).get_by_role("button", name="将此回答标记为好")).to_be_visible()
        await say(page, "/myna feedback")
        await note.get_by_role("button", name="告诉我们哪里不对").click()
        form = page.get_by_role("dialog", name="哪里不对？")
        await form.get_by_role("button", name="以后再说").click()
        await expect(form).to_be_hidden()
        await page.get_by_label("You are").select_option("U0BEN")
        await page.get_by_role("navigation").get_by_role("button", name="Myna").click()
        await say(page, "directly", "Message Myna")
        await expect(answers(page).locator(".text")).to_have_text("directly")
    assert [one["text"] for one in over_http.demo.slack.channel("D0BEN").messages] == ["directly", "directly"]


@pytest.mark.browser
async def test_own_messages_are_edited_and_deleted(over_http: Scene, browser: Browser) -> None:
    async with looking(browser, over_http.demo.url) as page:
        await say(page, "Good mornin")
        message = page.locator("main article")
        await message.hover()
        await message.get_by_role("button", name="Edit message").click()
        await page.get_by_label("Edit message").fill("Good morning, @Ben & all")
        await page.get_by_label("Edit message").press("Enter")
        await expect(message.locator(".text")).to_have_text("Good morning, @Ben & all")
        await expect(message.locator(".mention")).to_have_text("@Ben")
        await expect(message.get_by_text("(edited)")).to_be_visible()
        await page.get_by_label("You are").select_option("U0BEN")
        await expect(message.locator(".mention")).to_be_visible()
        await expect(message.get_by_role("button", name="Edit message")).to_have_count(0)
        await page.get_by_label("You are").select_option("U0ANA")
        await message.hover()
        await message.get_by_role("button", name="Delete message").click()
        await expect(message).to_have_count(0)
    assert over_http.demo.slack.channel("C0SHOP").messages == []


@pytest.mark.browser
async def test_a_phone_shows_one_pane_at_a_time(over_http: Scene, browser: Browser) -> None:
    over_http.generator.enqueue("```\n" + "a long line of code " * 20 + "\n```\n1. one\n2. two")
    phone: Any = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "color_scheme": "dark"}
    async with looking(browser, over_http.demo.url, **phone) as page:
        await page.get_by_role("button", name="Back to the channels").click()
        await page.get_by_role("navigation").get_by_role("button", name="Myna").click()
        await page.get_by_role("button", name="What can you help me with?").click()
        await expect(answers(page).locator("li")).to_have_count(2)
        await expect(page.get_by_role("main")).to_be_hidden()
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        await page.get_by_role("button", name="Back to the channel", exact=True).click()
        await expect(page.get_by_role("button", name="1 reply")).to_be_visible()
        await expect(thread(page)).to_be_hidden()
        await page.get_by_role("button", name="Log of calls and events").click()
        await expect(page.get_by_role("region", name="Log")).to_contain_text("agents.sessions.setStatus")
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.browser
async def test_socket_mode_works_like_http(start_agent: StartAgent, sqlite_url: str, browser: Browser) -> None:
    async with scene(start_agent, sqlite_url, slack_app_token=APP_TOKEN) as running:
        await until(lambda: bool(running.demo.slack.sockets.connections))
        async with looking(browser, running.demo.url) as page:
            await say(page, "@Myna hello there")
            await expect(answers(page).locator(".text")).to_have_text("hello there")
            await say(page, "/myna help")
            await expect(page.locator(".only-mine")).to_contain_text("Only visible to you")


# --- without one ---


@pytest_asyncio.fixture(loop_scope="session")
async def demo() -> AsyncIterator[RunningDemo]:
    """Run the demo without Myna: nothing listens on its address."""
    async with running_demo() as running:
        running.slack.bot_url = "http://127.0.0.1:9"
        yield running


SAY = {"user": "U0ANA", "channel": "C0SHOP", "text": "hello"}


@pytest.mark.parametrize(
    ("path", "body", "status", "why"),
    [
        ("say", "{", 400, "not JSON"),
        ("say", "[]", 400, "not a JSON object"),
        ("say", {**SAY, "text": " "}, 400, "text is missing"),
        ("say", {**SAY, "text": 5}, 400, "text must be text"),
        ("say", {**SAY, "files": [5]}, 400, "files must be"),
        ("say", {**SAY, "channel": "C0NONE"}, 404, "no such channel"),
        ("say", {**SAY, "channel": "D0BEN"}, 404, "no such channel"),
        ("say", {**SAY, "user": BOT}, 404, "no such person"),
        ("say", {**SAY, "thread": "1.1"}, 404, "no such thread"),
        ("edit", {**SAY, "ts": "1.1"}, 404, "no such message"),
        ("click", {**SAY, "ephemeral": 0, "action": "vote"}, 404, "no such message"),
        ("slash", {**SAY, "command": "/other"}, 400, "not a valid command"),
        ("slash", {**SAY, "command": "/myna"}, 502, "Myna did not take it"),
        ("submit", {**SAY, "view": "V1", "values": {}}, 404, "no such form"),
        ("cancel", {**SAY, "view": "V1"}, 404, "no such form"),
        ("stop", SAY, 400, "thread is missing"),
    ],
)
async def test_impossible_actions_are_refused(demo: RunningDemo, path: str, body: Any, status: int, why: str) -> None:
    content = (
        {"data": body, "headers": {"Content-Type": "application/json"}} if isinstance(body, str) else {"json": body}
    )
    async with aiohttp.ClientSession() as session, session.post(f"{demo.url}/demo/{path}", **content) as response:
        assert response.status == status
        assert why in (await response.json())["error"]
    assert not any(one.messages for one in demo.slack.channels.values())


async def test_messages_of_others_can_not_be_changed(demo: RunningDemo) -> None:
    ts = await demo.slack.say("mine", user="U0BEN")
    async with aiohttp.ClientSession() as session:
        for path in ("edit", "delete"):
            async with session.post(f"{demo.url}/demo/{path}", json={**SAY, "ts": ts}) as response:
                assert response.status == 403
    assert [one["text"] for one in demo.slack.channel("C0SHOP").messages] == ["mine"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://elsewhere.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "elsewhere.example"}, 403),
        ({"Content-Type": "text/plain"}, 415),
    ],
)
async def test_requests_of_other_sites_are_refused(demo: RunningDemo, headers: dict[str, str], status: int) -> None:
    for path in ("/demo/say", "/api/chat.postMessage") if status == 403 else ("/demo/say",):
        body = '{"user": "U0ANA", "channel": "C0SHOP", "text": "hello"}'
        sent = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}", **headers}
        async with (
            aiohttp.ClientSession() as session,
            session.post(demo.url + path, data=body, headers=sent) as response,
        ):
            assert response.status == status
    assert demo.slack.channel("C0SHOP").messages == []


async def test_the_page_loads_no_foreign_code(demo: RunningDemo) -> None:
    async with aiohttp.ClientSession() as session, session.get(demo.url) as response:
        policy = response.headers["Content-Security-Policy"]
    assert re.search(r"default-src 'none'; script-src 'self'", policy)


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("@Myna, is 1 < 2 & 3?", f"<@{BOT}>, is 1 &lt; 2 &amp; 3?"),
        ("@myna hi @ana", f"<@{BOT}> hi <@U0ANA>"),
        ("me@myna.example @Mynah", "me@myna.example @Mynah"),
        ("<@U0BOT> by hand", "&lt;@U0BOT&gt; by hand"),
    ],
)
async def test_text_survives_slack_markup(written: str, kept: str) -> None:
    assert to_slack(written, IDS) == kept
    assert to_people(kept, IDS).lower() == written.lower()


async def test_links_are_shown_with_their_url() -> None:
    assert to_people("see <https://a.example|this> or <https://b.example>", IDS) == (
        "see this (https://a.example) or https://b.example"
    )
