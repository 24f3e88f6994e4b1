"""False alarms and detection time of the canary test, simulated with a look after each conversation.

    python -m benchmarks.canary                    10,000 canaries without harm, then planted harm
    python -m benchmarks.canary --runs 400 --json

Each canary watches four guard rails at once. Rates change over the day. What goes wrong is known at once, what does not
only 60 conversations later. False alarms must be at most 5 % of all canaries.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.table import print_rows
from bot.learning.release.canary_harm import GUARD_RAILS, CanarySettings, log_bets

# How often a conversation goes wrong with the champion, by guard rail.
RATES = {"thumbs_down": 0.05, "hand_off": 0.08, "error": 0.01, "latency": 0.05}
GOOD_IS_KNOWN_AFTER = 60
A_DAY = 400
CHUNK = 500


def simulate(
    runs: int, conversations: int, share: float, harm: dict[str, float], seed: int = 1
) -> tuple[float, float | None]:
    """Return the share of canaries rolled back, and the mean number of conversations until then.

    `harm` says how many times as often the challenger's conversations go wrong, by guard rail.
    """
    source = np.random.default_rng(seed)
    stopped: list[int] = []
    for start in range(0, runs, CHUNK):
        stopped += stops(source, min(CHUNK, runs - start), conversations, share, harm)
    return len(stopped) / runs, sum(stopped) / len(stopped) if stopped else None


def stops(
    source: np.random.Generator, runs: int, conversations: int, share: float, harm: dict[str, float]
) -> list[int]:
    """Return the number of conversations after which each rolled-back canary was stopped."""
    is_challenger = source.random((runs, conversations)) < share
    day = 1 + 0.8 * np.sin(np.arange(conversations) * 2 * math.pi / A_DAY)
    factors = np.array(log_bets(share))
    limit = math.log(len(GUARD_RAILS) / CanarySettings().alpha)
    first = np.full(runs, conversations + 1)
    for rail, rate in RATES.items():
        rates = np.where(is_challenger, rate * harm.get(rail, 1.0), rate) * day
        is_bad = source.random((runs, conversations)) < rates
        sums = np.zeros((runs, len(factors)))
        for now in range(conversations):
            bad, challenger = is_bad[:, now], is_challenger[:, now]
            sums += (bad & challenger)[:, None] * factors[:, 0] + (bad & ~challenger)[:, None] * factors[:, 1]
            if now >= GOOD_IS_KNOWN_AFTER:
                good, challenger = ~is_bad[:, now - GOOD_IS_KNOWN_AFTER], is_challenger[:, now - GOOD_IS_KNOWN_AFTER]
                sums += (good & challenger)[:, None] * factors[:, 2] + (good & ~challenger)[:, None] * factors[:, 3]
            most = sums.max(axis=1)
            evidence = most + np.log(np.exp(sums - most[:, None]).mean(axis=1))
            first = np.where((evidence >= limit) & (first > now + 1), now + 1, first)
    return [int(one) for one in first if one <= conversations]


def rows(runs: int, conversations: int) -> Iterator[dict[str, Any]]:
    plans: list[tuple[str, float, dict[str, float], int]] = [
        ("no harm", 0.1, {}, runs),
        ("no harm", 0.5, {}, runs),
        *(
            (name, share, harm, max(runs // 20, 100))
            for name, harm in (
                ("thumbs down 2x", {"thumbs_down": 2.0}),
                ("thumbs down 4x", {"thumbs_down": 4.0}),
                ("errors 10x", {"error": 10.0}),
                ("slow 3x, hand-off 2x", {"latency": 3.0, "hand_off": 2.0}),
            )
            for share in (0.1, 0.5)
        ),
    ]
    for name, share, harm, count in plans:
        found, after = simulate(count, conversations, share, harm)
        yield {
            "canary": f"{name:22}",
            "share": share,
            "canaries": count,
            "rolled_back": round(found, 4),
            "mean_conversations": None if after is None else round(after),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description="False alarms and power of the canary's guard rails.")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--conversations", type=int, default=1_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    print_rows(rows(arguments.runs, arguments.conversations), as_json=arguments.json)


if __name__ == "__main__":
    main()
