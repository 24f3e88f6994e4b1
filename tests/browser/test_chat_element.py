"""`<myna-chat>` in a host page that moves, removes and returns it, and changes its attributes.

The server's model is scripted, so that a reply can be held while the page does something.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from aiohttp import web
from playwright.async_api import Browser, Page, expect

from tests.builders.agents import StartAgent
from tests.builders.chat_pages import box, button, complaints, own, replies, send, visitor
from tests.builders.web import WebServer, serve
from tests.conftest import free_port

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

BUBBLES = "myna-chat article .bubble"
HEARD = ["myna:ready", "myna:chat", "myna:message", "myna:reply"]


@dataclass
class Host:
    """A page with one chat and two places for it."""

    page: Page
    server: WebServer
    calls: list[str]
    found: list[str]

    async def set(self, name: str, value: str) -> None:
        await self.page.evaluate("([name, value]) => chat.setAttribute(name, value)", [name, value])

    async def heard(self) -> list[str]:
        return await self.page.evaluate("heard.splice(0)")


@asynccontextmanager
async def host_page(browser: Browser, start_agent: StartAgent, url: str) -> AsyncIterator[Host]:
    port = free_port()

    async def index(_: web.Request) -> web.Response:
        html = (
            '<!doctype html><html lang="en"><head><title>A shop</title><style>section { height: 400px; }</style></head>'
            f'<body><section id="one"><myna-chat endpoint="{server.url}" lang="en" style="height: 100%">'
            '</myna-chat></section><section id="two"></section><script>'
            "const chat = document.querySelector('myna-chat'), heard = [];"
            f"for (const type of {HEARD}) chat.addEventListener(type, () => heard.push(type));"
            f'</script><script type="module" src="{server.url}/static/chat.js"></script></body></html>'
        )
        return web.Response(text=html, content_type="text/html")

    app = web.Application()
    app.add_routes([web.get("/", index)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    origin = f"http://127.0.0.1:{port}"
    try:
        async with (
            start_agent(url, allowed_origins=(origin,)) as agent,
            serve(agent) as server,
            visitor(browser) as context,
        ):
            page = await context.new_page()
            host = Host(page, server, [], complaints(page))
            page.on("request", lambda request: host.calls.append(request.url) if "/api/" in request.url else None)
            await page.goto(origin)
            await expect(box(page)).to_be_visible()
            yield host
            assert host.found == []
    finally:
        await runner.cleanup()


async def test_a_moved_chat_continues(browser: Browser, start_agent: StartAgent, sqlite_url: str) -> None:
    hold = asyncio.Event()
    async with host_page(browser, start_agent, sqlite_url) as host:
        page = host.page
        host.server.generator.enqueue(*(f"Line {number}.\n\n" for number in range(40)))
        await send(page, "Tell me much.")
        await expect(replies(page)).to_contain_text("Line 39.")
        host.server.generator.enqueue("Half of it", " and the rest.", hold=hold)
        await send(page, "And now?")
        await expect(replies(page).last).to_contain_text("Half of it")
        await box(page).fill("A draft")
        before = len(host.calls)
        await page.evaluate("document.querySelector('#two').append(chat)")
        await expect(page.locator("#two myna-chat article")).to_have_count(4)
        assert host.calls[before:] == []  # neither the chat nor the reply is asked for again
        hold.set()
        await expect(replies(page).last.locator(".bubble")).to_have_text("Half of it and the rest.")
        await expect(box(page)).to_have_value("A draft")
        bottom = "chat.shadowRoot.querySelector('.log')"
        await page.wait_for_function(f"{bottom}.scrollHeight - {bottom}.scrollTop - {bottom}.clientHeight < 2")
        assert not any("/stream" in call for call in host.calls)
        await page.evaluate("heard.length = 0")
        host.server.generator.enqueue("Here, too.")
        await send(page, "Where are you?")
        await expect(replies(page).last.locator(".bubble")).to_have_text("Here, too.")
        assert await host.heard() == ["myna:message", "myna:reply"]  # and listens once


async def test_a_moved_chat_keeps_its_scroll_position(
    browser: Browser, start_agent: StartAgent, sqlite_url: str
) -> None:
    async with host_page(browser, start_agent, sqlite_url) as host:
        page = host.page
        host.server.generator.enqueue(*(f"Line {number}.\n\n" for number in range(60)))
        await send(page, "Tell me much.")
        await expect(replies(page)).to_contain_text("Line 59.")
        log = "chat.shadowRoot.querySelector('.log')"
        await page.evaluate(f"{log}.scrollTop = 300")
        await expect(button(page, "Jump to the newest message")).to_be_visible()
        await page.evaluate("document.querySelector('#two').append(chat)")
        assert await page.evaluate(f"{log}.scrollTop") == 300
        await expect(button(page, "Jump to the newest message")).to_be_visible()


async def test_a_chat_put_back_later_shows_the_same(browser: Browser, start_agent: StartAgent, sqlite_url: str) -> None:
    async with host_page(browser, start_agent, sqlite_url) as host:
        page = host.page
        await page.evaluate("chat.initialChat = null")
        host.server.generator.enqueue("Hello yourself.")
        await send(page, "Hello!")
        await expect(page.locator(BUBBLES)).to_have_text(["Hello!", "Hello yourself."])
        await page.evaluate("chat.remove()")
        before = len(host.calls)
        await page.evaluate("window.dispatchEvent(new Event('focus'))")
        assert host.calls[before:] == []  # it listens to nothing
        await page.evaluate("document.querySelector('#two').append(chat)")
        await expect(page.locator(BUBBLES)).to_have_text(["Hello!", "Hello yourself."])
        host.server.generator.enqueue("Still here.")
        await send(page, "Are you there?")
        await expect(replies(page).last.locator(".bubble")).to_have_text("Still here.")


async def test_a_new_language_keeps_chat_and_draft(browser: Browser, start_agent: StartAgent, sqlite_url: str) -> None:
    hold = asyncio.Event()
    async with host_page(browser, start_agent, sqlite_url) as host:
        page = host.page
        host.server.generator.enqueue("Hello", " yourself.", hold=hold)
        await send(page, "Hello!")
        await expect(replies(page)).to_contain_text("Hello")
        await box(page).fill("A draft")
        await host.set("lang", "zh")
        written = page.get_by_role("textbox", name="你的消息")
        await expect(written).to_have_value("A draft")
        await expect(written).to_be_focused()
        await expect(button(page, "停止回复")).to_be_visible()
        await expect(page.locator("myna-chat .chat")).to_have_attribute("lang", "zh-Hans")
        hold.set()
        await expect(page.locator(BUBBLES)).to_have_text(["Hello!", "Hello yourself."])
        await host.set("lang", "en")
        await expect(page.get_by_role("textbox", name="Your message")).to_have_value("A draft")
        await expect(page.locator(BUBBLES)).to_have_text(["Hello!", "Hello yourself."])


async def test_an_edit_survives_a_new_language(browser: Browser, start_agent: StartAgent, sqlite_url: str) -> None:
    async with host_page(browser, start_agent, sqlite_url) as host:
        page = host.page
        host.server.generator.enqueue("First.")
        await send(page, "Hello!")
        await expect(replies(page).locator(".bubble")).to_have_text("First.")
        await own(page).hover()
        await button(page, "Edit message").click()
        await host.set("lang", "zh")
        await expect(page.get_by_role("textbox", name="你的消息")).to_have_value("Hello!")
        host.server.generator.enqueue("Second.")
        await box(page).fill("Hello again!")
        await box(page).press("Enter")
        await expect(page.locator(BUBBLES)).to_have_text(["Hello again!", "Second."])


async def test_a_new_name_and_mode_show_at_once(browser: Browser, start_agent: StartAgent, sqlite_url: str) -> None:
    async with host_page(browser, start_agent, sqlite_url) as host:
        page = host.page
        host.server.generator.enqueue("Hello yourself.")
        await send(page, "Hello!")
        await expect(replies(page)).to_have_attribute("aria-label", "Myna says")
        assert "myna:ready" in await host.heard()
        await expect(page.locator("myna-chat .header")).to_have_count(0)
        await host.set("mode", "panel")
        await host.set("name", "Pia")
        await expect(page.get_by_role("heading", name="Pia")).to_be_visible()
        await expect(replies(page)).to_have_attribute("aria-label", "Pia says")
        assert "myna:ready" in await host.heard()
        await page.evaluate("chat.removeAttribute('name')")
        await expect(page.get_by_role("heading", name="Myna")).to_be_visible()
        await host.set("mode", "page")
        await expect(page.locator("myna-chat .header")).to_have_count(0)
        await expect(page.locator("myna-chat .chat")).to_have_class("chat page")


async def test_a_new_endpoint_has_chats_of_its_own(browser: Browser, start_agent: StartAgent, sqlite_url: str) -> None:
    async with host_page(browser, start_agent, sqlite_url) as host:
        page = host.page
        host.server.generator.enqueue("Hello from one.")
        await send(page, "Hello!")
        await expect(page.locator(BUBBLES)).to_have_text(["Hello!", "Hello from one."])
        await host.heard()
        await box(page).fill("A draft")
        other = host.server.url.replace("127.0.0.1", "localhost")
        await host.set("endpoint", other)
        await expect(page.locator(BUBBLES)).to_have_count(0)
        await expect(box(page)).to_have_value("A draft")
        await expect(button(page, "Send message")).to_be_enabled()
        before = len(host.calls)
        host.server.generator.enqueue("Hello from two.")
        await send(page, "Who is there?")
        await expect(page.locator(BUBBLES)).to_have_text(["Who is there?", "Hello from two."])
        assert host.calls[before:] and all(call.startswith(other) for call in host.calls[before:])
        await host.set("endpoint", host.server.url)
        await expect(page.locator(BUBBLES)).to_have_text(["Hello!", "Hello from one."])
        assert (await host.heard()).count("myna:chat") == 2


async def test_attributes_may_change_before_insertion(
    browser: Browser, start_agent: StartAgent, sqlite_url: str
) -> None:
    async with host_page(browser, start_agent, sqlite_url) as host:
        page = host.page
        await page.evaluate(
            """(endpoint) => {
              const made = document.createElement('myna-chat');
              for (const lang of ['zh', 'en']) made.setAttribute('lang', lang);
              made.setAttribute('endpoint', endpoint);
              chat.replaceWith(made);
            }""",
            host.server.url,
        )
        host.server.generator.enqueue("Hello yourself.")
        await send(page, "Hello!")
        await expect(page.locator(BUBBLES)).to_have_text(["Hello!", "Hello yourself."])
