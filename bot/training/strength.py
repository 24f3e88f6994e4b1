"""How strongly what was learnt is laid over the base: LoRA weights can be scaled after they were trained.

Knows: that a little less of them costs next to nothing on what was to be learnt, and keeps much of what the base could
(interpolation between base and fine-tuned weights: Wortsman et al., 2022). Does not know: how they were trained.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from bot.training.network import LoraNetwork
from bot.training.objectives import answer_logps
from bot.training.sequences import Row

STRENGTHS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
# So much of what the held-out loss has gained must be left.
KEPT_GAIN = 0.93


def choose_strength(network: LoraNetwork, watched: Sequence[Row]) -> float:
    """The least strength that keeps nearly all of the gain on rows that were not learnt; the network is left with it.

    The gain grows with the strength up to 1, so that halving what is left finds it.
    """
    before, after = _loss(network, watched, 0.0), _loss(network, watched, 1.0)
    enough = before - KEPT_GAIN * (before - after)
    chosen = 1.0
    if after < before:
        place = bisect.bisect_left(
            STRENGTHS, True, key=lambda one: one == 1.0 or _loss(network, watched, one) <= enough
        )
        chosen = STRENGTHS[place]
    network.set_strength(chosen)
    return chosen


def _loss(network: LoraNetwork, rows: Sequence[Row], strength: float) -> float:
    network.set_strength(strength)
    return -float(answer_logps(network, rows).sum()) / sum(len(row.learnt) for row in rows)
