"""Installations of the Slack app: OAuth, token rotation and Socket Mode."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import sqlalchemy as sa

from adapters.slack.client import SlackClient
from adapters.slack.installations import App, StoredInstallations
from bot.access.vault import Vault, new_key, stored_keys, write_keys
from bot.errors import MynaError
from storage import schema
from storage.database import StorageUnavailable
from tests.builders.slack import StartInSlack
from tests.builders.waiting import until
from tests.builders.web import WebServer
from tests.conftest import new_postgres_database
from tests.fakes.slack.oauth import Consent
from tests.fakes.slack.records import APP_TOKEN, BOT, CLIENT_ID, CLIENT_SECRET, TEAM
from tests.fakes.slack.server import FakeSlack

pytestmark = pytest.mark.both_databases("secrets, renewed by one of several processes")

PUBLIC = "http://myna.test"
MANY = {"slack_bot_token": "", "slack_client_id": CLIENT_ID, "slack_client_secret": CLIENT_SECRET, "public_url": PUBLIC}


@pytest.fixture
async def many(start_in_slack: StartInSlack, database_url: str, slack: FakeSlack) -> AsyncIterator[WebServer]:
    """Run Myna for several workspaces, installed in none yet."""
    slack.installations.clear()
    keys = (new_key(),) if database_url.startswith("postgresql") else ()
    async with start_in_slack(database_url, **MANY, encryption_keys=keys) as server:
        yield server


async def set_out(server: WebServer) -> tuple[str, dict[str, str]]:
    """Press "install". Return Slack's address and the browser's cookies."""
    async with server.session.get(server.url + "/slack/install", allow_redirects=False) as response:
        assert response.status == 302, await response.text()
        return response.headers["Location"], {name: one.value for name, one in response.cookies.items()}


async def come_back(server: WebServer, location: str, cookies: dict[str, str]) -> tuple[int, str]:
    async with server.session.get(location, allow_redirects=False) as response:
        assert response.status == 302, await response.text()
        back = response.headers["Location"]
    assert back.startswith(PUBLIC + "/slack/oauth_redirect")
    return await open_page(server, back.replace(PUBLIC, server.url), cookies)


async def open_page(server: WebServer, address: str, cookies: dict[str, str]) -> tuple[int, str]:
    headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}
    async with server.session.get(address, headers=headers) as response:
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        return response.status, await response.text()


async def install(server: WebServer, slack: FakeSlack, **consent: Any) -> None:
    slack.oauth.consent = Consent(**consent)
    status, page = await come_back(server, *await set_out(server))
    assert status == 200, page
    assert "Installed" in page


async def stored(server: WebServer) -> list[Any]:
    def read(tx: Any) -> list[Any]:
        return list(tx.connection.execute(sa.select(schema.slack_installation)).all())

    return await server.agent.database.read(read, None)


# --- installing ---


async def test_two_workspaces_with_equal_channel_ids_stay_apart(many: WebServer, slack: FakeSlack) -> None:
    slack.add_team("T0OTHER")
    await install(many, slack, team_id=TEAM)
    await install(many, slack, team_id="T0OTHER")
    here = await slack.say("from here", channel="D0ANA")
    there = await slack.say("from there", channel="D0ANA", team="T0OTHER")
    await until(lambda: len(slack.posted) == 2)
    assert {(one["team"], one["text"]) for one in slack.posted} == {(TEAM, "from here"), ("T0OTHER", "from there")}
    assert here != there
    tokens = {call.token for call in slack.calls if call.method in ("chat.postMessage", "chat.startStream")}
    assert len(tokens) == 2, "each is answered with its own token"


async def test_tokens_are_encrypted_in_the_database(many: WebServer, slack: FakeSlack) -> None:
    slack.oauth.rotates = True
    await install(many, slack)
    row = (await stored(many))[0]
    token, installation = next(iter(slack.installations.items()))
    assert token not in str(row)
    assert installation.refresh_token not in str(row)
    assert row.tenant == TEAM
    assert "chat:write" in row.scopes


async def test_the_oauth_state_works_once_and_in_its_browser_only(many: WebServer, slack: FakeSlack) -> None:
    location, cookies = await set_out(many)
    query = parse_qs(urlsplit(location).query)
    assert query["redirect_uri"] == [PUBLIC + "/slack/oauth_redirect"]
    back = f"{many.url}/slack/oauth_redirect?code=x&state={query['state'][0]}"
    for wrong in ({}, {"myna_slack": "another"}):
        assert (await open_page(many, back, wrong))[0] == 400
    for address in (many.url + "/slack/oauth_redirect", back.replace("state=", "state=%00")):
        assert (await open_page(many, address, cookies))[0] == 400
    assert (await come_back(many, location, cookies))[0] == 200
    status, page = await open_page(many, back, cookies)
    assert status == 400
    assert "used already" in page
    assert len(await stored(many)) == 1


async def test_declining_the_installation_changes_nothing(many: WebServer, slack: FakeSlack) -> None:
    slack.oauth.consent = Consent(denied=True)
    status, page = await come_back(many, *await set_out(many))
    assert (status, "Nothing was changed" in page) == (200, True)
    assert await stored(many) == []


async def test_an_unknown_oauth_code_installs_nothing(many: WebServer, slack: FakeSlack) -> None:
    location, cookies = await set_out(many)
    state = parse_qs(urlsplit(location).query)["state"][0]
    status, page = await open_page(many, f"{many.url}/slack/oauth_redirect?code=made-up&state={state}", cookies)
    assert status == 502
    assert "made-up" not in page
    assert await stored(many) == []


async def test_an_organization_installs_once_for_all_its_workspaces(many: WebServer, slack: FakeSlack) -> None:
    slack.add_team("T0GRID1", "E0GRID")
    slack.add_team("T0GRID2", "E0GRID")
    await install(many, slack, team_id="T0GRID1", enterprise_wide=True)
    assert (await stored(many))[0].tenant == "E0GRID"
    many.generator.enqueue(*(f"word{number} " for number in range(30)), delay=0.01)
    await slack.say(f"<@{BOT}> from one", channel="C0ONE", team="T0GRID1")
    await until(lambda: len(slack.posted) == 1)
    await slack.say("from two", channel="D0TWO", team="T0GRID2")
    await until(lambda: len(slack.posted) == 2)
    assert [one["team"] for one in slack.posted] == ["T0GRID1", "T0GRID2"]
    assert slack.called("chat.startStream")[0]["recipient_team_id"] == "E0GRID"
    assert (await slack.slash("/myna", "new", channel="D0TWO", team="T0GRID2")).body["text"].startswith("Done")


# --- what becomes of an installation ---


async def test_a_removed_app_is_forgotten_and_can_come_back(many: WebServer, slack: FakeSlack) -> None:
    await install(many, slack)
    await slack.uninstall()
    await until_stored(many, 0)
    slack.installations.clear()
    assert await slack.deliver(many.url, slack.message("anybody there?", channel="D0ANA")) == 200
    await asyncio.sleep(0.2)
    assert not many.generator.prompts
    await install(many, slack)
    await slack.say("and now?", channel="D0ANA")
    await until(lambda: [one["text"] for one in slack.posted] == ["and now?"])


async def until_stored(server: WebServer, count: int) -> None:
    for _ in range(200):
        if len(await stored(server)) == count:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{await stored(server)}")


async def test_events_of_unknown_workspaces_get_200_and_no_answer(slack_server: WebServer, slack: FakeSlack) -> None:
    """iterate/iterate#1521: events without an installation are acknowledged, or Slack would stop sending."""
    slack.add_team("T0OTHER")
    slack.install("T0OTHER", token="xoxb-another", bot_user_id="U0BOT2")
    for _ in range(2):
        body = slack.message("hello", channel="D0ANA", team="T0OTHER")
        assert await slack.deliver(slack_server.url, body) == 200
    slack.tells_authorizations = False
    body = slack.message("hello", channel="D0ANA", team="T0OTHER")
    assert await slack.deliver(slack_server.url, body) == 200
    await asyncio.sleep(0.2)
    assert not slack_server.generator.prompts


async def test_tokens_are_rotated_before_they_expire(
    many: WebServer, slack: FakeSlack, monkeypatch: pytest.MonkeyPatch
) -> None:
    slack.oauth.rotates = True
    await install(many, slack)
    await slack.say("one", channel="D0ANA")
    await until(lambda: len(slack.posted) == 1)
    monkeypatch.setattr("adapters.slack.installations.RENEW_BEFORE_MS", 13 * 3600 * 1000)
    await slack.say("two", channel="D0ANA")
    await until(lambda: len(slack.posted) == 2)
    monkeypatch.setattr("adapters.slack.installations.RENEW_BEFORE_MS", 0)
    await slack.say("three", channel="D0ANA")
    await until(lambda: len(slack.posted) == 3)
    used = [call.token for call in slack.calls if call.method == "chat.postMessage"]
    assert used[0].startswith("xoxb-")
    assert used[-1].startswith("xoxe.xoxb-")
    assert len(await stored(many)) == 1


async def test_tokens_are_reencrypted_with_a_new_key(many: WebServer, slack: FakeSlack) -> None:
    slack.oauth.rotates = True
    await install(many, slack)
    settings, app = many.agent.settings, App(CLIENT_ID, CLIENT_SECRET, slack.url)
    old = [*settings.encryption_keys] or await asyncio.to_thread(stored_keys, settings.data)
    keys = [new_key(), *old]
    if not settings.encryption_keys:
        await asyncio.to_thread(write_keys, settings.data, keys)
    moving = StoredInstallations(many.agent.scope, Vault(keys), app)
    assert await moving.encrypt_anew() == 1
    assert await moving.encrypt_anew() == 0
    client = await StoredInstallations(many.agent.scope, Vault(keys[:1]), app).client(TEAM)
    assert client is not None
    assert (await client.call("auth_test"))["team_id"] == TEAM
    if not settings.encryption_keys:  # the server that runs finds the new key by itself
        await slack.say("hello", channel="D0ANA")
        await until(lambda: [one["text"] for one in slack.posted] == ["hello"])


async def test_delivery_waits_while_the_key_of_a_token_is_missing(
    many: WebServer, slack: FakeSlack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.slack.installations.NO_KEY_SECONDS", 0.1)
    await install(many, slack)
    installations = many.agent.slack._many  # type: ignore[union-attr]
    kept, installations._vault = installations._vault, Vault([new_key()])
    await slack.say("hello", channel="D0ANA")
    await asyncio.sleep(0.3)
    assert (await slack.slash("/myna", "help", channel="D0ANA")).status == 200
    assert slack.posted == []
    installations._vault = kept
    await until(lambda: [one["text"] for one in slack.posted] == ["hello"])


async def test_on_postgresql_the_key_is_a_setting(start_in_slack: StartInSlack, postgres: Any) -> None:
    with pytest.raises(MynaError, match="MYNA_ENCRYPTION_KEYS"):
        async with start_in_slack(new_postgres_database(postgres), **MANY):
            pass


async def test_a_token_rotation_outlives_its_caller(
    many: WebServer, slack: FakeSlack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refresh token is good for one use: the new one is stored even if the caller is gone."""
    slack.oauth.rotates = True
    await install(many, slack)
    access = SlackClient.call

    async def slow(self: SlackClient, method: str, **arguments: Any) -> Any:
        answer = await access(self, method, **arguments)
        if method == "oauth_v2_access":
            await asyncio.sleep(0.3)
        return answer

    monkeypatch.setattr(SlackClient, "call", slow)
    monkeypatch.setattr("adapters.slack.inbound.LOCALE_PATIENCE", 0.05)
    monkeypatch.setattr("adapters.slack.installations.RENEW_BEFORE_MS", 13 * 3600 * 1000)
    before = (await stored(many))[0].bot_token
    await slack.slash("/myna", "help", channel="D0ANA")
    for _ in range(100):
        if (await stored(many))[0].bot_token != before:
            break
        await asyncio.sleep(0.02)
    assert (await stored(many))[0].bot_token != before


async def test_a_late_removal_event_keeps_a_newer_installation(many: WebServer, slack: FakeSlack) -> None:
    await install(many, slack)
    late = slack.callback({"type": "app_uninstalled"})
    late["event_time"] -= 60
    await install(many, slack)
    assert await slack.deliver(many.url, late, **{"X-Slack-Retry-Num": "2"}) == 200
    assert len(await stored(many)) == 1


async def test_commands_of_workspaces_without_the_app_are_answered(many: WebServer, slack: FakeSlack) -> None:
    slack.add_team("T0OTHER")
    slack.install("T0OTHER", token="xoxb-another")
    answers = await asyncio.gather(*[slack.slash("/myna", "help", channel="D0ANA", team="T0OTHER") for _ in range(6)])
    assert [one.status for one in answers] == [200] * 6


# --- Socket Mode ---


@pytest.fixture
async def over_sockets(start_in_slack: StartInSlack, sqlite_url: str, slack: FakeSlack) -> AsyncIterator[WebServer]:
    async with start_in_slack(sqlite_url, slack_app_token=APP_TOKEN, slack_signing_secret="") as server:
        slack.bot_url = ""
        await until(lambda: len(slack.sockets.connections) == 2)
        yield server


async def test_events_commands_and_buttons_arrive_over_two_sockets(over_sockets: WebServer, slack: FakeSlack) -> None:
    over_sockets.generator.enqueue(*(f"word{number} " for number in range(30)), delay=0.01)
    ts = await slack.say(f"<@{BOT}> hello")
    await until(lambda: slack.posted and slack.posted[-1].get("blocks"))
    assert len(slack.texts_in(ts)) == 1
    assert "/myna" in (await slack.slash("/myna", "help")).body["text"]
    message = slack.posted[0]
    value = next(one for block in message["blocks"] for one in block.get("elements", []))["negative_button"]["value"]
    assert (await slack.click("C0SHOP", message["ts"], "myna_vote", value)).ok
    await until(lambda: slack.views)
    empty = await slack.submit(next(iter(slack.views.values())), {})
    assert empty.body["response_action"] == "errors"
    async with over_sockets.session.post(over_sockets.url + "/slack/events", data=b"{}") as response:
        assert response.status in (404, 405), "nothing is served over HTTP"


async def test_nothing_is_lost_while_sockets_are_renewed(over_sockets: WebServer, slack: FakeSlack) -> None:
    """slackapi/python-slack-sdk#1280, bolt-js#2487."""
    await slack.sockets.ask_to_refresh()
    await slack.say("one", channel="D0ANA")
    await slack.sockets.drop()
    await slack.say("two", channel="D0BEN", user="U0BEN")
    await until(lambda: len(slack.posted) == 2, seconds=20)
    await until(lambda: len(slack.sockets.connections) == 2, seconds=20)
    assert sorted(one["text"] for one in slack.posted) == ["one", "two"]


async def test_an_unstored_event_is_redelivered_over_the_socket(
    over_sockets: WebServer, slack: FakeSlack, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = over_sockets.agent.database
    working = database.write
    is_away = True

    async def write(unit: Any, *arguments: Any, **options: Any) -> Any:
        if is_away and unit.__name__ == "accept":
            raise StorageUnavailable("the disk is full")
        return await working(unit, *arguments, **options)

    monkeypatch.setattr(database, "write", write)
    slack.sockets.again_after = 0.3
    await slack.say("hello", channel="D0ANA")
    await asyncio.sleep(0.4)
    is_away = False
    await until(lambda: [one["text"] for one in slack.posted] == ["hello"])
    assert len(over_sockets.generator.prompts) == 1


async def test_a_wrong_app_token_is_retried_and_stops_nothing(
    start_in_slack: StartInSlack, sqlite_url: str, slack: FakeSlack, caplog: pytest.LogCaptureFixture
) -> None:
    async with start_in_slack(sqlite_url, slack_app_token="xapp-wrong"):
        await until(lambda: "MYNA_SLACK_APP_TOKEN" in caplog.text)
        await slack.say("over HTTP it works all the same", channel="D0ANA")
        await until(lambda: len(slack.posted) == 1)
