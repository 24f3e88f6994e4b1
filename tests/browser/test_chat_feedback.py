"""Votes on replies and the privacy menu in a real Chromium, with a scripted model."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from playwright.async_api import Browser, Locator, Page, Request, Route, expect

from tests.browser.conftest import PageServer
from tests.builders.chat_pages import (
    answered,
    ask,
    button,
    complaints,
    fits,
    foreign_page,
    live_text,
    open_page,
    own,
    replies,
    send,
    visitor,
)
from tests.builders.pages import PHONE, serious_findings

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

FOCUSED = """() => {
  let node = document.activeElement;
  while (node?.shadowRoot?.activeElement) node = node.shadowRoot.activeElement;
  return node.getAttribute('aria-label') ?? node.closest('label')?.textContent ?? node.textContent;
}"""


def good(page: Page) -> Locator:
    return button(page, "Good answer").last


def bad(page: Page) -> Locator:
    return button(page, "Bad answer").last


def reason(page: Page) -> Locator:
    return page.get_by_label("What was wrong?")


def better(page: Page) -> Locator:
    return page.get_by_label("A better answer would be …")


def switch(page: Page, what: str) -> Locator:
    return page.get_by_role("switch", name=f"Myna may learn from {what}")


async def pressed(thumb: Locator, yes: bool) -> None:
    await expect(thumb).to_have_attribute("aria-pressed", str(yes).lower())


async def first_reply(page: Page) -> None:
    """Ask in the text box, the only one before a form is open."""
    await ask(page, "Hello!")


async def stored(page: Page) -> list[dict[str, Any]]:
    """Return the votes on the server, with those that no longer count."""
    return await page.evaluate(
        """async () => {
          const id = new URL(location.href).searchParams.get('chat');
          return (await (await fetch(`/api/chat/${id}/votes`)).json()).votes
            .map(({value, reason, better, replacedAt}) => ({value, reason, better, counts: replacedAt === null}));
        }"""
    )


# --- votes ---


async def test_a_vote_is_kept_changed_and_withdrawn(browser: Browser, page_server: PageServer) -> None:
    async with visitor(browser) as context:
        page = await context.new_page()
        found = complaints(page)
        await page.goto(page_server.url)
        await first_reply(page)
        await good(page).click()
        await pressed(good(page), True)
        await expect(page.get_by_role("status").first).to_have_text("Thank you.")
        await expect(replies(page).get_by_text("Thank you.")).to_be_visible()
        await page.reload()
        await pressed(good(page), True)
        await bad(page).click()
        await pressed(bad(page), True)
        await pressed(good(page), False)
        await button(page, "Not now").click()
        await bad(page).click()
        await pressed(bad(page), False)
        await expect(page.get_by_role("status").first).to_have_text("Your vote is withdrawn.")
        await page.reload()
        await pressed(bad(page), False)
        words = {"reason": None, "better": None, "counts": False}
        assert await stored(page) == [{"value": 1, **words}, {"value": -1, **words}]
        assert found == []


async def test_a_thumb_down_asks_what_was_wrong(browser: Browser, page_server: PageServer) -> None:
    async with visitor(browser) as context:
        page = await open_page(context, page_server.url)
        await first_reply(page)
        await bad(page).click()
        await expect(reason(page)).to_be_focused()
        await reason(page).fill("It was <b>rude</b>.")
        await better(page).fill("Good morning!\nHow can I help?")
        await button(page, "Send").click()
        await expect(reason(page)).to_be_hidden()
        await expect(replies(page).get_by_text("Thank you. This helps to answer better.")).to_be_visible()
        await expect(bad(page)).to_be_focused()
        vote = {"value": -1, "reason": "It was <b>rude</b>.", "better": "Good morning!\nHow can I help?"}
        assert [one for one in await stored(page) if one["counts"]] == [{**vote, "counts": True}]
        await page.reload()
        await button(page, "Change what you wrote").click()
        await expect(reason(page)).to_have_value("It was <b>rude</b>.")
        for left in ("Good morning!\nHow can I help?", ""):
            await reason(page).fill("")
            await better(page).fill(left)
            await button(page, "Send").click()
            await expect(reason(page)).to_be_hidden()
            kept = {"value": -1, "reason": None, "better": left or None, "counts": True}
            assert [one for one in await stored(page) if one["counts"]] == [kept]
            await page.reload()
            await button(page, "Change what you wrote" if left else "Say what was wrong").click()
            await expect(better(page)).to_have_value(left)


async def test_votes_by_keyboard_alone(browser: Browser, page_server: PageServer) -> None:
    async with visitor(browser) as context:
        page = await open_page(context, page_server.url)
        await first_reply(page)
        for _ in range(8):
            await page.keyboard.press("Shift+Tab")
            if await page.evaluate(FOCUSED) == "Bad answer":
                break
        await page.keyboard.press("Enter")
        await expect(reason(page)).to_be_focused()
        await page.keyboard.press("Escape")
        await expect(reason(page)).to_be_hidden()
        await expect(bad(page)).to_be_focused()
        await pressed(bad(page), True)
        await page.keyboard.press("Space")
        await pressed(bad(page), False)
        await page.keyboard.press("Space")
        await page.keyboard.type("Too short")
        await page.keyboard.press("Tab")
        await page.keyboard.type("A long one")
        await page.keyboard.press("Control+Enter")
        await expect(reason(page)).to_be_hidden()
        votes = [one for one in await stored(page) if one["counts"]]
        assert votes == [{"value": -1, "reason": "Too short", "better": "A long one", "counts": True}]


async def test_a_vote_with_a_lost_answer_counts_once(browser: Browser, page_server: PageServer) -> None:
    async with visitor(browser) as context:
        page = await open_page(context, page_server.url)
        await first_reply(page)
        tries: list[Request] = []

        async def lose_the_first_answer(route: Route) -> None:
            tries.append(route.request)
            if len(tries) == 1:
                await route.fetch()
                await route.abort("connectionreset")
            else:
                await route.continue_()

        await page.route("**/votes", lambda route: lose_the_first_answer(route))
        await good(page).click()
        await expect(replies(page).get_by_text("Thank you.")).to_be_visible()
        await pressed(good(page), True)
        assert len(tries) == 2
        await page.unroute("**/votes")
        assert [one["value"] for one in await stored(page)] == [1]


async def test_a_refused_vote_is_undone_and_its_text_kept(browser: Browser, page_server: PageServer) -> None:
    async with visitor(browser) as context:
        page = await open_page(context, page_server.url)
        await first_reply(page)
        await bad(page).click()
        await reason(page).fill("It was rude.")

        async def refuse(route: Route) -> None:
            error = {"code": "quota_exceeded", "message": "Too many.", "requestId": "r"}
            await route.fulfill(status=429, json={"error": error}, headers={"Retry-After": "7"})

        await expect(page.get_by_role("status").first).to_have_text("Thank you.")
        await page.route("**/votes", refuse)
        await button(page, "Send").click()
        await expect(page.get_by_role("alert")).to_have_text("Your vote was not stored. Please try again in about 7 s.")
        await expect(reason(page)).to_have_value("It was rude.")
        await page.unroute("**/votes")
        await button(page, "Send").click()
        await expect(reason(page)).to_be_hidden()
        await expect(page.get_by_role("alert")).to_be_empty()
        await good(page).click()
        await page.route("**/votes", refuse)
        await pressed(good(page), True)
        await expect(page.get_by_role("status").first).to_have_text("Thank you.")
        await bad(page).click()
        await expect(page.get_by_role("alert")).to_contain_text("not stored")
        await pressed(good(page), True)
        await pressed(bad(page), False)


async def test_only_finished_replies_have_thumbs(browser: Browser, page_server: PageServer) -> None:
    async with visitor(browser) as context:
        hold = asyncio.Event()
        page_server.generator.enqueue("Once upon ", "a time.", hold=hold)
        page = await open_page(context, page_server.url)
        await send(page, "Write a story about a bird that learns to talk to people.")
        await live_text(page)
        await expect(button(page, "Good answer")).to_have_count(0)
        hold.set()
        await answered(page, 1)
        await expect(button(page, "Good answer")).to_have_count(1)


async def test_a_phone_shows_the_form_without_scrolling_sideways(browser: Browser, page_server: PageServer) -> None:
    options = {"viewport": {**PHONE, "width": 320}, "is_mobile": True, "has_touch": True}
    async with visitor(browser, **options) as context:
        page = await open_page(context, page_server.url)
        await first_reply(page)
        await bad(page).tap()
        await expect(reason(page)).to_be_visible()
        await expect(reason(page)).not_to_be_focused()  # no keyboard comes up by itself
        assert await fits(page)
        await button(page, "Privacy").tap()
        await expect(switch(page, "this chat")).to_be_enabled()
        assert await fits(page)
        menu = await page.get_by_role("group", name="Privacy").bounding_box()
        assert menu is not None
        assert menu["x"] >= 0
        assert menu["x"] + menu["width"] <= 320
        for target in await page.get_by_role("button").all():
            size = await target.bounding_box()
            assert size is None or min(size["width"], size["height"]) >= 40, await target.inner_text()


async def test_feedback_and_privacy_in_chinese(browser: Browser, page_server: PageServer) -> None:
    async with visitor(browser, locale="zh-CN") as context:
        page = await open_page(context, page_server.url)
        await page.get_by_label("你的消息").fill("你好")
        await page.get_by_label("你的消息").press("Enter")
        await expect(button(page, "回答得不好")).to_be_visible(timeout=90_000)
        await button(page, "回答得不好").click()
        await expect(page.get_by_label("哪里不对？")).to_be_focused()
        await page.get_by_label("更好的回答应该是……").fill("您好！")
        await page.get_by_role("form").get_by_role("button", name="发送").click()
        await expect(replies(page).get_by_text("谢谢，这有助于改进回答。")).to_be_visible()
        await button(page, "隐私").click()
        await expect(page.get_by_role("switch", name="Myna 可以从此对话中学习")).to_be_checked()


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"color_scheme": "light"}, id="light"),
        pytest.param({"color_scheme": "dark"}, id="dark"),
        pytest.param({"viewport": PHONE, "is_mobile": True, "has_touch": True}, id="phone"),
    ],
)
async def test_axe_finds_nothing_serious(browser: Browser, page_server: PageServer, options: dict[str, Any]) -> None:
    # Only the check itself needs the policy out of its way.
    async with visitor(browser, bypass_csp=True, reduced_motion="reduce", **options) as context:
        page = await open_page(context, page_server.url)
        await first_reply(page)
        await bad(page).click()
        await expect(reason(page)).to_be_visible()
        assert await serious_findings(page) == []
        await reason(page).fill("It was rude.")
        await button(page, "Send").click()
        await expect(button(page, "Change what you wrote")).to_be_visible()
        await button(page, "Privacy").click()
        await expect(switch(page, "this chat")).to_be_enabled()
        assert await serious_findings(page) == []


# --- privacy ---


async def test_learning_is_refused_for_a_chat_and_for_all(browser: Browser, page_server: PageServer) -> None:
    async with visitor(browser) as context:
        page = await open_page(context, page_server.url)
        await first_reply(page)
        await button(page, "Privacy").click()
        await expect(switch(page, "this chat")).to_be_checked()
        await switch(page, "this chat").click()
        await expect(page.get_by_text("Saved.")).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(button(page, "Privacy")).to_be_focused()
        await page.reload()
        await button(page, "Privacy").click()
        await expect(switch(page, "this chat")).to_be_enabled()
        await expect(switch(page, "this chat")).not_to_be_checked()
        await expect(switch(page, "all my chats")).to_be_checked()
        await switch(page, "all my chats").click()
        await expect(switch(page, "this chat")).to_be_disabled()
        await switch(page, "all my chats").click()
        await expect(switch(page, "this chat")).to_be_enabled()
        await expect(switch(page, "this chat")).not_to_be_checked()


async def test_a_refusal_before_the_first_message_covers_it(browser: Browser, page_server: PageServer) -> None:
    async with visitor(browser) as context:
        page = await open_page(context, page_server.url)
        await button(page, "Privacy").click()
        await switch(page, "this chat").click()
        await expect(page.get_by_text("Saved.")).to_be_visible()
        await page.keyboard.press("Escape")
        told: list[Request] = []
        page.on("request", lambda one: told.append(one) if one.method == "POST" else None)
        await first_reply(page)
        (message,) = told
        assert (message.post_data_json or {})["mayLearn"] is False, "with the message, not behind it"
        await page.reload()
        await answered(page, 1)
        await button(page, "Privacy").click()
        await expect(switch(page, "all my chats")).to_be_checked()
        await expect(switch(page, "this chat")).not_to_be_checked()


async def test_quickly_toggled_switches_keep_their_last_state(browser: Browser, page_server: PageServer) -> None:
    async with visitor(browser) as context:
        page = await open_page(context, page_server.url)
        await button(page, "Privacy").click()
        await expect(switch(page, "all my chats")).to_be_checked()
        told: list[bool] = []
        is_held, may_go_on = asyncio.Event(), asyncio.Event()

        async def hold_the_first(route: Route) -> None:
            if route.request.method == "POST":
                told.append((route.request.post_data_json or {})["mayLearn"])
                if len(told) == 1:
                    is_held.set()
                    await may_go_on.wait()
            await route.continue_()

        await page.route("**/privacy", hold_the_first)
        for _ in range(3):
            await switch(page, "all my chats").click()
        await is_held.wait()
        assert told == [False], "one after the other"
        await expect(switch(page, "all my chats")).not_to_be_checked()
        may_go_on.set()
        await expect(page.get_by_text("Saved.")).to_be_visible()
        assert told == [False, True, False]
        await expect(switch(page, "all my chats")).not_to_be_checked()
        await page.unroute("**/privacy")
        await page.reload()
        await button(page, "Privacy").click()
        await expect(switch(page, "all my chats")).to_be_enabled()
        await expect(switch(page, "all my chats")).not_to_be_checked()


async def test_votes_and_privacy_in_the_widget(browser: Browser, page_server: PageServer) -> None:
    async with foreign_page(page_server) as url, visitor(browser) as context:
        page = await context.new_page()
        found = complaints(page)
        await page.goto(url)
        await button(page, "Open chat").click()
        await ask(page, "Hello from the shop!")
        await bad(page).click()
        await reason(page).fill("It was rude.")
        await page.keyboard.press("Escape")
        await expect(reason(page)).to_be_hidden()
        await expect(page.get_by_role("dialog", name="Shop help")).to_be_visible()
        await button(page, "Privacy").click()
        await switch(page, "this chat").click()
        await expect(page.get_by_text("Saved.")).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("dialog", name="Shop help")).to_be_visible()
        await page.reload()
        await button(page, "Open chat").click()
        await expect(own(page)).to_have_count(1)
        await pressed(bad(page), True)
        assert found == []
