"""Steering from Slack: accounts, confirmation buttons, job progress, charts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from adapters.slack import words
from bot.learning.release.canary_harm import CanarySettings, Counts, Judged, judge
from storage import audit, jobs
from storage.database import StorageUnavailable
from storage.jobs import JobLease
from storage.learning_values import Job
from tests.builders.learning import fill_learning
from tests.builders.logins import ROOT
from tests.builders.slack import StartInSlack
from tests.builders.versions import make_version, two_beside_the_base
from tests.builders.waiting import until
from tests.builders.web import WebServer
from tests.fakes.slack.deliveries import INTERACTIVITY
from tests.fakes.slack.records import BOT, SCOPES, TEAM, TOKEN, Ephemeral
from tests.fakes.slack.server import FakeSlack


@pytest.fixture
async def staffed_server(
    start_in_slack: StartInSlack, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[WebServer]:
    """Run Myna with Ana as admin and Ben as trainer; Lin has no account."""
    monkeypatch.setattr("adapters.slack.slack_steering.UPDATE_SECONDS", 0.02)
    monkeypatch.setattr("adapters.slack.slack_steering.AGAIN_SECONDS", 0.02)
    monkeypatch.setattr("adapters.slack.slack_steering.LAST_WORD_DELAYS", (0.0, 0.02, 0.02))
    monkeypatch.setattr("bot.jobs.control.POLL_SECONDS", 0.02)
    async with start_in_slack(sqlite_url) as server:
        accounts = server.agent.accounts
        for name, role, user in (("ana", "admin", "U0ANA"), ("ben", "trainer", "U0BEN")):
            await accounts.create(ROOT, name, role, None)
            await accounts.link(ROOT, name, f"slack:{TEAM}/{user}")
        yield server


async def champion(server: WebServer) -> str | None:
    released = await server.agent.releases.current()
    return released.champion.name if released.champion else None


async def claimed(server: WebServer) -> JobLease:
    lease = await server.agent.database.write(jobs.claim, None, "a worker", 60_000)
    assert lease is not None
    return lease


async def report(server: WebServer, lease: JobLease, step: int) -> None:
    progress = {"phase": "answers", "step": step, "steps": 20, "tokens_per_second": 212.0, "loss": 1.5}
    await server.agent.database.write(jobs.report, server.agent.workspace_id, lease, progress, ())


async def jobs_of(server: WebServer) -> list[Job]:
    return await server.agent.database.read(jobs.list_jobs, server.agent.workspace_id)


def told(slack: FakeSlack, user: str = "U0ANA") -> list[str]:
    """Return the texts of the bot's direct messages."""
    channels = [one for one in slack.channels.values() if one.kind == "im" and user in one.members]
    return [str(one.get("text")) for channel in channels for one in channel.messages if one.get("user") == BOT]


# --- who may ---


async def test_the_status_is_an_ephemeral_message(staffed_server: WebServer, slack: FakeSlack) -> None:
    answer = await slack.slash("/myna", "status")
    assert answer.body["response_type"] == "ephemeral"
    assert "- Answers: `base`" in answer.body["text"]
    await slack.say(f"<@{BOT}> status", user="U0BEN")
    await until(lambda: len(slack.ephemerals) == 2)
    assert (slack.ephemerals[1].user, slack.ephemerals[1].text) == ("U0BEN", answer.body["text"])
    assert not staffed_server.generator.prompts, "the model was not asked"


async def test_an_unlinked_user_is_told_how_to_be_linked(staffed_server: WebServer, slack: FakeSlack) -> None:
    answer = await slack.slash("/myna", "train 200", user="U0LIN")
    assert f"myna account link NAME slack:{TEAM}/U0LIN" in answer.body["text"]
    assert "尚未关联" in answer.body["text"], "in their language"
    assert await jobs_of(staffed_server) == []


async def test_mentions_steer_only_from_linked_accounts(staffed_server: WebServer, slack: FakeSlack) -> None:
    await slack.slash("/myna", "train 200")
    await slack.say(f"<@{BOT}> stop", user="U0LIN")
    await until(lambda: staffed_server.generator.prompts)
    assert slack.ephemerals[1:] == [], "a word to the bot like any other"
    await slack.say(f"<@{BOT}> stop", user="U0BEN")
    await until(lambda: len(slack.ephemerals) == 2)
    assert "will be ended for good" in slack.ephemerals[1].text
    assert [one.state for one in await jobs_of(staffed_server)] == ["queued"], "it is asked back"
    await slack.click_ephemeral(slack.ephemerals[1], words.CONFIRM)
    await until(lambda: "was cancelled" in slack.ephemerals[1].text)
    assert [one.state for one in await jobs_of(staffed_server)] == ["cancelled"]


async def test_an_insufficient_role_is_refused(staffed_server: WebServer, slack: FakeSlack) -> None:
    await make_version(staffed_server.agent, 1)
    accounts = staffed_server.agent.accounts
    answer = await slack.slash("/myna", "promote 1", user="U0BEN")
    assert answer.body["text"] == "This needs the role admin; yours is trainer."
    assert len(answer.body["blocks"]) == 1, "no button"
    await accounts.set_role(ROOT, "ben", "viewer")
    assert "needs the role trainer" in (await slack.slash("/myna", "train 200", user="U0BEN")).body["text"]
    await accounts.set_disabled(ROOT, "ben", disabled=True)
    assert "account link" in (await slack.slash("/myna", "status", user="U0BEN")).body["text"]
    assert [one for one in await jobs_of(staffed_server) if one.state == "queued"] == []


async def test_ordinary_words_beside_a_mention_go_to_the_model(staffed_server: WebServer, slack: FakeSlack) -> None:
    for text in ("stop it please", "compare prices", "Status of my order?"):
        await slack.say(f"<@{BOT}> {text}", user="U0ANA")
    await until(lambda: len(staffed_server.generator.prompts) == 3)
    assert slack.ephemerals == []


# --- confirmation ---


async def asked_back(slack: FakeSlack, line: str) -> Ephemeral:
    await slack.slash("/myna", line)
    return slack.ephemerals[-1]


def button_of(shown: Ephemeral) -> str:
    return next(str(one["value"]) for one in shown.blocks[-1]["elements"] if one["action_id"] == words.CONFIRM)


async def test_a_button_promotes(staffed_server: WebServer, slack: FakeSlack) -> None:
    version = await make_version(staffed_server.agent, 1)
    shown = await asked_back(slack, "promote 1 because it is better")
    assert "will answer everybody" in shown.text
    assert "confirm" not in shown.text, "the button is enough"
    assert await champion(staffed_server) is None
    pressed = Ephemeral(shown.channel, shown.user, shown.text, list(shown.blocks))
    await slack.click_ephemeral(shown, words.CONFIRM)
    await until(lambda: "answers everybody from" in shown.text)
    assert await champion(staffed_server) == version.name
    assert [one["type"] for one in shown.blocks] == ["markdown"], "the buttons are gone"
    await staffed_server.agent.releases.rollback(ROOT, "")
    await slack.click_ephemeral(pressed, words.CONFIRM)
    await until(lambda: "can't be confirmed" in slack.ephemerals[-1].text)
    assert await champion(staffed_server) is None, "a button works once"
    assert "answers everybody from" in shown.text, "what the first press did is still told"
    rows = await staffed_server.agent.database.read(audit.page, staffed_server.agent.workspace_id)
    assert [one.actor for one in rows if one.action == "version.promoted"] == ["slack:ana"]


@pytest.mark.parametrize("line", ["promote 2", "canary 2 10%"])
async def test_a_promotion_refused_by_the_gate_has_no_button(
    staffed_server: WebServer, slack: FakeSlack, line: str
) -> None:
    first, second = await two_beside_the_base(staffed_server.agent)
    refused = await slack.slash("/myna", line)
    assert f"beside another champion than `{first.name}`" in refused.body["text"]
    assert len(refused.body["blocks"]) == 1, "no button"
    shown = await asked_back(slack, f"{line} because of the demo")
    assert f"`{second.name}` (passed the gate beside another champion" in shown.text
    await slack.click_ephemeral(shown, words.CONFIRM)
    await until(lambda: "from the next reply on. " in f"{shown.text} " and "will" not in shown.text)
    released = await staffed_server.agent.releases.current()
    assert second in (released.champion, released.challenger)


async def test_nobody_else_can_press_the_button(staffed_server: WebServer, slack: FakeSlack) -> None:
    await make_version(staffed_server.agent, 1)
    await staffed_server.agent.accounts.set_role(ROOT, "ben", "admin")
    shown = await asked_back(slack, "promote 1")
    for user, said in (("U0BEN", "can't be confirmed"), ("U0LIN", "尚未关联")):
        stolen = Ephemeral(shown.channel, user, shown.text, list(shown.blocks))
        slack.ephemerals.append(stolen)
        await slack.click_ephemeral(stolen, words.CONFIRM)
        await until(lambda text=said: text in slack.ephemerals[-1].text)
    assert await champion(staffed_server) is None


async def test_a_failed_press_says_so_and_can_be_repeated(
    staffed_server: WebServer, slack: FakeSlack, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = await make_version(staffed_server.agent, 1)
    shown = await asked_back(slack, "promote 1")

    async def gone(*_: Any, **__: Any) -> None:
        raise StorageUnavailable("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(staffed_server.agent.database, "write", gone)
        await slack.click_ephemeral(shown, words.CONFIRM)
        await until(lambda: "did not work just now" in slack.ephemerals[-1].text)
    assert await champion(staffed_server) is None
    assert button_of(shown)
    await slack.click_ephemeral(shown, words.CONFIRM)
    await until(lambda: "answers everybody from" in shown.text)
    assert await champion(staffed_server) == version.name


async def test_two_presses_at_once_promote_once(staffed_server: WebServer, slack: FakeSlack) -> None:
    first = await make_version(staffed_server.agent, 1)
    for version in (first, await make_version(staffed_server.agent, 2, beside=first)):
        await staffed_server.agent.releases.promote(ROOT, version.name)
    shown = await asked_back(slack, "rollback")
    again = Ephemeral(shown.channel, shown.user, shown.text, list(shown.blocks))
    await asyncio.gather(*(slack.click_ephemeral(one, words.CONFIRM) for one in (shown, again, again)))
    await until(lambda: len([one for one in slack.ephemerals if "confirmed" in one.text or "changed" in one.text]) == 2)
    assert [one for one in (shown, again) if "Rolled back" in one.text]
    await slack.deliverer.close()
    rows = await staffed_server.agent.database.read(audit.page, staffed_server.agent.workspace_id)
    assert [one.action for one in rows].count("version.rolled_back") == 1


async def test_a_dismissed_promotion_changes_nothing(staffed_server: WebServer, slack: FakeSlack) -> None:
    await make_version(staffed_server.agent, 1)
    shown = await asked_back(slack, "promote 1")
    await slack.click_ephemeral(shown, words.DISMISS)
    await until(lambda: shown.text == "Nothing was changed.")
    assert await champion(staffed_server) is None


@pytest.mark.parametrize("value", ["", "promote 1 confirm", "promote 1 confirm 000000", None, "status", "train 5"])
async def test_a_foreign_button_promotes_nothing(staffed_server: WebServer, slack: FakeSlack, value: Any) -> None:
    await make_version(staffed_server.agent, 1)
    payload = {
        "type": "block_actions",
        "team": {"id": TEAM},
        "user": {"id": "U0ANA"},
        "response_url": "http://127.0.0.1:9/",
        "actions": [{"action_id": words.CONFIRM, "value": value}],
    }
    assert (await slack.deliverer.send_form(INTERACTIVITY, payload)).status == 200
    await slack.slash("/myna", "status")
    assert await champion(staffed_server) is None


# --- a job that is followed ---


async def test_one_message_follows_a_training_until_its_verdict(staffed_server: WebServer, slack: FakeSlack) -> None:
    answer = await slack.slash("/myna", "train 200", user="U0BEN")
    (job,) = await jobs_of(staffed_server)
    assert job.id.startswith(answer.body["text"].split("`")[1])
    await until(lambda: [one for one in told(slack, "U0BEN") if "waits for its turn" in one])
    lease = await claimed(staffed_server)
    await report(staffed_server, lease, 5)
    await until(lambda: "█████░░░░░░░░░░░░░░░` step 5/20 · 212 tokens/s · loss 1.500" in told(slack, "U0BEN")[-1])
    await report(staffed_server, lease, 15)
    await until(lambda: "step 15/20" in told(slack, "U0BEN")[-1])
    result = {"version": "bot-v1", "passed": True, "reasons": []}
    await staffed_server.agent.database.write(
        jobs.finish, staffed_server.agent.workspace_id, lease, "done", result=result
    )
    await until(lambda: "`bot-v1`, which passed the gate" in told(slack, "U0BEN")[-1])
    assert len(told(slack, "U0BEN")) == 1
    assert told(slack) == []


async def test_failures_of_slack_or_the_database_do_not_end_following(
    staffed_server: WebServer, slack: FakeSlack, monkeypatch: pytest.MonkeyPatch
) -> None:
    slack.troubles["chat.update"] += ["http_500", "internal_error", "http_500"]
    database, reading, broken = staffed_server.agent.database, staffed_server.agent.database.read, [1, 1]

    async def read(unit: Any, *arguments: Any, **options: Any) -> Any:
        if unit is jobs.get and broken:
            broken.pop()
            raise StorageUnavailable("the disk is full")
        return await reading(unit, *arguments, **options)

    monkeypatch.setattr(database, "read", read)
    slack.troubles["conversations.open"] += ["ratelimited", "http_500"]
    await slack.slash("/myna", "train 200")
    await until(lambda: told(slack))
    lease = await claimed(staffed_server)
    for step in range(1, 8):
        await report(staffed_server, lease, step)
        await asyncio.sleep(0.05)
    slack.troubles["chat.update"] += ["http_500"]
    await staffed_server.agent.database.write(
        jobs.finish, staffed_server.agent.workspace_id, lease, "refused", error="Too little."
    )
    await until(lambda: told(slack)[-1].endswith("was refused\nToo little."))
    assert (len(told(slack)), broken) == (1, [])


async def test_a_followed_job_does_not_delay_the_shutdown(
    start_in_slack: StartInSlack, slack: FakeSlack, sqlite_url: str
) -> None:
    async with start_in_slack(sqlite_url) as server:
        accounts = server.agent.accounts
        await accounts.create(ROOT, "ana", "admin", None)
        await accounts.link(ROOT, "ana", f"slack:{TEAM}/U0ANA")
        await slack.slash("/myna", "train 200")
        await until(lambda: told(slack))
        assert server.agent.slack is not None
    assert "waits for its turn" in told(slack)[-1]
    assert told(slack)[-1].endswith("\nMyna was stopped or is restarting; `/myna status` shows the progress.")
    assert len(told(slack)) == 1
    assert [task for task in asyncio.all_tasks() if "_tell_more" in repr(task.get_coro())] == []


# --- a canary that did harm ---


async def look_at_harm(*_: Any) -> Judged:
    rails = {"thumbs_down": Counts(challenger_bad=50, champion_good=50)}
    return judge(rails, 0.5, CanarySettings(), answered_by_challenger=50, total=100, hours=1.0)


@pytest.fixture
def quick_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speed the watch up before the server starts."""
    monkeypatch.setattr("bot.learning.release.canary_watch.LOOK_SECONDS", 0.05)


@pytest.mark.usefixtures("quick_watch")
async def test_linked_admins_are_told_of_a_canary_rollback(
    staffed_server: WebServer, slack: FakeSlack, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts = staffed_server.agent.accounts
    await accounts.create(ROOT, "eve", "admin", None)
    await accounts.link(ROOT, "eve", f"slack:{TEAM}/U0LIN")
    await accounts.set_disabled(ROOT, "eve", disabled=True)
    slack.troubles["conversations.open"] += ["ratelimited"]
    version = await make_version(staffed_server.agent, 1)
    monkeypatch.setattr("bot.learning.release.canary_watch.look_at", look_at_harm)
    await staffed_server.agent.releases.start_canary(ROOT, version.name, 0.5)
    await until(lambda: told(slack))
    (text,) = told(slack)
    assert f"The canary of `{version.name}` did harm and was rolled back automatically: more thumbs_down" in text
    assert (await staffed_server.agent.releases.current()).canary is None
    assert (told(slack, "U0BEN"), told(slack, "U0LIN")) == ([], []), "a trainer, and an admin who is shut out"


# --- pictures ---


async def test_charts_are_uploaded_to_the_direct_channel(staffed_server: WebServer, slack: FakeSlack) -> None:
    await fill_learning(staffed_server)
    answer = await slack.slash("/myna", "compare")
    assert "held_out: Loss per token" in answer.body["text"]
    await until(lambda: [one for one in slack.files.values() if one.channel])
    (file,) = slack.files.values()
    assert file.content.startswith(b"\x89PNG")
    assert "bot-v2" in file.alt_text
    assert file.channel.startswith("D")


async def test_without_the_upload_scope_only_text_is_sent(staffed_server: WebServer, slack: FakeSlack) -> None:
    await fill_learning(staffed_server)
    slack.installations[TOKEN].scopes = SCOPES.replace("files:write,", "")
    answer = await slack.slash("/myna", "compare")
    assert "held_out: Loss per token" in answer.body["text"]
    await until(lambda: [one for one in slack.calls if one.method == "files.getUploadURLExternal"])
    assert slack.files == {}
