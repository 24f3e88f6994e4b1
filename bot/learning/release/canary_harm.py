"""Whether a challenger does harm: a test that may be looked at after every conversation, and needs no end set before.

Knows: counts of outcomes by arm, and the mathematics. Does not know: where they come from, what is done about it.

Who answers a conversation is drawn by lot, with a known share. If the challenger changes nothing, the lot says nothing
about an outcome, so a bet on "bad ones come from the challenger more often" wins nothing on average, however often and
whenever one looks: Ville's inequality. The bets are those of the two-sample e-variables of Turner, Ly and Grünwald
("Generic E-variables for exact sequential k-sample tests", 2021), mixed over a grid of rates and odds ratios. As the
lot is all that is random, it does not matter that rates change over the day, or that bad outcomes are known sooner than
good ones.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

GUARD_RAILS = ("thumbs_down", "hand_off", "error", "latency")
Verdict = Literal["running", "harm", "ready"]

# What harm may look like: how often the champion's conversations go wrong, and the odds of it with the challenger.
RATES = (0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6)
ODDS_RATIOS = (1.5, 2.0, 3.0, 6.0)
# A split that would be this unlikely to come about by chance is broken.
BROKEN_SPLIT_ALPHA = 0.001


@dataclass(frozen=True, slots=True)
class CanarySettings:
    """How a canary is judged.

    `alpha` is the chance that one without harm is rolled back all the same, over all guard rails and looks together. A
    conversation that has not gone wrong `window_minutes` after its first reply counts as good. `margin` is how many
    times as often things may go wrong before that counts as worse; what never went wrong counts as no worse once it is
    known to be rarer than `rare`. After `max_hours` without harm it is ready, however little is known; it goes on until
    somebody promotes or stops it. A first reply that takes longer than `slow_ms` is slow; None guards no latency.
    """

    alpha: float = 0.05
    window_minutes: float = 30.0
    margin: float = 1.5
    rare: float = 0.01
    max_hours: float = 72.0
    slow_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """How many conversations ended how, by who answered them."""

    challenger_bad: int = 0
    challenger_good: int = 0
    champion_bad: int = 0
    champion_good: int = 0


@dataclass(frozen=True, slots=True)
class Rail:
    """A guard rail as it stands. `harm` and `safety` are e-values: how much the evidence multiplies a bet.

    `safety` is that of `rarity_e_value` as long as nothing has gone wrong on either side.
    """

    counts: Counts
    harm: float
    safety: float


@dataclass(frozen=True, slots=True)
class Judged:
    """What can be said of a canary now. From the e-value `threshold` on a rail counts as harmed, or as safe."""

    verdict: Verdict
    because: str
    threshold: float
    rails: Mapping[str, Rail] = field(default_factory=dict)
    split_is_broken: bool = False

    def report(self) -> dict[str, Any]:
        """For the database and programs."""
        return asdict(self)


def is_challengers(salt: str, conversation_id: str, share: float) -> bool:
    """Who answers a conversation, the same in every process and for as long as the canary runs."""
    digest = hashlib.sha256(f"{salt}/{conversation_id}".encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


def harm_e_value(counts: Counts, share: float) -> float:
    """The evidence that things go wrong more often with the challenger; 1 is none.

    On average at most 1 at any time if it is not so; beyond 1 / alpha with a chance of at most alpha, ever.
    """
    known = (counts.challenger_bad, counts.champion_bad, counts.challenger_good, counts.champion_good)
    return _exp(_log_mean([sum(map(operator.mul, known, one)) for one in log_bets(share)]))


def log_bets(share: float) -> list[tuple[float, float, float, float]]:
    """For each alternative, by how much one more outcome multiplies its bet, as a logarithm.

    In this order: the challenger's bad ones, the champion's bad ones, the challenger's good ones, the champion's.
    """
    found = []
    for rate in RATES:
        for ratio in ODDS_RATIOS:
            odds = rate / (1 - rate) * ratio
            worse = odds / (1 + odds)
            # How likely an outcome is to be the challenger's, if the alternative is true.
            bad = share * worse / (share * worse + (1 - share) * rate)
            good = share * (1 - worse) / (share * (1 - worse) + (1 - share) * (1 - rate))
            found.append(
                (
                    math.log(bad / share),
                    math.log((1 - bad) / (1 - share)),
                    math.log(good / share),
                    math.log((1 - good) / (1 - share)),
                )
            )
    return found


def safety_e_value(counts: Counts, share: float, margin: float) -> float:
    """The evidence that things go wrong less than `margin` times as often with the challenger; 1 is none."""
    limit = share * margin / (share * margin + 1 - share)
    total = counts.challenger_bad + counts.champion_bad
    # The alternatives are spread evenly below the limit; for each, the bet is at most fair wherever the truth is above.
    steps = [limit * (number + 0.5) / 20 for number in range(20)]
    terms = [
        counts.challenger_bad * math.log(one / limit)
        + (total - counts.challenger_bad) * math.log((1 - one) / (1 - limit))
        for one in steps
    ]
    return _exp(_log_mean(terms))


def rarity_e_value(counts: Counts, rare: float) -> float:
    """The evidence that less than `rare` of the challenger's conversations go wrong, if none has; 1 is none.

    The rule of three, with a bound that holds at any time: at 1 %, 437 conversations make it more than 80.
    """
    if counts.challenger_bad or counts.champion_bad:
        return 1.0
    return _exp(-counts.challenger_good * math.log1p(-rare))


def split_e_value(challenger: int, total: int, share: float) -> float:
    """The evidence that the challenger did not answer its share: a Beta(1, 1) mixture against it, on both sides."""
    others = total - challenger
    mixed = math.lgamma(challenger + 1) + math.lgamma(others + 1) - math.lgamma(total + 2)
    return _exp(mixed - challenger * math.log(share) - others * math.log(1 - share))


def judge(
    rails: Mapping[str, Counts],
    share: float,
    settings: CanarySettings,
    *,
    answered_by_challenger: int,
    total: int,
    hours: float,
) -> Judged:
    """A verdict on all that is known after `hours`. `total` conversations were answered, so many by the challenger."""
    threshold = len(GUARD_RAILS) / settings.alpha
    judged = {
        name: Rail(
            one,
            harm_e_value(one, share),
            max(safety_e_value(one, share, settings.margin), rarity_e_value(one, settings.rare)),
        )
        for name, one in rails.items()
    }
    is_broken = split_e_value(answered_by_challenger, total, share) >= 1 / BROKEN_SPLIT_ALPHA
    harmed = [name for name, rail in judged.items() if rail.harm >= threshold]
    unsafe = [name for name, rail in judged.items() if rail.safety < threshold]
    if harmed:
        verdict, because = "harm", f"more {', '.join(harmed)} with the challenger"
    elif is_broken:
        verdict, because = (
            "running",
            "the challenger does not answer the share that it should: its numbers are no proof",
        )
    elif not unsafe:
        verdict, because = "ready", f"no guard rail is {settings.margin:g} times as bad"
    elif hours >= settings.max_hours:
        verdict, because = "ready", f"no harm found in {settings.max_hours:g} hours, though it is not ruled out"
    else:
        verdict, because = "running", f"not enough is known about {', '.join(unsafe)}"
    return Judged(verdict, because, threshold, judged, is_broken)  # type: ignore[arg-type]


def _log_mean(terms: list[float]) -> float:
    most = max(terms)
    return most + math.log(sum(math.exp(one - most) for one in terms) / len(terms))


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))
