"""The admin page in a real Chromium: login, every page, and the actions on it.

No model is needed: what the pages show was made with the functions of storage.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.async_api import Browser, expect

from bot.learning.release.releases import Releases
from storage import audit
from tests.builders.admin_pages import confirm, filled_server, go, log_in, opened
from tests.builders.agents import StartAgent
from tests.builders.learning import judged_beside_the_base
from tests.builders.logins import PASSWORD, ROOT, accounts_of
from tests.builders.pages import PHONE, serious_findings
from tests.builders.web import serve

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

PAGES = [
    "Overview",
    "Feedback",
    "Articles",
    "Answers",
    "Intents",
    "Datasets",
    "Jobs",
    "Versions",
    "Compare",
    "People",
    "Accounts",
    "Audit log",
]


@pytest.mark.parametrize("look", ["wide and light", "phone and dark"])
async def test_every_page_is_shown_and_accessible(
    browser: Browser, start_agent: StartAgent, sqlite_url: str, look: str
) -> None:
    options = {"viewport": PHONE, "color_scheme": "dark"} if "phone" in look else {}
    async with (
        filled_server(start_agent, sqlite_url) as (server, learnt),
        opened(browser, server.url, **options) as (page, complaints),
    ):
        assert await serious_findings(page) == []
        await log_in(page)
        for name in PAGES:
            await go(page, name)
            assert await serious_findings(page) == [], name
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        for path, words in (
            (f"jobs/{learnt.running.id}", "Tokens a second"),
            (f"versions/{learnt.challenger.name}", "Verdict of the gate"),
            (f"datasets/{learnt.dataset_id}", "Left out, and why"),
            (f"compare/{learnt.evaluation_id}", "0 of 2 judged"),
        ):
            await page.goto(f"{server.url}/admin#/{path}")
            await expect(page.get_by_text(words).first).to_be_visible()
            for image in await page.locator("img.chart").all():
                await expect(image).to_have_js_property("complete", True)
                assert await image.evaluate("image => image.naturalWidth") > 0
            assert await serious_findings(page) == [], path
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        assert complaints == []


async def test_a_wrong_password_and_an_ended_login(browser: Browser, start_agent: StartAgent, sqlite_url: str) -> None:
    async with filled_server(start_agent, sqlite_url) as (server, _), opened(browser, server.url) as (page, complaints):
        await log_in(page, password="not the password")
        await expect(page.get_by_role("alert")).to_have_text("This name and password don't belong together.")
        await log_in(page)
        await expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
        await accounts_of(server.agent).set_password(ROOT, "admin", "another long password")
        await expect(page.get_by_role("alert")).to_have_text("Your login is over. Please log in again.")
        await log_in(page, password="another long password")
        await page.get_by_role("button", name="Log out").click()
        await expect(page.get_by_role("alert")).to_have_text("You are logged out.")
        assert complaints == []


async def test_the_feedback_queue_by_keyboard(browser: Browser, start_agent: StartAgent, sqlite_url: str) -> None:
    async with filled_server(start_agent, sqlite_url) as (server, _), opened(browser, server.url) as (page, complaints):
        await log_in(page, "agent")
        await go(page, "Feedback")
        await expect(page.get_by_text("1 of 2 that wait")).to_be_visible()
        await page.keyboard.press("j")
        await expect(page.get_by_text("2 of 2 that wait")).to_be_visible()
        await expect(page.get_by_role("textbox")).to_have_value(re.compile("left our warehouse"))
        await page.keyboard.press("c")
        await expect(page.get_by_role("textbox")).to_be_focused()
        await page.keyboard.press("Control+Enter")
        await expect(page.get_by_text("1 of 1 that wait")).to_be_visible()
        await page.keyboard.press("x")
        await expect(page.get_by_text("No reply waits for a decision.")).to_be_visible()
        await expect(page.get_by_role("link", name="Accounts")).to_have_count(0)
        assert complaints == []


async def test_a_version_is_promoted_against_the_gate_and_rolled_back(
    browser: Browser, start_agent: StartAgent, sqlite_url: str
) -> None:
    async with (
        filled_server(start_agent, sqlite_url) as (server, learnt),
        opened(browser, server.url) as (page, complaints),
    ):
        await log_in(page)
        await go(page, "Versions")
        await page.get_by_role("link", name=learnt.challenger.name).last.click()
        await page.get_by_role("button", name="Promote").click()
        dialog = page.get_by_role("dialog")
        await expect(dialog).to_contain_text(f"in place of {learnt.champion.name}")
        await expect(dialog).to_contain_text("did not pass the gate")
        await expect(dialog.get_by_role("button", name="Promote")).to_be_disabled()
        await dialog.get_by_label("Reason").fill("It knows the new prices.")
        await confirm(page, "Promote")
        await expect(page.get_by_role("status")).to_contain_text(f"{learnt.challenger.name} answers now.")
        await expect(page.get_by_text("Champion", exact=True).first).to_be_visible()
        await go(page, "Versions")
        await page.get_by_role("button", name="Roll back").click()
        await page.get_by_label("Reason").fill("Too many complaints.")
        await confirm(page, "Roll back")
        await expect(page.locator("main .big")).to_have_text(learnt.champion.name)
        assert complaints == []


@pytest.mark.parametrize(
    ("look", "words"),
    [
        ({}, ("Promote", "Try", "Reason", "Passed beside another", "answers now. “Evaluate” judges it again")),
        (
            {"viewport": PHONE, "locale": "zh-CN"},
            ("发布", "试用", "原因", "对照其他版本通过", "通过关卡时的对手不是现在回答的"),
        ),
    ],
    ids=["wide", "phone and Chinese"],
)
async def test_a_void_verdict_asks_for_a_reason(
    browser: Browser, start_agent: StartAgent, sqlite_url: str, look: dict[str, Any], words: tuple[str, ...]
) -> None:
    promote, try_it, reason, badge, why = words
    async with (
        filled_server(start_agent, sqlite_url) as (server, learnt),
        opened(browser, server.url, **look) as (page, complaints),
    ):
        agent, name = server.agent, learnt.challenger.name
        await Releases(agent.scope).stop_canary(ROOT)
        await judged_beside_the_base(server, learnt)
        await page.locator("input").first.fill("admin")
        await page.locator("input[type=password]").fill(PASSWORD)
        await page.keyboard.press("Enter")
        await expect(page.locator(".bar")).to_be_visible()
        await page.goto(f"{server.url}/admin#/versions/{name}")
        await expect(page.get_by_text(badge).first).to_be_visible()
        for action in (try_it, promote):
            await page.get_by_role("button", name=action, exact=True).focus()
            await page.keyboard.press("Enter")
            dialog = page.get_by_role("dialog")
            await expect(dialog).to_contain_text(why)
            await expect(dialog).to_contain_text(learnt.champion.name)
            go_on = dialog.get_by_role("button", name=action, exact=True)
            await expect(go_on).to_be_disabled()
            assert await serious_findings(page) == []
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            field = dialog.get_by_label(reason, exact=True)
            while not await field.evaluate("field => field === document.activeElement"):
                await page.keyboard.press("Tab")
            await page.keyboard.type("The demo.")
            await page.keyboard.press("Tab")
            await page.keyboard.press("Tab")
            await expect(go_on).to_be_focused()
            await page.keyboard.press("Enter")
            await expect(dialog).to_have_count(0)
            await expect(page.get_by_role("button", name=action, exact=True)).to_have_count(0)  # drawn anew
        released = await Releases(agent.scope).current()
        assert released.champion is not None
        assert released.champion.name == name
        rows = await agent.database.read(audit.page, agent.workspace_id)
        told = [(one.action, one.details["fault"], one.details["why"]) for one in rows if "fault" in one.details]
        assert told == [
            ("version.promoted", "judged_beside_another", "The demo."),
            ("canary.started", "judged_beside_another", "The demo."),
        ]
        assert complaints == []


async def test_a_second_rollback_names_its_target(browser: Browser, start_agent: StartAgent, sqlite_url: str) -> None:
    async with (
        filled_server(start_agent, sqlite_url) as (server, learnt),
        opened(browser, server.url) as (page, complaints),
    ):
        agent = server.agent
        await Releases(agent.scope).promote(ROOT, learnt.challenger.name, override_reason="x")
        await log_in(page)
        await go(page, "Versions")
        for went_to, came_from in (
            (learnt.champion.name, learnt.challenger.name),
            ("the base model", learnt.champion.name),
        ):
            await page.get_by_role("button", name="Roll back").click()
            means = f"{went_to} answers from the next reply on, in place of {came_from}."
            await expect(page.get_by_role("dialog").get_by_text(means)).to_be_visible()
            await page.get_by_label("Reason").fill("Too many complaints.")
            await confirm(page, "Roll back")
            await expect(page.locator("main .big")).to_have_text(went_to)
        await expect(page.get_by_role("button", name="Roll back")).to_have_count(0)
        assert complaints == []


async def test_an_erasure_needs_the_id_typed(browser: Browser, start_agent: StartAgent, sqlite_url: str) -> None:
    async with (
        filled_server(start_agent, sqlite_url) as (server, learnt),
        opened(browser, server.url) as (page, complaints),
    ):
        await log_in(page)
        await go(page, "People")
        await page.get_by_label("Who?").fill(learnt.person)
        await page.get_by_role("button", name="Find").click()
        await page.get_by_role("button", name="Erase").click()
        erase = page.get_by_role("dialog").get_by_role("button", name="Erase")
        await expect(erase).to_be_disabled()
        await page.get_by_label(f"Type {learnt.person} to confirm").fill(learnt.person)
        await confirm(page, "Erase")
        await expect(page.get_by_role("heading", name="Erased")).to_be_visible()
        assert complaints == []


async def test_the_first_start_shows_the_command_and_continues(
    browser: Browser, start_agent: StartAgent, sqlite_url: str
) -> None:
    async with start_agent(sqlite_url) as agent, serve(agent) as server, opened(browser, server.url) as (page, _):
        await expect(page.get_by_text("myna account create NAME --role admin")).to_be_visible()
        await accounts_of(agent).create(ROOT, "ada", "admin", PASSWORD)
        await log_in(page, "ada")
        await expect(page.get_by_role("heading", level=1)).to_have_text("Overview")


async def test_the_page_speaks_chinese(browser: Browser, start_agent: StartAgent, sqlite_url: str) -> None:
    async with (
        filled_server(start_agent, sqlite_url) as (server, _),
        opened(browser, server.url, locale="zh-CN") as (page, complaints),
    ):
        await page.get_by_label("名称").fill("admin")
        await page.get_by_label("密码").fill(PASSWORD)
        await page.get_by_role("button", name="登录").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("概览")
        assert complaints == []
