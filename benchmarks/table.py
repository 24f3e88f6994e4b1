"""Output of the benchmarks: aligned rows, each printed at once, or JSON lines for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any


def print_rows(rows: Iterable[dict[str, Any]], *, as_json: bool) -> None:
    """Print rows with the same keys, under a heading of those keys."""
    for number, row in enumerate(rows):
        if as_json:
            print(json.dumps(row), flush=True)
            continue
        widths = [max(len(key), 12) for key in row]
        if number == 0:
            print("  ".join(key.ljust(width) for key, width in zip(row, widths, strict=True)))
        print("  ".join(str(value).ljust(width) for value, width in zip(row.values(), widths, strict=True)), flush=True)
