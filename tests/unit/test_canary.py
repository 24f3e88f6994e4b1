"""Canary test on simulated canaries: false alarms within alpha, power, and the counting of outcomes."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest

from benchmarks.canary import simulate
from bot.learning.release.canary_harm import (
    GUARD_RAILS,
    CanarySettings,
    Counts,
    harm_e_value,
    is_challengers,
    judge,
    log_bets,
    safety_e_value,
    split_e_value,
)
from bot.learning.release.canary_watch import judge_tried, points_of
from storage.canary_outcomes import Tried
from storage.learning_values import Canary

SHARE = 0.2
MINUTE = 60_000


def test_the_last_point_is_the_current_state() -> None:
    canary = Canary("id", "new", "old", 0.5, "salt", {"window_minutes": 1.0}, "shell:root", 0)
    tried = [
        Tried(f"talk {number}", number, "new", 5, disliked_at=number if number % 3 == 0 else None)
        for number in range(250)
    ]
    points = points_of(tried, 1_000_000, canary, "thumbs_down")
    rail = judge_tried(tried, 1_000_000, canary, "new").rails["thumbs_down"]
    assert [points[0].conversations, points[-1].conversations, len(points)] == [2, 250, 100]
    assert points[-1].e_value == rail.harm
    bad, good = rail.counts.challenger_bad, rail.counts.challenger_good
    assert points[-1].challenger_rate == bad / (bad + good)
    assert points_of(tried, 100, canary, "thumbs_down")[-1].conversations == 84, "the others may still go wrong"
    assert points_of([], 0, canary, "error") == []
    with pytest.raises(KeyError):
        points_of(tried, 0, canary, "latency")


def test_false_alarms_stay_below_alpha_with_constant_looks() -> None:
    found, _ = simulate(400, 400, SHARE, {})
    assert found <= CanarySettings().alpha


def test_planted_harm_is_found() -> None:
    found, after = simulate(100, 600, SHARE, {"thumbs_down": 5.0})
    assert found >= 0.9
    assert after is not None
    assert after < 400


@pytest.mark.parametrize("rate", [0.01, 0.3])
def test_bets_are_fair_without_harm(rate: float) -> None:
    for bad_challenger, bad_champion, good_challenger, good_champion in log_bets(SHARE):
        bad = SHARE * math.exp(bad_challenger) + (1 - SHARE) * math.exp(bad_champion)
        good = SHARE * math.exp(good_challenger) + (1 - SHARE) * math.exp(good_champion)
        assert rate * bad + (1 - rate) * good == pytest.approx(1)


def test_evidence_grows_with_harm_and_only_with_harm() -> None:
    even = Counts(10, 190, 40, 760)
    assert harm_e_value(Counts(), SHARE) == pytest.approx(1)
    assert harm_e_value(even, SHARE) < 1
    assert harm_e_value(Counts(30, 40, 20, 160), SHARE) > 1000
    assert harm_e_value(Counts(0, 40, 50, 160), SHARE) < 1, "a challenger that does better is no harm"
    assert safety_e_value(Counts(1, 80, 50, 160), SHARE, 1.5) > 80
    assert safety_e_value(Counts(20, 60, 50, 160), SHARE, 1.5) < 1
    assert split_e_value(200, 1000, SHARE) < 1
    assert split_e_value(100, 1000, SHARE) > 1000


def test_huge_counts_do_not_overflow() -> None:
    assert harm_e_value(Counts(10**6, 0, 0, 10**6), SHARE) > 1e300
    assert harm_e_value(Counts(0, 10**6, 10**6, 0), SHARE) == 0


def test_the_verdict_considers_all_guard_rails() -> None:
    fine = {name: Counts(1, 80, 50, 160) for name in GUARD_RAILS}
    settings = CanarySettings()

    def verdict(rails: dict[str, Counts], by_challenger: int = 200, hours: float = 1.0) -> str:
        return judge(rails, SHARE, settings, answered_by_challenger=by_challenger, total=1000, hours=hours).verdict

    assert verdict(fine) == "ready"
    assert verdict({**fine, "error": Counts(30, 40, 20, 160)}) == "harm"
    assert verdict({**fine, "error": Counts()}) == "running"
    assert verdict({**fine, "error": Counts()}, hours=100) == "ready"
    assert verdict({**fine, "error": Counts(0, 437, 0, 1600)}) == "ready", "a rail without bad outcomes does not block"
    assert verdict({**fine, "error": Counts(0, 430, 0, 1600)}) == "running"
    assert verdict({**fine, "error": Counts(0, 437, 1, 1600)}) == "running", "the risk ratio is not known"
    assert verdict(fine, by_challenger=20) == "running", "a broken split proves nothing"


def test_assignment_is_stable_and_keeps_its_share() -> None:
    drawn = [is_challengers("salt", f"conversation {number}", SHARE) for number in range(5000)]
    assert drawn == [is_challengers("salt", f"conversation {number}", SHARE) for number in range(5000)]
    assert split_e_value(sum(drawn), len(drawn), SHARE) < 1
    assert drawn != [is_challengers("other", f"conversation {number}", SHARE) for number in range(5000)]


def test_an_outcome_counts_once_and_never_changes() -> None:
    canary = Canary("c", "v2", "v1", SHARE, "salt", asdict(CanarySettings(slow_ms=900)), "shell:root", 0)
    start = 10 * MINUTE
    tried = [
        Tried("at once", start, None, 100, disliked_at=start + MINUTE),
        Tried("too late", start, None, 100, disliked_at=start + 31 * MINUTE),
        Tried("not known yet", start + 30 * MINUTE, None, 100),
        Tried("slow", start + 30 * MINUTE, None, 1000, failed_at=start + 30 * MINUTE),
    ]
    judged = judge_tried(tried, start + 40 * MINUTE, canary, "bot-v2")
    totals = {name: asdict(rail.counts) for name, rail in judged.rails.items()}

    def bad(name: str) -> int:
        return totals[name]["challenger_bad"] + totals[name]["champion_bad"]

    def good(name: str) -> int:
        return totals[name]["challenger_good"] + totals[name]["champion_good"]

    assert {name: (bad(name), good(name)) for name in totals} == {
        "thumbs_down": (1, 1),
        "hand_off": (0, 2),
        "error": (1, 2),
        "latency": (1, 3),
    }
