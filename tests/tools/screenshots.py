"""The pictures of README.md, taken of the real page: `python -m tests.tools.screenshots URL`.

Knows: what to ask and how to frame it. Does not know: how a server is started; URL is that of a running `myna serve`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.tools.chromium import installed_chromium

FOLDER = Path(__file__).parent.parent.parent / "docs"
QUESTIONS = ["Good morning!", "Write a birthday greeting for a customer, in two lines.", "Thank you!"]
REPLY_MS = 120_000


def ask(page: Page, text: str, count: int) -> None:
    page.get_by_role("textbox").fill(text)
    page.get_by_role("textbox").press("Enter")
    expect(page.locator("myna-chat article.assistant[aria-busy=false]")).to_have_count(count, timeout=REPLY_MS)
    expect(page.get_by_role("button", name="Stop the reply", exact=True)).to_be_hidden(timeout=REPLY_MS)


def take(browser: Browser, url: str, name: str, width: int, height: int, scheme: str) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, device_scale_factor=2, locale="en-GB"
    )
    page = context.new_page()
    page.goto(url)
    for count, question in enumerate(QUESTIONS, 1):
        ask(page, question, count)
    page.wait_for_timeout(500)
    page.screenshot(path=FOLDER / name)
    context.close()


def main(url: str) -> None:
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=installed_chromium(), args=["--no-sandbox"])
        take(browser, url, "chat.png", 1180, 760, "light")
        take(browser, url, "chat-phone-dark.png", 390, 760, "dark")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
