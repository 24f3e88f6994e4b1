"""Setup of Slack: the manifest, the doctor and the commands."""

from __future__ import annotations

import copy
import json
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adapters.slack.channel import SlackConfig
from adapters.slack.doctor import Doctor, Finding
from adapters.slack.inbound import SlackInbound
from adapters.slack.manifest import BOT_EVENTS, BOT_SCOPES, make_manifest
from tests.builders.cli import Cli
from tests.builders.slack import StartInSlack
from tests.builders.web import WebServer
from tests.fakes.slack.records import APP_TOKEN, CONFIG_TOKEN, SCOPES, SECRET, TOKEN
from tests.fakes.slack.server import FakeSlack

HTTP = {"socket_mode": False, "many_workspaces": False}


def config_for(slack: FakeSlack, **more: str) -> SlackConfig:
    return SlackConfig(**{"bot_token": TOKEN, "signing_secret": SECRET, "api_url": slack.url, **more})


async def findings(config: SlackConfig, config_token: str = "") -> list[Finding]:
    return [one async for one in Doctor(config, None, config_token).examine()]


async def wrong(config: SlackConfig, config_token: str = "") -> list[str]:
    return [one.text for one in await findings(config, config_token) if one.state == "wrong"]


# --- the manifest ---


def test_the_manifest_asks_for_what_the_adapter_uses() -> None:
    manifest = make_manifest("Shop", "https://chat.example", **HTTP)
    assert manifest["settings"]["event_subscriptions"]["request_url"] == "https://chat.example/slack/events"
    assert manifest["settings"]["interactivity"]["request_url"] == "https://chat.example/slack/interactivity"
    assert manifest["features"]["slash_commands"][0]["url"] == "https://chat.example/slack/commands"
    assert not manifest["settings"]["org_deploy_enabled"]
    assert set(BOT_SCOPES) <= set(SCOPES.split(",")), "the fake knows these as Slack's"


def test_with_socket_mode_the_manifest_has_no_url() -> None:
    manifest = make_manifest("Shop", "https://chat.example", socket_mode=True, many_workspaces=False)
    assert "chat.example" not in json.dumps(manifest)
    assert manifest["settings"]["socket_mode_enabled"]


def test_for_many_workspaces_the_manifest_has_a_redirect_url() -> None:
    manifest = make_manifest("x" * 100, "https://chat.example", socket_mode=False, many_workspaces=True)
    assert manifest["oauth_config"]["redirect_urls"] == ["https://chat.example/slack/oauth_redirect"]
    assert manifest["settings"]["org_deploy_enabled"]
    assert len(manifest["display_information"]["name"]) <= 35


async def test_every_event_of_the_manifest_is_taken(
    slack_server: WebServer, slack: FakeSlack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each subscribed event is stored or answered with 200, whatever its content."""
    assert isinstance(slack_server.agent.slack.inbound, SlackInbound)  # type: ignore[union-attr]
    for event in BOT_EVENTS:
        kind = event.partition(".")[0]
        if kind not in ("app_uninstalled", "tokens_revoked"):
            assert await slack.deliver(slack_server.url, slack.callback({"type": kind})) == 200


# --- the doctor ---


async def test_the_doctor_finds_nothing_wrong(start_in_slack: StartInSlack, sqlite_url: str, slack: FakeSlack) -> None:
    async with start_in_slack(sqlite_url) as server:
        config = config_for(slack, app_token=APP_TOKEN, public_url=server.url)
        slack.manifest = make_manifest("Myna", server.url, socket_mode=True, many_workspaces=False)
        found = await findings(config, CONFIG_TOKEN)
    assert [one.state for one in found] == ["ok"] * len(found), found
    assert "U0BOT in Fernhill" in " ".join(one.text for one in found)


async def test_the_doctor_names_checks_it_can_not_make(slack: FakeSlack) -> None:
    unknown = [one.text for one in await findings(config_for(slack)) if one.state == "unknown"]
    assert any("--config-token" in one for one in unknown)
    assert any("MYNA_PUBLIC_URL" in one for one in unknown)


async def test_the_doctor_finds_an_invalid_token(slack: FakeSlack) -> None:
    assert "invalid_auth" in (await wrong(config_for(slack, bot_token="xoxp-1")))[0]


async def test_the_doctor_names_missing_scopes(slack: FakeSlack) -> None:
    slack.installations[TOKEN].scopes = "chat:write,users:read"
    assert "app_mentions:read" in (await wrong(config_for(slack)))[0]


async def test_the_doctor_finds_a_wrong_app_token(slack: FakeSlack) -> None:
    assert "connections:write" in (await wrong(config_for(slack, app_token=TOKEN)))[0]


async def test_the_doctor_finds_a_wrong_clock(slack: FakeSlack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.slack.doctor.time", SimpleNamespace(time=lambda: time.time() + 400))
    assert re.search(r"40\d s ahead", (await wrong(config_for(slack)))[0])


async def test_the_doctor_finds_slack_unreachable(slack: FakeSlack) -> None:
    found = await findings(config_for(slack, api_url="http://127.0.0.1:9/api/"))
    assert [one.state for one in found] == ["ok", "wrong"]
    assert "HTTPS_PROXY" in found[-1].text


async def test_the_doctor_finds_a_wrong_public_url(slack_server: WebServer, slack: FakeSlack) -> None:
    assert "does not answer" in (await wrong(config_for(slack, public_url="http://127.0.0.1:9")))[0]
    assert "not as Myna does" in (await wrong(config_for(slack, public_url=slack.url.removesuffix("/api/"))))[0]
    other = await wrong(config_for(slack, public_url=slack_server.url, signing_secret="another"))
    assert "another MYNA_SLACK_SIGNING_SECRET" in other[0]


async def test_the_doctor_says_where_to_find_missing_settings(slack: FakeSlack) -> None:
    complaints = await wrong(SlackConfig(signing_secret=SECRET))
    assert "MYNA_SLACK_BOT_TOKEN" in complaints[0]
    assert "OAuth & Permissions" in complaints[1]


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (("settings", "event_subscriptions", "bot_events"), ["app_mention"], "agent_session_stopped"),
        (("features", "agent_view"), None, "not declared an agent"),
        (("features", "app_home", "messages_tab_enabled"), False, "Messages Tab"),
        (("features", "slash_commands"), [], "/myna"),
        (
            ("settings", "interactivity", "request_url"),
            "https://old.example",
            "https://chat.example/slack/interactivity",
        ),
    ],
)
async def test_the_doctor_lists_differences_of_the_manifest(
    slack: FakeSlack, path: tuple[str, ...], value: Any, complaint: str
) -> None:
    slack.manifest = copy.deepcopy(make_manifest("Myna", "https://chat.example", **HTTP))
    place = slack.manifest
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    complaints = await wrong(config_for(slack, public_url="https://chat.example"), CONFIG_TOKEN)
    assert any(complaint in one for one in complaints), complaints
    assert "lives 12 hours" in " ".join(await wrong(config_for(slack), "xoxe-old"))


# --- the commands ---


@pytest.fixture
def myna(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


async def test_the_commands_print_and_set_exit_codes(slack: FakeSlack, myna: Cli) -> None:
    printed = await myna.beside("slack", "manifest", "--many-workspaces")
    assert printed.json["settings"]["token_rotation_enabled"]
    assert "MYNA_PUBLIC_URL" in printed.err
    myna.settings |= {
        "MYNA_SLACK_BOT_TOKEN": TOKEN,
        "MYNA_SLACK_SIGNING_SECRET": SECRET,
        "MYNA_SLACK_API_URL": slack.url,
    }
    well = await myna.beside("slack", "doctor")
    assert well.code == 0, well.out + well.err
    assert well.out.startswith("ok   The settings fit together.")
    ill = await myna.beside("slack", "doctor", "--json", MYNA_SLACK_BOT_TOKEN="xoxb-old")
    assert ill.code == 1
    assert {"ok", "wrong"} <= {one["state"] for one in ill.json}


def test_a_command_changes_the_encryption_key(myna: Cli) -> None:
    first = myna("slack", "rotate-key")
    assert first.code == 0, first.err
    before = (myna.data / "encryption.key").read_text().split()
    assert myna("slack", "rotate-key", "--json").json == {"encrypted_anew": 0}
    after = (myna.data / "encryption.key").read_text().split()
    assert (len(after), after[1]) == (2, before[0])
    one_key = myna("slack", "rotate-key", MYNA_ENCRYPTION_KEYS=after[0])
    assert one_key.code == 1
    assert "before the old one" in one_key.err
    assert "No workspace has installed" in myna("slack", "installations").out
