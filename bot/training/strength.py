"""How strongly what was learnt is laid over the base: LoRA weights can be scaled after they were trained.

Knows: that a little less of them costs next to nothing on what was to be learnt, and keeps much of what the base could
(interpolation between base and fine-tuned weights: Wortsman et al., 2022). Does not know: how they were trained.
"""

from __future__ import annotations

from collections.abc import Sequence

from bot.training.network import LoraNetwork
from bot.training.objectives import answer_logps
from bot.training.sequences import Row

STRENGTHS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
# So much of what the held-out loss has gained must be left.
KEPT_GAIN = 0.95


def choose_strength(network: LoraNetwork, held_out: Sequence[Row]) -> float:
    """The least strength that keeps nearly all of the gain on held-out rows; the network is left with it."""
    network.set_strength(0.0)
    before = _loss(network, held_out)
    network.set_strength(1.0)
    gain = before - _loss(network, held_out)
    for strength in STRENGTHS[:-1]:
        network.set_strength(strength)
        if gain > 0 and before - _loss(network, held_out) >= KEPT_GAIN * gain:
            return strength
    network.set_strength(1.0)
    return 1.0


def _loss(network: LoraNetwork, rows: Sequence[Row]) -> float:
    return -float(answer_logps(network, rows).sum()) / sum(len(row.learnt) for row in rows)
