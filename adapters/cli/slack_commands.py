"""Connection to Slack: `myna slack ...`."""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import TYPE_CHECKING

from adapters.cli.terminal import Commands, add, add_group, print_value, say, with_database
from bot.errors import MynaError
from bot.settings import Settings

if TYPE_CHECKING:
    from storage.scope import Scope

_MARKS = {"ok": "ok ", "wrong": "FIX", "unknown": " ? "}


def add_to(commands: Commands) -> None:
    """Add `slack ...`."""
    slack = add_group(commands, "slack", "connect Myna to Slack")
    manifest = add(slack, "manifest", "print the manifest to create the Slack app from", _manifest)
    manifest.add_argument(
        "--socket-mode", action="store_true", help="use Socket Mode, for a machine that Slack can't reach"
    )
    manifest.add_argument(
        "--many-workspaces", action="store_true", help="let other Slack workspaces install the app, too (OAuth)"
    )
    doctor = add(slack, "doctor", "check the connection between Myna and Slack", _doctor, reports=True)
    doctor.add_argument(
        "--config-token",
        default="",
        metavar="TOKEN",
        help="an app configuration token, to check the event subscriptions, too",
    )
    add(slack, "installations", "list the Slack workspaces that have installed the app", _installations, reports=True)
    add(slack, "rotate-key", "encrypt all stored tokens with a new key", _rotate_key, reports=True)


def _manifest(settings: Settings, arguments: argparse.Namespace) -> int:
    from adapters.slack.manifest import make_manifest

    socket_mode = arguments.socket_mode or bool(settings.slack_app_token)
    many_workspaces = arguments.many_workspaces or bool(settings.slack_client_id)
    manifest = make_manifest(
        settings.title, settings.public_url.rstrip("/"), socket_mode=socket_mode, many_workspaces=many_workspaces
    )
    print_value(json.dumps(manifest, ensure_ascii=False, indent=2))
    if not socket_mode and not settings.public_url:
        say("Replace https://your.address with the address of this machine, or set MYNA_PUBLIC_URL.")
    return 0


def _doctor(settings: Settings, arguments: argparse.Namespace) -> int:
    from adapters.cli import wiring
    from adapters.slack.doctor import Doctor

    config = wiring.slack_config(settings)

    async def examine(scope: Scope | None) -> list[dict[str, str]]:
        installations = wiring.make_installations(settings, scope) if scope else None
        findings = []
        async for finding in Doctor(config, installations, arguments.config_token).examine():
            findings.append({"state": finding.state, "text": finding.text})
            if not arguments.json:
                print_value(f"{_MARKS[finding.state]}  {finding.text}")
        return findings

    if config.takes_many_workspaces:
        findings = with_database(settings, lambda scope: examine(scope))
    else:
        findings = asyncio.run(examine(None))
    if arguments.json:
        print_value(findings)
    return 1 if any(finding["state"] == "wrong" for finding in findings) else 0


def _installations(settings: Settings, arguments: argparse.Namespace) -> int:
    from storage import slack_installs

    found = with_database(settings, lambda scope: scope.read(slack_installs.list_all))
    if arguments.json:
        print_value([{"tenant": app.tenant, "name": app.name, "scopes": app.scopes.split(",")} for app in found])
    elif not found:
        print_value("No workspace has installed the Slack app yet. Open /slack/install in a browser.")
    for app in () if arguments.json else found:
        print_value(f"{app.name}  {app.tenant}")
    return 0


def _rotate_key(settings: Settings, arguments: argparse.Namespace) -> int:
    from adapters.cli import wiring
    from bot.access.vault import add_key, forget_old_keys

    if not settings.encryption_keys:
        add_key(settings.data)
    elif len(settings.encryption_keys) < 2:
        raise MynaError(
            "Put the new key before the old one in MYNA_ENCRYPTION_KEYS, restart Myna, and run this command again."
        )
    count = with_database(settings, lambda scope: wiring.make_installations(settings, scope).encrypt_anew())
    if not settings.encryption_keys:
        forget_old_keys(settings.data)
    if arguments.json:
        print_value({"encrypted_anew": count})
    else:
        print_value(f"The tokens of {count} workspace{'' if count == 1 else 's'} are encrypted with the new key now.")
    return 0
