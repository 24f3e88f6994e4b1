"""How guessing passwords is slowed, and who is not."""

from __future__ import annotations

import pytest

from bot.access.login_throttle import HALVE_SECONDS, LoginThrottle
from bot.errors import TooManyAttempts


def test_waits_grow_and_end() -> None:
    now = 0.0
    guesses = LoginThrottle(lambda: now)
    waits = []
    for _ in range(20):
        try:
            guesses.begin("ada", "10.0.0.1")
        except TooManyAttempts as error:
            waits.append(error.retry_after)
            now += error.retry_after
            guesses.begin("ada", "10.0.0.1")
    assert waits[:4] == [2.0, 4.0, 8.0, 16.0]
    assert max(waits) == 900.0
    now += 4 * HALVE_SECONDS
    guesses.begin("ada", "10.0.0.1")
    guesses.begin("ada", "10.0.0.1")


def test_the_right_password_clears_the_count_of_its_owner_only() -> None:
    guesses = LoginThrottle(lambda: 0.0)
    for _ in range(4):
        guesses.begin("ada", "10.0.0.1")
    guesses.succeeded(guesses.begin("ada", "10.0.0.1"))
    for _ in range(5):
        guesses.begin("ada", "10.0.0.1")
    with pytest.raises(TooManyAttempts):
        guesses.begin("ada", "10.0.0.1")
    guesses.begin("ada", "10.0.0.2")


def test_an_address_and_a_name_have_limits_of_their_own() -> None:
    by_address, by_name = LoginThrottle(lambda: 0.0), LoginThrottle(lambda: 0.0)
    for number in range(20):
        by_address.begin(f"name {number}", "10.0.0.1")
    with pytest.raises(TooManyAttempts):
        by_address.begin("another", "10.0.0.1")
    for number in range(50):
        by_name.begin("ada", f"10.0.0.{number}")
    with pytest.raises(TooManyAttempts) as refused:
        by_name.begin("ada", "10.0.1.1")
    assert refused.value.retry_after <= 30, "others must not be able to keep ada out for long"


@pytest.mark.parametrize("fate", ["succeeded", "take_back"])
def test_what_went_well_leaves_no_trace_for_others_at_the_same_address(fate: str) -> None:
    now = 0.0
    guesses = LoginThrottle(lambda: now)
    for number in range(19):
        guesses.begin(f"name {number}", "10.0.0.1")
    for number in range(100):
        now += 1.0
        getattr(guesses, fate)(guesses.begin(f"colleague {number}", "10.0.0.1"))
    assert not guesses.begin("name 20", "10.0.0.1").is_last_free
    now += 1.0
    with pytest.raises(TooManyAttempts) as refused:
        guesses.begin("another", "10.0.0.1")
    assert refused.value.retry_after == 1.0, "counted from the failure, not from what went well"
    now += 1.0
    guesses.succeeded(guesses.begin("another", "10.0.0.1"))
    guesses.succeeded(guesses.begin("another", "10.0.0.1"))


def test_one_that_succeeds_does_not_hide_those_that_fail_at_the_same_time() -> None:
    guesses = LoginThrottle(lambda: 0.0)
    under_way = guesses.begin("ada", "10.0.0.1")
    for number in range(20 - 1):
        guesses.begin(f"name {number}", "10.0.0.1")
    guesses.succeeded(under_way)
    guesses.begin("one more", "10.0.0.1")
    with pytest.raises(TooManyAttempts):
        guesses.begin("ada", "10.0.0.1")


def test_failures_halve_with_time_even_where_some_are_added() -> None:
    now = 0.0
    guesses = LoginThrottle(lambda: now)
    for number in range(60):  # somebody mistypes every six minutes
        guesses.begin(f"name {number}", "10.0.0.1")
        now += 360.0
    for number in range(8):
        guesses.begin(f"later {number}", "10.0.0.1")


def test_without_an_address_the_name_counts_as_it_always_does() -> None:
    guesses = LoginThrottle(lambda: 0.0)
    guessed = [guesses.begin("ada", "") for _ in range(5)]
    assert [one.is_last_free for one in guessed] == [False, False, False, False, True]
    with pytest.raises(TooManyAttempts):
        guesses.begin("ada", "")
