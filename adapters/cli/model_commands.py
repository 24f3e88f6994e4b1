"""Models on this machine: `myna model ...`."""

from __future__ import annotations

import argparse

from adapters.cli.terminal import Commands, add, add_group, print_value, say
from bot.settings import Settings


def add_to(commands: Commands) -> None:
    """Add `model pull` and `model list`."""
    model = add_group(commands, "model", "download or list models")
    pull = add(model, "pull", "download a model, or build the starter model", _pull, reports=True)
    pull.add_argument("name", nargs="?", help="the model's name; default: the setting MYNA_MODEL")
    add(model, "list", "list the models on this machine (in MYNA_DATA)", _list, reports=True)


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
            [
                {"name": model.name, "path": str(model.path), "bytes": model.size_bytes, "source": model.source}
                for model in found
            ]
        )
    elif not found:
        print_value("No model yet. `myna model pull` downloads one, or builds the starter model.")
    for model in () if arguments.json else found:
        print_value(f"{model.name}  {model.size_bytes / 1e6:,.0f} MB  {model.path}  ({model.source})")
    return 0
