"""Connecting to Slack: `myna slack ...`.

Knows: which settings say what kind of app it is, how findings are shown. Does not know: Slack.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import TYPE_CHECKING

from adapters.cli.terminal import Commands, add, print_value, say, with_database
from bot.errors import MynaError
from bot.settings import Settings

if TYPE_CHECKING:
    from storage.scope import Scope

_MARKS = {"ok": "ok ", "wrong": "FIX", "unknown": " ? "}


def add_to(commands: Commands) -> None:
    """Add `slack manifest`, `slack doctor`, `slack installations` and `slack rotate-key`."""
    slack = commands.add_parser("slack", help="connect to Slack").add_subparsers(required=True, metavar="ACTION")
    manifest = add(slack, "manifest", "print the manifest to make the Slack app from", _manifest)
    manifest.add_argument("--socket-mode", action="store_true", help="for a machine that Slack can't reach")
    manifest.add_argument("--many-workspaces", action="store_true", help="for an app that others install, too")
    doctor = add(slack, "doctor", "check everything between Myna and Slack", _doctor, reports=True)
    doctor.add_argument("--config-token", default="", metavar="TOKEN", help="app configuration token, to see events")
    add(slack, "installations", "list where the app is installed", _installations, reports=True)
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
        say("Replace https://your.address by the address of this machine, or set MYNA_PUBLIC_URL.")
    return 0


def _doctor(settings: Settings, arguments: argparse.Namespace) -> int:
    from adapters.cli import wiring
    from adapters.slack.doctor import Doctor

    config = wiring.slack_config(settings)

    async def examine(scope: Scope | None) -> list[dict[str, str]]:
        installations = wiring.make_installations(settings, scope) if scope else None
        findings = []
        async for one in Doctor(config, installations, arguments.config_token).examine():
            findings.append({"state": one.state, "text": one.text})
            if not arguments.json:
                print_value(f"{_MARKS[one.state]}  {one.text}")
        return findings

    if config.takes_many_workspaces:
        findings = with_database(settings, lambda scope: examine(scope))
    else:
        findings = asyncio.run(examine(None))
    if arguments.json:
        print_value(findings)
    return 1 if any(one["state"] == "wrong" for one in findings) else 0


def _installations(settings: Settings, arguments: argparse.Namespace) -> int:
    from storage import slack_installs

    found = with_database(settings, lambda scope: scope.read(slack_installs.list_all))
    if arguments.json:
        print_value([{"tenant": one.tenant, "name": one.name, "scopes": one.scopes.split(",")} for one in found])
    elif not found:
        print_value("The Slack app is installed nowhere yet. Open /slack/install in a browser.")
    for one in () if arguments.json else found:
        print_value(f"{one.name}  {one.tenant}")
    return 0


def _rotate_key(settings: Settings, arguments: argparse.Namespace) -> int:
    from adapters.cli import wiring
    from bot.access.vault import add_key, forget_old_keys

    if not settings.encryption_keys:
        add_key(settings.data)
    elif len(settings.encryption_keys) < 2:
        raise MynaError("Put the new key before the old one in MYNA_ENCRYPTION_KEYS, restart Myna, and say this again.")
    count = with_database(settings, lambda scope: wiring.make_installations(settings, scope).encrypt_anew())
    if not settings.encryption_keys:
        forget_old_keys(settings.data)
    if arguments.json:
        print_value({"encrypted_anew": count})
    else:
        print_value(f"The tokens of {count} workspace{'' if count == 1 else 's'} are encrypted with the new key now.")
    return 0
