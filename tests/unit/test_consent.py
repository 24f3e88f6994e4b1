"""Whose words may be learnt from: the whole table of the rule."""

from __future__ import annotations

import pytest

from bot.privacy.learning_consent import Policy, may_learn

SAID = (None, True, False)


@pytest.mark.parametrize("policy", ["opt-out", "opt-in"])
@pytest.mark.parametrize("other", SAID)
def test_a_no_of_either_always_wins(policy: Policy, other: bool | None) -> None:
    assert not may_learn(policy, False, other)
    assert not may_learn(policy, other, False)


def test_where_people_must_say_no() -> None:
    assert all(may_learn("opt-out", person, here) for person in (None, True) for here in (None, True))


def test_where_people_must_say_yes() -> None:
    assert not may_learn("opt-in", None, None)
    assert may_learn("opt-in", True, None)
    assert may_learn("opt-in", None, True)
