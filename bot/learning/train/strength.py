"""How strongly what was learnt is laid over the base: LoRA weights can be scaled after they were trained.

Knows: that a little less of them costs next to nothing on what was to be learnt, and keeps much of what the base could
(interpolation between base and fine-tuned weights: Wortsman et al., 2022). Does not know: how they were trained.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from bot.learning.train.network import LoraNetwork
from bot.learning.train.objectives import answer_logps
from bot.learning.train.token_sequences import Row

STRENGTHS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
# So much of what the held-out loss has gained must be left.
KEPT_GAIN = 0.93
# By so much the loss of what the base could may rise, and the gate's limit is kept with room (benchmarks/LOG.md).
MOST_FORGOTTEN = 0.08


def choose_strength(network: LoraNetwork, watched: Sequence[Row], known: Sequence[Row] = ()) -> float:
    """The least strength that keeps nearly all of the gain on rows that were not learnt; the network is left with it.

    The gain grows with the strength up to 1, so that halving what is left finds it. Where that forgets too much of
    what is `known` (answers to questions of all kinds), less is taken.
    """
    before, after = _loss(network, watched, 0.0), _loss(network, watched, 1.0)
    enough = before - KEPT_GAIN * (before - after)
    chosen = 1.0
    if after < before:
        place = bisect.bisect_left(
            STRENGTHS, True, key=lambda one: one == 1.0 or _loss(network, watched, one) <= enough
        )
        chosen = _remembering(network, known, place)
    network.set_strength(chosen)
    return chosen


def _remembering(network: LoraNetwork, known: Sequence[Row], place: int) -> float:
    most = _loss(network, known, 0.0) * (1 + MOST_FORGOTTEN) if known else 0.0
    while known and place > 0 and _loss(network, known, STRENGTHS[place]) > most:
        place -= 1
    return STRENGTHS[place]


def _loss(network: LoraNetwork, rows: Sequence[Row], strength: float) -> float:
    network.set_strength(strength)
    return -float(answer_logps(network, rows).sum()) / sum(len(row.learnt) for row in rows)
