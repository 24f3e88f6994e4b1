"""Races on the admin page: lost or late answers, redrawn pages, actions of others at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from playwright.async_api import Browser, Page, Route, expect

from bot.jobs.control import Jobs
from bot.learning.release.releases import Releases
from storage import audit
from storage.transaction import Transaction
from tests.builders.admin_pages import confirm, filled_server, go, log_in, opened
from tests.builders.agents import StartAgent
from tests.builders.logins import PASSWORD, ROOT, Steerer, accounts_of

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

FOCUSED = "document.activeElement.dataset.key ?? document.activeElement.tagName"


def late(until: asyncio.Event) -> Callable[[Route], Awaitable[None]]:
    """Hold a request until it is released."""

    async def handle(route: Route) -> None:
        await until.wait()
        await route.continue_()

    return handle


async def lose_the_answer(route: Route) -> None:
    await route.fetch()
    await route.abort()


# --- the feedback queue ---


async def test_moving_on_during_a_decision_loses_no_reply(
    browser: Browser, start_agent: StartAgent, sqlite_url: str
) -> None:
    sent = asyncio.Event()
    async with filled_server(start_agent, sqlite_url) as (server, _), opened(browser, server.url) as (page, complaints):
        await log_in(page, "agent")
        await go(page, "Feedback")
        await page.route("**/exclude", late(sent))
        await page.keyboard.press("x")
        await page.keyboard.press("j")
        await expect(page.get_by_text("2 of 2 that wait")).to_be_visible()
        await page.get_by_role("textbox").fill("What I am writing.")
        sent.set()
        await expect(page.get_by_text("1 of 1 that wait")).to_be_visible()
        await expect(page.get_by_text("Where is my parcel?").first).to_be_visible()
        await expect(page.get_by_role("textbox")).to_have_value("What I am writing.")
        assert complaints == []


async def test_a_held_key_decides_once_and_undo_works(
    browser: Browser, start_agent: StartAgent, sqlite_url: str
) -> None:
    async with filled_server(start_agent, sqlite_url) as (server, _), opened(browser, server.url) as (page, _):
        await log_in(page, "agent")
        await go(page, "Feedback")
        await page.keyboard.down("x")
        await expect(page.get_by_text("1 of 1 that wait")).to_be_visible()
        for _ in range(3):
            await page.keyboard.down("x")  # as a keyboard repeats it
        await page.keyboard.up("x")
        await page.keyboard.press("u")
        await expect(page.get_by_text("of 2 that wait")).to_be_visible()
        await page.keyboard.press("a")
        await expect(page.get_by_role("status")).to_contain_text("Approved")  # else the last Undo is that of before
        await page.get_by_role("status").get_by_role("button", name="Undo").last.click()
        await expect(page.get_by_text("of 2 that wait")).to_be_visible()


async def test_a_cleared_correction_is_not_the_proposal(
    browser: Browser, start_agent: StartAgent, sqlite_url: str
) -> None:
    async with filled_server(start_agent, sqlite_url) as (server, _), opened(browser, server.url) as (page, _):
        await log_in(page, "agent")
        await go(page, "Feedback")
        await page.keyboard.press("j")
        take = page.get_by_role("button", name="Take the proposal")
        await expect(take).to_be_hidden()
        await page.get_by_role("textbox").fill(" ")
        await page.get_by_role("button", name="Correct", exact=True).click()
        await expect(page.get_by_role("alert")).to_contain_text("Write what would have been a better answer.")
        await expect(page.get_by_text("2 of 2 that wait")).to_be_visible()
        await expect(page.get_by_role("textbox")).to_be_focused()
        await take.click()
        await expect(page.get_by_text("1 of 1 that wait")).to_be_visible()


async def test_replies_beyond_the_first_page_are_reached(
    browser: Browser, start_agent: StartAgent, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.admin.reviews_api.PAGE", 1)
    async with filled_server(start_agent, sqlite_url) as (server, _), opened(browser, server.url) as (page, _):
        await log_in(page, "agent")
        await go(page, "Feedback")
        await expect(page.get_by_text("1 of 1+ that wait")).to_be_visible()
        await page.get_by_role("button", name="Next").click()
        await expect(page.get_by_text("2 of 2 that wait")).to_be_visible()
        await expect(page.get_by_text("Where is my parcel?").first).to_be_visible()


# --- judging ---


async def test_judging_continues_after_a_lost_answer(
    browser: Browser, start_agent: StartAgent, sqlite_url: str
) -> None:
    async with filled_server(start_agent, sqlite_url) as (server, learnt), opened(browser, server.url) as (page, _):
        await log_in(page, "agent")
        await page.goto(f"{server.url}/admin#/compare/{learnt.evaluation_id}")
        await expect(page.get_by_text("0 of 2 judged").first).to_be_visible()
        await page.keyboard.press("ArrowLeft")  # scrolls, and judges nothing
        await page.route("**/judgements", lose_the_answer, times=1)
        await page.keyboard.press("1")
        await expect(page.get_by_role("alert")).to_contain_text("Look whether this was done")
        await expect(page.get_by_text("0 of 2 judged").first).to_be_visible()
        await page.keyboard.press("1")
        await expect(page.get_by_text("1 of 2 judged").first).to_be_visible()


# --- pages that are drawn anew ---


async def make_account(page: Page, server_agent: object, name: str) -> None:
    await accounts_of(server_agent).create(ROOT, name, "viewer", PASSWORD)  # type: ignore[arg-type]
    await expect(page.get_by_text(name, exact=True).first).to_be_visible(timeout=20_000)


async def test_a_refresh_keeps_focus_and_open_parts(browser: Browser, start_agent: StartAgent, sqlite_url: str) -> None:
    async with filled_server(start_agent, sqlite_url) as (server, learnt), opened(browser, server.url) as (page, _):
        await page.clock.install()
        await page.reload()
        await log_in(page)
        parts = [
            page.get_by_role("main").get_by_role("link", name=learnt.champion.name),
            page.get_by_role("region", name="Audit log"),
            page.locator("main a:has(img.chart)"),
        ]
        for number, part in enumerate(parts):
            await part.focus()
            before = await page.evaluate(FOCUSED)
            await make_account(page, server.agent, f"new-{number}")
            await expect(part).to_be_focused()
            assert await page.evaluate(FOCUSED) == before

        await page.goto(f"{server.url}/admin#/versions/{learnt.challenger.name}")
        await page.get_by_text("Model card").click()
        await expect(page.locator(".prose")).to_be_visible()
        agent = server.agent
        await Releases(agent.scope).promote(ROOT, learnt.challenger.name, override_reason="x")
        await page.clock.fast_forward("01:00")
        await expect(page.locator("main .badge.mark")).to_have_text("Champion")
        await expect(page.locator(".prose")).to_be_visible()
        assert await page.evaluate("document.activeElement.textContent") == "Model card"


async def test_a_page_polls_often_only_during_a_job(browser: Browser, start_agent: StartAgent, sqlite_url: str) -> None:
    async with filled_server(start_agent, sqlite_url) as (server, learnt), opened(browser, server.url) as (page, _):
        agent = server.agent
        await log_in(page)
        busy = page.locator("[data-busy]")
        await expect(busy).to_have_count(1)
        await go(page, "Versions")
        await expect(busy).to_have_count(1)
        await Releases(agent.scope).stop_canary(ROOT)
        await expect(busy).to_have_count(0)
        await go(page, "Jobs")
        await expect(busy).to_have_count(1)
        await Jobs(agent.scope).cancel(ROOT, learnt.running.id)
        await page.goto(f"{server.url}/admin#/jobs/{learnt.done.id}")
        await expect(page.get_by_text("Cancelled").first).to_be_visible()
        await expect(busy).to_have_count(0)


async def test_times_age_and_no_log_row_is_skipped(browser: Browser, start_agent: StartAgent, sqlite_url: str) -> None:
    async with filled_server(start_agent, sqlite_url) as (server, _), opened(browser, server.url) as (page, complaints):
        await page.clock.install()
        await page.reload()
        await log_in(page)
        await go(page, "Audit log")
        await expect(page.get_by_text("just now").first).to_be_visible()
        older = page.get_by_role("button", name="Show older ones")
        await expect(older).to_be_hidden()
        await server.agent.database.write(_many_rows, server.agent.workspace_id)
        await page.clock.fast_forward("02:00:00")
        await expect(page.get_by_text("2 hours ago").first).to_be_visible()
        await expect(page.get_by_text("thing.done").first).to_be_visible()
        await older.click()
        await expect(page.locator("tbody tr").last.locator("td").first).to_have_text("1")
        numbers = [int(text) for text in await page.locator("tbody tr td:first-child").all_inner_texts()]
        assert numbers == list(range(numbers[0], 0, -1))
        assert complaints == []


def _many_rows(tx: Transaction) -> None:
    for _ in range(70):
        audit.record(tx, "shell:root", "thing.done")


# --- what goes wrong ---


async def test_stale_data_is_marked_with_the_reason(browser: Browser, start_agent: StartAgent, sqlite_url: str) -> None:
    async def refuse(route: Route) -> None:
        await route.fulfill(status=503, json={"error": {"code": "unavailable", "message": "The database is away."}})

    async with filled_server(start_agent, sqlite_url) as (server, _), opened(browser, server.url) as (page, _):
        await log_in(page)
        await expect(page.get_by_text("Answers now")).to_be_visible()
        stale = page.locator(".stale")
        await page.route("**/api/overview", refuse)
        await expect(stale).to_contain_text("The database is away.")
        await page.unroute("**/api/overview")
        await page.route("**/api/overview", lambda route: route.abort())
        await expect(stale).to_contain_text("The server can’t be reached.")
        await go(page, "Datasets")
        await expect(stale).to_have_count(0)


async def test_a_refused_form_keeps_its_input(browser: Browser, start_agent: StartAgent, sqlite_url: str) -> None:
    async with filled_server(start_agent, sqlite_url) as (server, _), opened(browser, server.url) as (page, _):
        await page.get_by_role("button", name="Log in").click()
        await expect(page.get_by_role("alert")).to_have_text("Type your name and your password.")
        await log_in(page)
        await expect(page.locator(".notices [role=status]")).to_have_count(1)
        await expect(page.locator(".notices [role=alert]")).to_have_count(1)
        await go(page, "Accounts")
        opener = page.get_by_role("row", name="agent").get_by_role("button", name="Link", exact=True)
        await opener.click()
        dialog = page.get_by_role("dialog")
        identity = dialog.get_by_label("Channel and person")
        await identity.fill("somebody")
        await identity.press("Enter")
        await expect(dialog.get_by_role("alert")).to_contain_text("Write a channel and the person's id there")
        await expect(identity).to_be_focused()
        await expect(identity).to_have_value("somebody")
        await identity.fill("slack:T1/U2")
        await confirm(page, "Link")
        await expect(page.get_by_text("slack:T1/U2")).to_be_visible()
        await expect(opener).to_be_focused()


async def test_a_change_of_another_person_is_not_undone(
    browser: Browser, start_agent: StartAgent, sqlite_url: str
) -> None:
    async with filled_server(start_agent, sqlite_url) as (server, learnt), opened(browser, server.url) as (page, _):
        released = Releases(server.agent.scope)
        await released.promote(ROOT, learnt.challenger.name, override_reason="a try")
        await log_in(page)
        await go(page, "Versions")
        await page.get_by_role("button", name="Roll back").click()
        await page.get_by_label("Reason").fill("Too many complaints.")
        await released.rollback(ROOT, "I saw that, too.")
        await page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
        await expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text(
            "has changed since you were asked"
        )
        await expect(page.get_by_label("Reason")).to_have_value("Too many complaints.")
        champion = (await released.current()).champion
        assert champion is not None
        assert champion.name == learnt.champion.name


async def test_a_new_password_keeps_this_login(browser: Browser, start_agent: StartAgent, sqlite_url: str) -> None:
    changed = asyncio.Event()
    asked: list[str] = []
    async with filled_server(start_agent, sqlite_url) as (server, _), opened(browser, server.url) as (page, _):
        await log_in(page)
        await expect(page.locator("[data-busy]")).to_have_count(1)  # asks every two seconds
        await page.get_by_role("button", name="Change password").click()
        dialog = page.get_by_role("dialog")
        await dialog.get_by_label("Password until now").fill(PASSWORD)
        await dialog.get_by_label("New password").fill("short")
        await dialog.get_by_role("button", name="Change password").click()
        await expect(dialog.get_by_role("alert")).to_contain_text("at least 10 characters")
        await expect(dialog.get_by_label("New password")).to_be_focused()
        await dialog.get_by_label("New password").fill("seven swans a-swimming")
        await page.route("**/api/password", late(changed))
        async with page.expect_request("**/api/password"):
            await dialog.get_by_role("button", name="Change password").click()
        page.on("request", lambda request: asked.append(request.url))
        await page.wait_for_timeout(3_000)
        assert asked == [], "the old login may have ended already"
        changed.set()
        await expect(page.get_by_role("status")).to_contain_text("Your password is changed.")
        await Steerer(server).post("login", name="admin", password="seven swans a-swimming")
        async with page.expect_response("**/api/overview") as answered:
            pass
        assert (await answered.value).status == 200
