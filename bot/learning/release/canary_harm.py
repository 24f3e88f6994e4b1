"""Sequential test for canary harm: two-sample e-values, valid at any time (anytime-valid inference).

Conversations are assigned to an arm at random, with a known share. If the challenger changes nothing, the arm says
nothing about an outcome, so a bet on "bad outcomes come from the challenger more often" wins nothing on average,
however often it is looked at (Ville's inequality). The bets are the two-sample e-variables of Turner, Ly and Grünwald
("Generic E-variables for exact sequential k-sample tests", 2021), mixed over a grid of rates and odds ratios. Only the
assignment has to be random: rates may change over the day, and bad outcomes may be known sooner than good ones.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

GUARD_RAILS = ("thumbs_down", "hand_off", "error", "latency")
CanaryVerdict = Literal["running", "harm", "ready"]

# The alternatives: rates at which the champion's conversations go wrong, and the challenger's odds ratios to them.
RATES = (0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6)
ODDS_RATIOS = (1.5, 2.0, 3.0, 6.0)
# A split that is less likely than this by chance counts as broken (sample ratio mismatch).
BROKEN_SPLIT_ALPHA = 0.001


@dataclass(frozen=True, slots=True)
class CanarySettings:
    """Settings of the test.

    `alpha` is the chance that a harmless canary is rolled back, over all guard rails and looks together. A conversation
    that has not gone wrong `window_minutes` after its first reply counts as good. `margin` is the risk ratio below
    which a guard rail counts as safe; a rail without any bad outcome is safe once its rate is known to be below `rare`.
    After `max_hours` without harm a canary is ready, however little is known; it runs until somebody promotes or stops
    it. A first reply that takes longer than `slow_ms` is slow; None guards no latency.
    """

    alpha: float = 0.05
    window_minutes: float = 30.0
    margin: float = 1.5
    rare: float = 0.01
    max_hours: float = 72.0
    slow_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of conversations by arm and outcome."""

    challenger_bad: int = 0
    challenger_good: int = 0
    champion_bad: int = 0
    champion_good: int = 0


@dataclass(frozen=True, slots=True)
class Rail:
    """A guard rail now. `harm` and `safety` are e-values: the factor by which the evidence multiplies a bet.

    `safety` comes from `rarity_e_value` as long as nothing has gone wrong in either arm.
    """

    counts: Counts
    harm: float
    safety: float


@dataclass(frozen=True, slots=True)
class Judged:
    """The verdict on a canary now. A rail counts as harmed, or as safe, once that e-value reaches `threshold`."""

    verdict: CanaryVerdict
    because: str
    threshold: float
    rails: Mapping[str, Rail] = field(default_factory=dict)
    split_is_broken: bool = False

    def report(self) -> dict[str, Any]:
        """Return plain data for the database and the API."""
        return asdict(self)


def is_challengers(salt: str, conversation_id: str, share: float) -> bool:
    """Assign a conversation to an arm, the same in every process for as long as the canary runs."""
    digest = hashlib.sha256(f"{salt}/{conversation_id}".encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


def harm_e_value(counts: Counts, share: float) -> float:
    """Return the evidence that more goes wrong with the challenger; 1 is none.

    Without harm, its mean is at most 1 at any time, and it ever exceeds 1 / alpha with a chance of at most alpha.
    """
    known = (counts.challenger_bad, counts.champion_bad, counts.challenger_good, counts.champion_good)
    return _exp(_log_mean([sum(map(operator.mul, known, bets)) for bets in log_bets(share)]))


def log_bets(share: float) -> list[tuple[float, float, float, float]]:
    """Return, for each alternative, the log factor by which each kind of outcome multiplies its bet.

    The order is: challenger bad, champion bad, challenger good, champion good.
    """
    found = []
    for rate in RATES:
        for ratio in ODDS_RATIOS:
            odds = rate / (1 - rate) * ratio
            worse = odds / (1 + odds)
            # The chance that a bad, or a good, outcome is the challenger's under the alternative.
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
    """Return the evidence that the challenger's risk ratio is below `margin`; 1 is none."""
    limit = share * margin / (share * margin + 1 - share)
    total = counts.challenger_bad + counts.champion_bad
    # The alternatives are spread evenly below the limit; each bet is at most fair if the truth lies above the limit.
    steps = [limit * (number + 0.5) / 20 for number in range(20)]
    terms = [
        counts.challenger_bad * math.log(step / limit)
        + (total - counts.challenger_bad) * math.log((1 - step) / (1 - limit))
        for step in steps
    ]
    return _exp(_log_mean(terms))


def rarity_e_value(counts: Counts, rare: float) -> float:
    """Return the evidence that the challenger's rate is below `rare`, if nothing has gone wrong yet; 1 is none.

    An anytime-valid rule of three: at 1 %, the value passes 80 after 437 conversations.
    """
    if counts.challenger_bad or counts.champion_bad:
        return 1.0
    return _exp(-counts.challenger_good * math.log1p(-rare))


def split_e_value(challenger: int, total: int, share: float) -> float:
    """Return the evidence that the challenger did not answer its share: a two-sided Beta(1, 1) mixture."""
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
    """Judge a canary after `hours`, with `answered_by_challenger` of `total` conversations in its arm."""
    threshold = len(GUARD_RAILS) / settings.alpha
    judged = {
        name: Rail(
            counts,
            harm_e_value(counts, share),
            max(safety_e_value(counts, share, settings.margin), rarity_e_value(counts, settings.rare)),
        )
        for name, counts in rails.items()
    }
    is_broken = split_e_value(answered_by_challenger, total, share) >= 1 / BROKEN_SPLIT_ALPHA
    harmed = [name for name, rail in judged.items() if rail.harm >= threshold]
    unsafe = [name for name, rail in judged.items() if rail.safety < threshold]
    if harmed:
        verdict, because = "harm", f"more {', '.join(harmed)} with the challenger"
    elif is_broken:
        verdict, because = (
            "running",
            "the challenger does not answer the share that it should, so its numbers prove nothing",
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
    return most + math.log(sum(math.exp(term - most) for term in terms) / len(terms))


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))
