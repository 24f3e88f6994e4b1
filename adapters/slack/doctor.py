"""Diagnosis of the connection to Slack (`myna slack doctor`)."""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp
from slack_sdk.errors import SlackApiError
from slack_sdk.signature import SignatureVerifier
from slack_sdk.web.async_client import AsyncWebClient

from adapters.slack.channel import SlackConfig
from adapters.slack.client import name_of
from adapters.slack.installations import StoredInstallations
from adapters.slack.manifest import BOT_SCOPES, make_manifest
from bot.errors import MynaError

MAX_SKEW_SECONDS = 60.0
TIMEOUT = aiohttp.ClientTimeout(total=10)
CHALLENGE = "myna doctor"


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check, with the remedy if it is `wrong`; `unknown` if it could not be made."""

    state: Literal["ok", "wrong", "unknown"]
    text: str


def _ok(text: str) -> Finding:
    return Finding("ok", text)


def _wrong(text: str) -> Finding:
    return Finding("wrong", text)


class Doctor:
    """Checks of one connection to Slack. `config_token` is an app configuration token, to read the app's manifest."""

    def __init__(self, config: SlackConfig, installations: StoredInstallations | None, config_token: str = "") -> None:
        self._config = config
        self._installations = installations
        self._config_token = config_token

    async def examine(self) -> AsyncIterator[Finding]:
        """Yield each finding as soon as it is known."""
        try:
            self._config.check()
        except MynaError as error:
            yield _wrong(error.message)
            yield _wrong(
                "Make the app at https://api.slack.com/apps from `myna slack manifest`. There, "
                "MYNA_SLACK_SIGNING_SECRET, _CLIENT_ID and _CLIENT_SECRET are under Basic Information, "
                "MYNA_SLACK_BOT_TOKEN (xoxb-...) under OAuth & Permissions after installing, MYNA_SLACK_APP_TOKEN "
                "(xapp-..., scope connections:write) under Basic Information, App-Level Tokens."
            )
            return
        yield _ok("The settings fit together.")
        is_reached, finding = await self._clock()
        yield finding
        if not is_reached:
            return
        if self._config.bot_token:
            async for finding in self._token("MYNA_SLACK_BOT_TOKEN", self._config.bot_token):
                yield finding
        elif self._installations is not None:
            async for finding in self._stored(self._installations):
                yield finding
        if self._config.app_token:
            yield await self._app_token()
        if self._config.signing_secret:
            yield await self._own_address()

    async def _clock(self) -> tuple[bool, Finding]:
        """Return whether Slack is reached, and the finding about that and about the clock skew."""
        try:
            async with (
                aiohttp.ClientSession(timeout=TIMEOUT) as session,
                session.post(self._config.api_url + "api.test") as response,
            ):
                there = email.utils.parsedate_to_datetime(response.headers.get("Date", "")).timestamp()
        except (aiohttp.ClientError, TimeoutError) as error:
            return False, _wrong(
                f"This machine does not reach {self._config.api_url} ({_reason(error)}). Check its network, and "
                "HTTPS_PROXY."
            )
        except ValueError:
            return True, Finding("unknown", "Slack does not say what time it is.")
        skew = time.time() - there
        if abs(skew) <= MAX_SKEW_SECONDS:
            return True, _ok(f"{self._config.api_url} is reached, and the clocks agree.")
        return True, _wrong(
            f"This machine's clock is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}; from five minutes on, all "
            "of Slack's requests are refused. Set it by NTP."
        )

    async def _token(self, name: str, token: str) -> AsyncIterator[Finding]:
        client = AsyncWebClient(token=token, base_url=self._config.api_url, timeout=10, retry_handlers=[])
        try:
            answer: Any = await client.auth_test()
        except SlackApiError as error:
            yield _wrong(
                f"{name}: Slack answers {name_of(error)}. Install the app again (OAuth & Permissions), and "
                "copy the bot token, xoxb-...; user tokens and earlier tokens do not work."
            )
            return
        except (aiohttp.ClientError, TimeoutError) as error:
            yield Finding("unknown", f"{name}: no answer from Slack: {_reason(error)}.")
            return
        yield _ok(f"{name} belongs to {answer['user_id']} in {answer.get('team') or answer['team_id']}.")
        granted = _header(answer.headers, "x-oauth-scopes").split(",")
        missing = [scope for scope in BOT_SCOPES if scope not in granted]
        if missing:
            yield _wrong(
                f"{name} lacks the scopes {', '.join(missing)}. Add them under OAuth & Permissions, and install the "
                "app again."
            )
        else:
            yield _ok(f"{name} has all scopes.")
        async for finding in self._manifest(client, answer.get("bot_id")):
            yield finding

    async def _stored(self, installations: StoredInstallations) -> AsyncIterator[Finding]:
        found = await installations.list_all()
        if not found:
            yield Finding("unknown", "No workspace has installed the app yet. Open /slack/install in a browser.")
        for installation in found:
            token = await installations.token_of(installation)
            async for finding in self._token(f"The token of {installation.name} ({installation.tenant})", token):
                yield finding

    async def _app_token(self) -> Finding:
        client = AsyncWebClient(base_url=self._config.api_url, timeout=10, retry_handlers=[])
        try:
            await client.apps_connections_open(app_token=self._config.app_token)
        except SlackApiError as error:
            return _wrong(
                f"MYNA_SLACK_APP_TOKEN: Slack answers {name_of(error)}. Make one with the scope "
                "connections:write under Basic Information, App-Level Tokens, and turn on Socket Mode."
            )
        except (aiohttp.ClientError, TimeoutError) as error:
            return Finding("unknown", f"MYNA_SLACK_APP_TOKEN: no answer from Slack: {_reason(error)}.")
        return _ok("MYNA_SLACK_APP_TOKEN opens sockets.")

    async def _own_address(self) -> Finding:
        """Send our own server the `url_verification` request that Slack sends for a new request URL."""
        url = self._config.public_url.rstrip("/")
        if not url:
            return Finding(
                "unknown",
                "Set MYNA_PUBLIC_URL to the address at which Slack reaches this machine, to have it checked here.",
            )
        content = json.dumps({"type": "url_verification", "challenge": CHALLENGE}).encode()
        try:
            async with (
                aiohttp.ClientSession(timeout=TIMEOUT) as session,
                session.post(
                    f"{url}/slack/events", data=content, headers=_sign(content, self._config.signing_secret)
                ) as response,
            ):
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            return _wrong(
                f"{url}/slack/events does not answer: {_reason(error)}. Is `myna serve` running, and the proxy set up?"
            )
        if response.status == 401:
            return _wrong(f"{url}/slack/events has another MYNA_SLACK_SIGNING_SECRET than this command.")
        if response.status != 200 or CHALLENGE not in text:
            return _wrong(f"{url}/slack/events answers {response.status}, but not as Myna does. Check the proxy.")
        return _ok(f"{url}/slack/events answers, with the same signing secret.")

    async def _manifest(self, client: AsyncWebClient, bot_id: str | None) -> AsyncIterator[Finding]:
        """Compare the app's manifest; only an app configuration token may read it."""
        if not self._config_token:
            yield Finding(
                "unknown",
                "These tokens do not show the app's event subscriptions: pass --config-token (an app "
                "configuration token, from https://api.slack.com/apps), or compare its manifest with `myna slack "
                "manifest`.",
            )
            return
        try:
            app_id = ((await client.bots_info(bot=bot_id)).get("bot") or {}).get("app_id")
            exported: Any = await client.api_call(
                "apps.manifest.export",
                json={"app_id": app_id},
                headers={"Authorization": f"Bearer {self._config_token}"},
            )
        except SlackApiError as error:
            yield _wrong(f"--config-token: Slack answers {name_of(error)}. Make a new one; it lives 12 hours.")
            return
        except (aiohttp.ClientError, TimeoutError) as error:
            yield Finding("unknown", f"The app's manifest: no answer from Slack: {_reason(error)}.")
            return
        for finding in compare_manifests(exported.get("manifest") or {}, self._wanted()):
            yield finding

    def _wanted(self) -> dict[str, Any]:
        return make_manifest(
            "Myna",
            self._config.public_url,
            socket_mode=bool(self._config.app_token),
            many_workspaces=self._config.takes_many_workspaces,
        )


def compare_manifests(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[Finding]:
    """List the differences between an app's manifest and the wanted one."""
    findings = []
    events = set(_at(wanted, "settings", "event_subscriptions", "bot_events") or ())
    missing = sorted(events - set(_at(there, "settings", "event_subscriptions", "bot_events") or ()))
    if missing:
        findings.append(_wrong(f"The app is not subscribed to {', '.join(missing)}: Event Subscriptions, bot events."))
    if not _at(there, "features", "agent_view"):
        findings.append(_wrong("The app is not declared an agent: no Stop button, no titles. See Agents & AI Apps."))
    if not _at(there, "features", "app_home", "messages_tab_enabled"):
        findings.append(_wrong("Nobody can write to the app directly: App Home, Messages Tab."))
    if not _at(there, "features", "slash_commands"):
        findings.append(_wrong("There is no command /myna: Slash Commands."))
    for path in (
        ("settings", "socket_mode_enabled"),
        ("settings", "event_subscriptions", "request_url"),
        ("settings", "interactivity", "request_url"),
    ):
        is_now, should_be = _at(there, *path), _at(wanted, *path)
        if should_be is not None and is_now != should_be and "your.address" not in str(should_be):
            findings.append(
                _wrong(f"{'.'.join(path)} is {is_now!r} in the app's manifest; it should be {should_be!r}.")
            )
    return findings or [_ok("The app's manifest has all that Myna needs.")]


def _at(values: Mapping[str, Any], *path: str) -> Any:
    found: Any = values
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _header(headers: Mapping[str, str], name: str) -> str:
    return next((value for key, value in headers.items() if key.lower() == name), "")


def _sign(content: bytes, secret: str) -> dict[str, str]:
    """Return the headers that Slack would send with `content`."""
    timestamp = str(int(time.time()))
    signature = SignatureVerifier(secret).generate_signature(timestamp=timestamp, body=content)
    return {
        "Content-Type": "application/json",
        "X-Slack-Request-Timestamp": timestamp,
        "X-Slack-Signature": str(signature),
    }
