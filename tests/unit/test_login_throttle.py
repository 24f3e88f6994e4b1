"""The login throttle: waits for password guessers, none for the people beside them."""

from __future__ import annotations

import pytest

from bot.access.login_throttle import HALVE_SECONDS, LoginThrottle
from bot.errors import TooManyAttempts


def test_waits_grow_up_to_a_limit_and_end() -> None:
    now = 0.0
    throttle = LoginThrottle(lambda: now)
    waits = []
    for _ in range(20):
        try:
            throttle.begin("ada", "10.0.0.1")
        except TooManyAttempts as error:
            waits.append(error.retry_after)
            now += error.retry_after
            throttle.begin("ada", "10.0.0.1")
    assert waits[:4] == [2.0, 4.0, 8.0, 16.0]
    assert max(waits) == 900.0
    now += 4 * HALVE_SECONDS
    throttle.begin("ada", "10.0.0.1")
    throttle.begin("ada", "10.0.0.1")


def test_a_success_clears_the_count_of_its_name_and_address_only() -> None:
    throttle = LoginThrottle(lambda: 0.0)
    for _ in range(4):
        throttle.begin("ada", "10.0.0.1")
    throttle.succeeded(throttle.begin("ada", "10.0.0.1"))
    for _ in range(5):
        throttle.begin("ada", "10.0.0.1")
    with pytest.raises(TooManyAttempts):
        throttle.begin("ada", "10.0.0.1")
    throttle.begin("ada", "10.0.0.2")


def test_addresses_and_names_have_limits_of_their_own() -> None:
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
def test_successes_leave_no_trace_at_their_address(fate: str) -> None:
    now = 0.0
    throttle = LoginThrottle(lambda: now)
    for number in range(19):
        throttle.begin(f"name {number}", "10.0.0.1")
    for number in range(100):
        now += 1.0
        getattr(throttle, fate)(throttle.begin(f"colleague {number}", "10.0.0.1"))
    assert not throttle.begin("name 20", "10.0.0.1").is_last_free
    now += 1.0
    with pytest.raises(TooManyAttempts) as refused:
        throttle.begin("another", "10.0.0.1")
    assert refused.value.retry_after == 1.0, "counted from the failure, not from the successes"
    now += 1.0
    throttle.succeeded(throttle.begin("another", "10.0.0.1"))
    throttle.succeeded(throttle.begin("another", "10.0.0.1"))


def test_a_success_does_not_hide_simultaneous_failures() -> None:
    throttle = LoginThrottle(lambda: 0.0)
    under_way = throttle.begin("ada", "10.0.0.1")
    for number in range(20 - 1):
        throttle.begin(f"name {number}", "10.0.0.1")
    throttle.succeeded(under_way)
    throttle.begin("one more", "10.0.0.1")
    with pytest.raises(TooManyAttempts):
        throttle.begin("ada", "10.0.0.1")


def test_failures_halve_with_time_even_if_more_are_added() -> None:
    now = 0.0
    throttle = LoginThrottle(lambda: now)
    for number in range(60):  # somebody mistypes every six minutes
        throttle.begin(f"name {number}", "10.0.0.1")
        now += 360.0
    for number in range(8):
        throttle.begin(f"later {number}", "10.0.0.1")


def test_without_an_address_the_name_counts_as_usual() -> None:
    throttle = LoginThrottle(lambda: 0.0)
    attempts = [throttle.begin("ada", "") for _ in range(5)]
    assert [attempt.is_last_free for attempt in attempts] == [False, False, False, False, True]
    with pytest.raises(TooManyAttempts):
        throttle.begin("ada", "")
