"""Consent to learning: the whole truth table of the rule."""

from __future__ import annotations

import pytest

from bot.privacy.learning_consent import Policy, may_learn

CHOICES = (None, True, False)


@pytest.mark.parametrize("policy", ["opt-out", "opt-in"])
@pytest.mark.parametrize("other", CHOICES)
def test_a_no_always_wins(policy: Policy, other: bool | None) -> None:
    assert not may_learn(policy, False, other)
    assert not may_learn(policy, other, False)


def test_opt_out_needs_no_yes() -> None:
    assert all(may_learn("opt-out", person, here) for person in (None, True) for here in (None, True))


def test_opt_in_needs_a_yes() -> None:
    assert not may_learn("opt-in", None, None)
    assert may_learn("opt-in", True, None)
    assert may_learn("opt-in", None, True)
