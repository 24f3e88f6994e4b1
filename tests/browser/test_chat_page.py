"""The chat page and the widget in a real Chromium.

Streams, stops and deaths of the server are tried on `myna serve` with the starter model; all else on a server whose
replies come from a script. Waits are for conditions, never for times: the model decides how long a reply takes.
"""

import asyncio
import json
from typing import Any

import pytest
from playwright.async_api import Browser, Route, expect

from tests.browser.conftest import PageServer
from tests.builders.chat_pages import (
    REPLY_MS,
    answered,
    ask,
    box,
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

LONG = "Write a very long story about a bird that learns to talk to people."


# --- help ---


# --- asking ---


@pytest.mark.model
async def test_a_reply_streams_in(browser: Browser, live_server: Any) -> None:
    async with visitor(browser) as context:
        page = await context.new_page()
        found = complaints(page)
        await page.goto(live_server.url)
        await send(page, LONG)
        bubble = page.locator("myna-chat article.assistant").last
        await live_text(page)
        await expect(bubble).to_have_attribute("aria-live", "off")
        await answered(page, 1)
        await expect(bubble).to_have_attribute("data-state", "answered")
        await expect(box(page)).to_be_focused()
        await expect(box(page)).to_have_value("")
        assert found == []


@pytest.mark.model
async def test_stop_keeps_the_text_so_far(browser: Browser, live_server: Any) -> None:
    async with visitor(browser) as context:
        page = await open_page(context, live_server.url)
        await send(page, LONG)
        partial = await live_text(page)
        await button(page, "Stop the reply").click()
        await answered(page, 1)
        await expect(replies(page)).to_have_attribute("data-state", "stopped")
        await expect(replies(page).locator(".bubble")).to_contain_text(partial[:10])
        await expect(replies(page).locator(".note")).to_have_text("Stopped")
        await page.reload()
        await expect(replies(page)).to_have_attribute("data-state", "stopped")


@pytest.mark.model
async def test_a_reload_continues_a_running_reply(browser: Browser, live_server: Any) -> None:
    async with visitor(browser) as context:
        page = await open_page(context, live_server.url)
        await send(page, LONG)
        partial = await live_text(page)
        await page.reload()
        await answered(page, 1)
        await expect(own(page)).to_have_count(1)
        await expect(replies(page)).to_have_attribute("data-state", "answered")
        assert (await replies(page).locator(".bubble").inner_text()).startswith(partial[:10])


async def test_messages_sent_during_a_reply_are_answered(browser: Browser, page_server: PageServer) -> None:
    async with visitor(browser) as context:
        hold = asyncio.Event()
        page_server.generator.enqueue("Once upon ", "a time.", hold=hold)
        page = await open_page(context, page_server.url)
        await send(page, LONG)
        await live_text(page)
        await send(page, "And please give the bird a name.")
        hold.set()
        await expect(button(page, "Stop the reply")).to_be_hidden(timeout=REPLY_MS)
        await expect(own(page)).to_have_count(2)
        await expect(replies(page).last).to_have_attribute("data-state", "answered")
        shown = await page.locator("myna-chat article .bubble").all_inner_texts()
        await page.reload()
        await expect(page.locator("myna-chat article .bubble")).to_have_text(shown)


async def test_two_tabs_show_the_same(browser: Browser, page_server: PageServer) -> None:
    async with visitor(browser) as context:
        first = await open_page(context, page_server.url)
        await ask(first, "Hello, who are you?")
        second = await open_page(context, first.url)
        await answered(second, 1)
        text = await ask(first, "What can you do for me?", 2)
        await answered(second, 2)
        await expect(own(second)).to_have_count(2)
        await expect(replies(second).last.locator(".bubble")).to_have_text(text, use_inner_text=True)


# --- changing what was said ---


async def test_the_last_message_is_edited(browser: Browser, page_server: PageServer) -> None:
    async with visitor(browser) as context:
        page = await open_page(context, page_server.url)
        await ask(page, "My name is Anna.")
        await ask(page, "What is the capitol of France?", 2)
        await box(page).press("ArrowUp")
        await expect(box(page)).to_have_value("What is the capitol of France?")
        await ask(page, "What is the capital of Italy?", 2)
        await expect(own(page)).to_have_count(2)
        await page.reload()
        await answered(page, 2)
        await expect(own(page).locator(".bubble")).to_have_text(["My name is Anna.", "What is the capital of Italy?"])


async def test_escape_restores_the_draft(browser: Browser, page_server: PageServer) -> None:
    async with visitor(browser) as context:
        page = await open_page(context, page_server.url)
        await ask(page, "Hello!")
        await box(page).fill("half a thought")
        await own(page).hover()
        await button(page, "Edit message").click()
        await expect(box(page)).to_have_value("Hello!")
        await box(page).press("Escape")
        await expect(box(page)).to_have_value("half a thought")


async def test_a_reply_is_regenerated(browser: Browser, page_server: PageServer) -> None:
    async with visitor(browser) as context:
        page = await open_page(context, page_server.url)
        await ask(page, "Tell me a joke.")
        await button(page, "Answer again").click()
        await answered(page, 1)
        await expect(own(page)).to_have_count(1)
        await page.reload()
        await answered(page, 1)
        await expect(own(page)).to_have_count(1)


async def test_a_refused_message_stays_in_the_box(browser: Browser, page_server: PageServer) -> None:
    sent: list[str] = []

    async def refuse_once(route: Route) -> None:
        sent.append(json.loads(route.request.post_data or "{}")["messages"][0]["id"])
        if len(sent) > 1:
            await route.continue_()
            return
        error = {"error": {"code": "busy", "message": "busy", "requestId": "r1"}}
        await route.fulfill(status=503, json=error, headers={"retry-after": "2"})

    async with visitor(browser) as context:
        page = await open_page(context, page_server.url)
        await page.route("**/api/chat?html=1", refuse_once)
        await box(page).fill("Is anybody there?")
        await box(page).press("Enter")
        await expect(page.get_by_role("alert")).to_contain_text("not sent")
        await expect(box(page)).to_have_value("Is anybody there?")
        await expect(own(page)).to_have_count(0)
        await button(page, "Try again").click()
        await answered(page, 1)
        await expect(page.get_by_role("alert")).to_be_empty()
        assert len(sent) == 2
        assert sent[0] == sent[1]


# --- chats ---


async def test_new_chat_and_past_chats(browser: Browser, page_server: PageServer) -> None:
    async with visitor(browser) as context:
        page = await open_page(context, page_server.url)
        await ask(page, "First things first.")
        await button(page, "New chat").click()
        await expect(own(page)).to_have_count(0)
        await expect(box(page)).to_be_focused()
        await ask(page, "Second thoughts.")
        chats = page.get_by_role("navigation", name="Your chats").get_by_role("link")
        await expect(chats).to_have_count(2)
        await expect(chats.first).to_have_attribute("aria-current", "page")
        await chats.last.click()
        await expect(own(page).locator(".bubble")).to_have_text(["First things first."])
        await expect(chats.last).to_have_attribute("aria-current", "page")
        await page.go_back()
        await expect(own(page).locator(".bubble")).to_have_text(["Second thoughts."])


async def test_nobody_else_sees_a_chat(browser: Browser, page_server: PageServer) -> None:
    async with visitor(browser) as context, visitor(browser) as other_context:
        page = await open_page(context, page_server.url)
        await ask(page, "This is between you and me.")
        other = await open_page(other_context, page.url)
        await expect(other.get_by_role("alert")).to_contain_text("not available")
        await expect(own(other)).to_have_count(0)


@pytest.mark.model
async def test_a_chat_and_its_running_reply_survive_a_server_kill(browser: Browser, live_server: Any) -> None:
    async with visitor(browser) as context:
        page = await open_page(context, live_server.url)
        text = await ask(page, "Please remember the number seven.")
        await send(page, LONG)
        await live_text(page)
        await live_server.kill()
        await expect(page.get_by_role("alert")).to_contain_text("connection was lost")
        await live_server.restart()
        # The page finds its way back without help.
        await expect(button(page, "Stop the reply")).to_be_hidden(timeout=REPLY_MS)
        await expect(page.get_by_role("alert")).to_be_empty()
        await page.reload()
        await expect(own(page)).to_have_count(2)
        await expect(replies(page).locator(".bubble").first).to_have_text(text, use_inner_text=True)
        await button(page, "New chat").click()
        await ask(page, "Are you well again?")


# --- people and devices ---


@pytest.mark.parametrize("width", [320, 390])
async def test_a_phone_never_scrolls_sideways(browser: Browser, page_server: PageServer, width: int) -> None:
    options = {"viewport": {**PHONE, "width": width}, "is_mobile": True, "has_touch": True}
    async with visitor(browser, **options) as context:
        page = await open_page(context, page_server.url)
        assert await fits(page)
        await ask(page, "Please repeat this word: " + "abcdefghij" * 12)
        assert await fits(page)
        for target in await page.get_by_role("button").all():
            size = await target.bounding_box()
            assert size is None or min(size["width"], size["height"]) >= 40, await target.get_attribute("aria-label")
        await button(page, "Show chats").tap()
        await expect(page.get_by_role("navigation", name="Your chats").get_by_role("link")).to_have_count(1)
        await button(page, "Hide chats").tap()
        await expect(button(page, "Show chats")).to_be_focused()


async def test_the_page_speaks_chinese(browser: Browser, page_server: PageServer) -> None:
    async with visitor(browser, locale="zh-CN") as context:
        page = await open_page(context, page_server.url)
        await expect(page.locator("html")).to_have_attribute("lang", "zh-Hans")
        await expect(page.get_by_label("你的消息")).to_be_focused()
        # Enter that ends a composition does not send.
        await box(page).fill("你好")
        await box(page).dispatch_event("keydown", {"key": "Enter", "isComposing": True})
        await expect(own(page)).to_have_count(0)
        await box(page).press("Enter")
        await expect(page.locator("myna-chat article.assistant[aria-busy=false]")).to_have_count(1, timeout=REPLY_MS)
        names = await page.get_by_role("button").evaluate_all(
            "nodes => nodes.map((node) => node.getAttribute('aria-label') ?? node.textContent)"
        )
        assert {"新对话", "复制回复", "重新回答"} <= set(names)
        assert not [name for name in names if name.isascii()]


FOCUS = """() => {
  let node = document.activeElement;
  while (node?.shadowRoot?.activeElement) node = node.shadowRoot.activeElement;
  const ring = getComputedStyle(node).outlineStyle !== 'none' || node.tagName === 'TEXTAREA';
  return {name: node.getAttribute('aria-label') ?? node.textContent, ring};
}"""


async def test_the_keyboard_is_enough(browser: Browser, page_server: PageServer) -> None:
    async with visitor(browser) as context:
        page = await open_page(context, page_server.url)
        await page.keyboard.type("Hello")
        await page.keyboard.press("Shift+Enter")
        await page.keyboard.type("there")
        await expect(box(page)).to_have_value("Hello\nthere")
        await page.keyboard.press("Enter")
        await answered(page, 1)
        seen = []
        for _ in range(24):
            await page.keyboard.press("Shift+Tab")
            focus = await page.evaluate(FOCUS)
            seen.append(focus["name"])
            assert focus["ring"], focus["name"]
            if "Hide chats" in seen:
                break
        assert {"Conversation", "Copy reply", "Answer again", "Edit message", "New chat", "Hide chats"} <= set(seen)
        await page.keyboard.press("Enter")
        await expect(button(page, "Show chats")).to_be_focused()


async def test_a_reply_is_announced_once(browser: Browser, page_server: PageServer) -> None:
    async with visitor(browser) as context:
        page = await open_page(context, page_server.url)
        await page.evaluate(
            """() => {
              window.spoken = [];
              const root = document.querySelector('myna-chat').shadowRoot;
              const line = root.querySelector('[role=status]');
              const hear = () => { if (line.textContent) window.spoken.push(line.textContent); };
              new MutationObserver(hear).observe(line, {childList: true, characterData: true, subtree: true});
            }"""
        )
        for count in (1, 2):
            text = await ask(page, f"Hello for the time number {count}.", count)
            spoken = await page.evaluate("window.spoken")
            assert len(spoken) == count
            assert " ".join(text.split()) in " ".join(spoken[-1].split())
        await expect(page.get_by_role("status")).to_have_count(1)
        await expect(page.get_by_role("log")).to_have_count(1)


async def test_markup_in_a_message_is_text(browser: Browser, page_server: PageServer) -> None:
    attack = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script> [a](javascript:window.hacked=1)'
    async with visitor(browser) as context:
        page = await open_page(context, page_server.url)
        await ask(page, attack)
        for _ in range(2):
            await expect(own(page).locator(".bubble")).to_have_text(attack)
            assert await page.locator("myna-chat article :is(img, script, a[href^=javascript])").count() == 0
            assert await page.evaluate("window.hacked") is None
            await page.reload()
            await answered(page, 1)


async def test_a_too_long_message_is_refused(browser: Browser, page_server: PageServer) -> None:
    async with visitor(browser) as context:
        page = await open_page(context, page_server.url)
        limit = (await (await context.request.get(f"{page_server.url}/api/config")).json())["maxMessageChars"]
        await box(page).fill("a" * (limit - 3))
        await expect(page.get_by_text("3 characters left")).to_be_visible()
        await box(page).fill("a" * (limit + 2))
        await expect(page.get_by_text("2 characters too many")).to_be_visible()
        await expect(button(page, "Send message")).to_be_disabled()
        await box(page).press("Enter")
        await expect(own(page)).to_have_count(0)


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
        assert await serious_findings(page) == []
        page_server.generator.enqueue("A list:\n\n- one\n- two\n\n```python\nprint('three')\n```\n")
        await ask(page, "Show me a list and some Python code, please.")
        assert await serious_findings(page) == []
        if "is_mobile" in options:
            await button(page, "Show chats").tap()
            await expect(button(page, "Hide chats")).to_be_visible()
            assert await serious_findings(page) == []


# --- the widget ---


async def test_the_widget_on_a_foreign_page(browser: Browser, page_server: PageServer) -> None:
    async with foreign_page(page_server) as url, visitor(browser) as context:
        page = await context.new_page()
        found = complaints(page)
        await page.goto(url)
        await button(page, "Open chat").click()
        await expect(page.get_by_role("dialog", name="Shop help")).to_be_visible()
        await expect(box(page)).to_be_focused()
        await ask(page, "Hello from the shop!")
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("dialog")).to_be_hidden()
        await expect(button(page, "Open chat")).to_be_focused()
        await page.reload()
        await button(page, "Open chat").click()
        await expect(own(page).locator(".bubble")).to_have_text(["Hello from the shop!"])
        assert found == []


async def test_the_widget_has_an_interface_for_the_host_page(browser: Browser, page_server: PageServer) -> None:
    async with foreign_page(page_server) as url, visitor(browser, bypass_csp=True) as context:
        page = await context.new_page()
        await page.goto(url)
        await page.wait_for_function("window.Myna")
        await page.evaluate(
            """() => {
              window.heard = [];
              for (const name of ['open', 'close', 'message', 'reply', 'reset']) {
                window.Myna.on(name, () => window.heard.push(name));
              }
              return window.Myna.open();
            }"""
        )
        await ask(page, "Hello!")
        await page.evaluate("window.Myna.close()")
        await page.evaluate("window.Myna.reset()")
        await page.evaluate("window.Myna.toggle()")
        await expect(box(page)).to_be_visible()
        await expect(own(page)).to_have_count(0)
        assert await page.evaluate("window.heard") == ["open", "message", "reply", "close", "reset", "open"]


async def test_the_widget_fills_a_phone(browser: Browser, page_server: PageServer) -> None:
    options = {"viewport": PHONE, "is_mobile": True, "has_touch": True}
    async with foreign_page(page_server) as url, visitor(browser, **options) as context:
        page = await context.new_page()
        await page.goto(url)
        await button(page, "Open chat").tap()
        panel = page.get_by_role("dialog", name="Shop help")
        await expect(box(page)).to_be_focused()
        await expect(panel).to_have_css("height", f"{PHONE['height']}px")
        await expect(panel).to_have_css("width", f"{PHONE['width']}px")
        await button(page, "Close chat").tap()
        await expect(panel).to_be_hidden()


async def test_the_widget_works_without_storage(browser: Browser, page_server: PageServer) -> None:
    async with foreign_page(page_server) as url, visitor(browser) as context:
        await context.add_init_script(
            "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no', 'SecurityError'); }});"
        )
        page = await context.new_page()
        await page.goto(url)
        await button(page, "Open chat").click()
        await ask(page, "Do you know me?")


async def test_axe_finds_nothing_serious_in_the_panel(browser: Browser, page_server: PageServer) -> None:
    options = {"bypass_csp": True, "reduced_motion": "reduce"}
    async with foreign_page(page_server) as url, visitor(browser, **options) as context:
        page = await context.new_page()
        await page.goto(url)
        await button(page, "Open chat").click()
        await ask(page, "Hello!")
        assert await serious_findings(page) == []
