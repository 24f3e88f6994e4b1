"""API keys: `myna key ...`."""

from __future__ import annotations

import argparse
import dataclasses

from adapters.cli.terminal import Commands, add, add_group, print_value, say, shell_actor, with_database
from bot.errors import MynaError
from bot.settings import Settings


def add_to(commands: Commands) -> None:
    """Add `key create`, `key list` and `key revoke`."""
    key = add_group(commands, "key", "create, list or revoke API keys")
    create = add(key, "create", "create a key and print its secret, once", _create, reports=True)
    create.add_argument("name", help="the key's name, such as its user: shop-backend")
    create.add_argument("--requests-per-minute", type=int, metavar="N", help="rate limit; default: no limit")
    create.add_argument(
        "--tokens-per-day", type=int, metavar="N", help="limit of prompt and reply tokens together; default: no limit"
    )
    add(key, "list", "list all keys with their limits", _list, reports=True)
    revoke = add(key, "revoke", "revoke a key at once", _revoke, reports=True)
    revoke.add_argument("which", help="the key's name or id")


def _create(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot.completions.api_keys_access import create_key

    secret = with_database(
        settings,
        lambda scope: create_key(
            scope, arguments.name, arguments.requests_per_minute, arguments.tokens_per_day, shell_actor().name
        ),
    )
    print_value({"name": arguments.name, "secret": secret} if arguments.json else secret)
    if not arguments.json:
        say("Keep the secret safe: it is not stored and can't be shown again.")
    return 0


def _list(settings: Settings, arguments: argparse.Namespace) -> int:
    from storage import api_keys

    found = with_database(settings, lambda scope: scope.read(api_keys.list_keys))
    if arguments.json:
        print_value([dataclasses.asdict(key) for key in found])
    elif not found:
        print_value("No key yet. `myna key create NAME` creates one.")
    for key in () if arguments.json else found:
        limits = [
            f"{key.requests_per_minute:,} requests a minute" if key.requests_per_minute else "",
            f"{key.tokens_per_day:,} tokens a day" if key.tokens_per_day else "",
        ]
        state = "revoked" if key.revoked_at else ", ".join(filter(None, limits)) or "no limit"
        print_value(f"{key.name}  {key.hint}...  {state}  ({key.id})")
    return 0


def _revoke(settings: Settings, arguments: argparse.Namespace) -> int:
    from storage import api_keys

    revoked = with_database(
        settings, lambda scope: scope.write(api_keys.revoke_key, arguments.which, shell_actor().name)
    )
    if not revoked:
        raise MynaError(f'There is no valid key "{arguments.which}". `myna key list` lists all.')
    print_value({"revoked": arguments.which} if arguments.json else f"The key {arguments.which} is revoked.")
    return 0
