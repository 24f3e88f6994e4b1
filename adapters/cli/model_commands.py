"""Models on this machine: `myna model ...`.

Knows: how they are listed. Does not know: where models lie, or how they get there.
"""

from __future__ import annotations

import argparse

from adapters.cli.terminal import Commands, add, print_value, say
from bot.settings import Settings


def add_to(commands: Commands) -> None:
    """Add `model pull` and `model list`."""
    model = commands.add_parser("model", help="fetch or list models").add_subparsers(required=True, metavar="ACTION")
    pull = add(model, "pull", "fetch a model, or make the starter model", _pull, reports=True)
    pull.add_argument("name", nargs="?", help="default: MYNA_MODEL")
    add(model, "list", "list the models in MYNA_DATA", _list, reports=True)


def _pull(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot.generation.models.sources import resolve_model

    path = resolve_model(arguments.name or settings.model, settings.data, say)
    print_value({"path": str(path)} if arguments.json else str(path))
    return 0


def _list(settings: Settings, arguments: argparse.Namespace) -> int:
    from bot.generation.models.store import list_models

    found = list_models(settings.data)
    if arguments.json:
        print_value(
            [{"name": one.name, "path": str(one.path), "bytes": one.size_bytes, "source": one.source} for one in found]
        )
    elif not found:
        print_value("No model yet. `myna model pull` fetches the starter model.")
    for one in () if arguments.json else found:
        print_value(f"{one.name}  {one.size_bytes / 1e6:,.0f} MB  {one.path}  ({one.source})")
    return 0
