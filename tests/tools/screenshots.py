"""Take the pictures of README.md and docs/: `python -m tests.tools.screenshots URL`, or `--slack URL`.

With `--sources URL` it is answers from the articles in `examples/articles`. With `--admin URL` it is the admin page's
overview, as the account of `--account`, whose password stands in the variable ADMIN_PASSWORD; the picture shows what
that Myna has learnt so far.

URL is that of a running `myna serve`, or of `make slack-demo`, freshly started.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.tools.chromium import installed_chromium

FOLDER = Path(__file__).parent.parent.parent / "docs"
QUESTIONS = ["Good morning!", "Write a birthday greeting for a customer, in two lines.", "Thank you!"]
ABOUT_ARTICLES = [
    "How long do I have to send something back?",
    "When does the refund arrive?",
    "Do you repair bicycles?",
]
REPLY_MS = 120_000
SHOP_TALK = [
    ("U0BEN", "Good morning! The tulips are here, in all five colours."),
    ("U0LIN", "Lovely. I'll put them on the front page: *tulips, five colours*, and the price per bunch."),
    ("U0ANA", "@Myna How do I keep tulips fresh for longer?"),
]
IN_THREAD = "Thank you!"


def ask(page: Page, text: str, count: int) -> None:
    page.get_by_role("textbox").fill(text)
    page.get_by_role("textbox").press("Enter")
    expect(page.locator("myna-chat article.assistant[aria-busy=false]")).to_have_count(count, timeout=REPLY_MS)
    expect(page.get_by_role("button", name="Stop the reply", exact=True)).to_be_hidden(timeout=REPLY_MS)


def take(
    browser: Browser, url: str, name: str, width: int, height: int, scheme: str, questions: Sequence[str] = QUESTIONS
) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, device_scale_factor=2, locale="en-GB"
    )
    page = context.new_page()
    page.goto(url)
    for count, question in enumerate(questions, 1):
        ask(page, question, count)
    page.wait_for_timeout(500)
    page.screenshot(path=FOLDER / name)
    context.close()


def say_in_slack(page: Page, box: str, text: str) -> None:
    page.get_by_label(box, exact=True).fill(text)
    page.get_by_label(box, exact=True).press("Enter")


def take_slack(browser: Browser, url: str, name: str) -> None:
    """Take a conversation in a channel, with the bot's answers in a thread, one of them rated."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, device_scale_factor=2, locale="en-GB")
    page = context.new_page()
    page.goto(url)
    thumbs = page.get_by_role("complementary").get_by_role("button", name="Mark this answer as good")
    for count, (user, text) in enumerate(SHOP_TALK, 1):
        page.get_by_label("You are").select_option(user)
        say_in_slack(page, "Message #shop", text)
        expect(page.locator("main article")).to_have_count(count)
    expect(thumbs).to_have_count(1, timeout=REPLY_MS)
    say_in_slack(page, "Reply ...", IN_THREAD)
    expect(thumbs).to_have_count(2, timeout=REPLY_MS)
    thumbs.first.click()
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)
    page.screenshot(path=FOLDER / name)
    context.close()


def take_admin(browser: Browser, url: str, account: str, name: str, width: int, height: int, scheme: str) -> None:
    """Take the overview: the answering version, open jobs, and votes."""
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, device_scale_factor=2, locale="en-GB"
    )
    page = context.new_page()
    page.goto(f"{url.rstrip('/')}/admin")
    page.get_by_label("Name", exact=True).fill(account)
    page.get_by_label("Password", exact=True).fill(os.environ["ADMIN_PASSWORD"])
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Answers now")).to_be_visible()
    expect(page.locator("img.chart").first).to_have_js_property("complete", True)
    page.wait_for_timeout(500)
    page.screenshot(path=FOLDER / name)
    context.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.tools.screenshots")
    parser.add_argument("url", nargs="?", help="a running `myna serve`")
    parser.add_argument("--sources", metavar="URL", help="a running `myna serve` with `myna kb add examples/articles`")
    parser.add_argument("--slack", metavar="URL", help="a running `make slack-demo` in which nothing was said yet")
    parser.add_argument("--admin", metavar="URL", help="a running `myna serve` that has learnt something")
    parser.add_argument("--account", default="admin", help="who logs in to the admin page")
    options = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=installed_chromium(), args=["--no-sandbox"])
        if options.url:
            take(browser, options.url, "chat.png", 1180, 760, "light")
            take(browser, options.url, "chat-phone-dark.png", 390, 760, "dark")
        if options.sources:
            take(browser, options.sources, "sources.png", 1180, 860, "light", ABOUT_ARTICLES)
        if options.slack:
            take_slack(browser, options.slack, "slack.png")
        if options.admin:
            take_admin(browser, options.admin, options.account, "admin.png", 1280, 860, "light")
            take_admin(browser, options.admin, options.account, "admin-phone-dark.png", 390, 760, "dark")
        browser.close()


if __name__ == "__main__":
    main()
