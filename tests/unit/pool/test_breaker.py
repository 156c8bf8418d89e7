"""The circuit breaker."""

from __future__ import annotations

import gc

import pytest

from mcpgateway.errors import (
    AuthRefused,
    BadAnswer,
    ConnectFailed,
    ConnectionLost,
    HttpRefused,
    Incompatible,
    PoolClosed,
    RpcError,
    SessionLost,
    UpstreamTimeout,
)
from mcpgateway.pool.breaker import (
    FAILURES_TO_OPEN,
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    LONGEST_TRIAL_SECONDS,
    REMEMBERED,
    Breaker,
    Breakers,
)

NOW = 100.0
LATER = NOW + FIRST_PAUSE_SECONDS


def opened() -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES_TO_OPEN):
        assert breaker.refuses_for(NOW) == 0
        breaker.failed(NOW)
    return breaker


def test_p10_it_opens_after_several_failures_in_a_row() -> None:
    breaker = opened()
    assert breaker.is_open
    assert breaker.refuses_for(NOW) == FIRST_PAUSE_SECONDS
    assert repr(breaker) == "<Breaker open, 5 failures>"


def test_p10_a_success_in_between_starts_the_count_anew() -> None:
    breaker = Breaker()
    for _ in range(FAILURES_TO_OPEN * 2):
        breaker.failed(NOW)
        breaker.succeeded()
    assert not breaker.is_open and repr(breaker) == "<Breaker closed, 0 failures>"


def test_p10_half_open_lets_exactly_one_trial_through() -> None:
    breaker = opened()
    assert breaker.refuses_for(LATER) == 0
    assert all(breaker.refuses_for(LATER) > 0 for _ in range(10))


def test_p10_the_trial_that_succeeds_lets_everybody_in() -> None:
    breaker = opened()
    breaker.refuses_for(LATER)
    breaker.succeeded()
    assert [breaker.refuses_for(LATER) for _ in range(3)] == [0, 0, 0]


def test_p10_the_trial_that_fails_makes_the_pause_longer_up_to_a_limit() -> None:
    breaker, now, pauses = opened(), NOW, []
    for _ in range(5):
        now += breaker.refuses_for(now)
        assert breaker.refuses_for(now) == 0
        breaker.failed(now)
        pauses.append(breaker.refuses_for(now))
    assert pauses == [2.0, 4.0, LONGEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS]


def test_p10_a_trial_without_a_verdict_makes_way_for_the_next() -> None:
    breaker = opened()
    breaker.refuses_for(LATER)
    breaker.gave_up()
    assert breaker.refuses_for(LATER) == 0 < breaker.refuses_for(LATER)


def test_p10_a_trial_that_nobody_ends_does_not_shut_the_door_for_good() -> None:
    breaker = opened()
    breaker.refuses_for(LATER)
    assert breaker.refuses_for(LATER + LONGEST_TRIAL_SECONDS - 0.1) > 0
    assert breaker.refuses_for(LATER + LONGEST_TRIAL_SECONDS) == 0


@pytest.mark.parametrize("error", [ConnectFailed("crm", "no"), ConnectionLost("crm", "no")], ids=repr)
def test_p10_what_says_that_the_upstream_is_out_of_reach_counts(error: Exception) -> None:
    breaker = Breaker()
    for _ in range(FAILURES_TO_OPEN):
        breaker.count(error, NOW)
    assert breaker.is_open


ANSWERED = (
    AuthRefused("crm", "no", status=401),
    BadAnswer("crm", "no"),
    HttpRefused("crm", "no", status=500),
    Incompatible("crm", "no"),
    RpcError.of(-32000, "no"),
    SessionLost("crm", "no"),
)


@pytest.mark.parametrize("error", ANSWERED, ids=lambda error: type(error).__name__)
def test_p10_an_answer_whatever_it_says_closes_the_breaker(error: Exception) -> None:
    breaker = opened()
    breaker.count(error, NOW)
    assert not breaker.is_open


@pytest.mark.parametrize("error", [UpstreamTimeout("crm", "no"), PoolClosed(), KeyboardInterrupt()], ids=repr)
def test_p11_what_says_nothing_of_the_upstream_is_no_verdict(error: BaseException) -> None:
    breaker = opened()
    breaker.count(error, NOW)
    assert breaker.is_open
    breaker.refuses_for(LATER)
    breaker.count(error, LATER)
    assert breaker.refuses_for(LATER) > 0, "another's call ended the trial"


def test_p16_breakers_that_somebody_keeps_stay_and_of_the_others_the_last_are_remembered() -> None:
    breakers = Breakers()
    kept = breakers.of("crm")
    for number in range(REMEMBERED * 2):
        breakers.of(str(number)).failed(NOW)
    gc.collect()
    assert len(breakers) == REMEMBERED + 1
    assert breakers.of("crm") is kept
    assert repr(breakers.of(str(REMEMBERED * 2 - 1))) == "<Breaker closed, 1 failures>"
    assert repr(breakers.of("0")) == "<Breaker closed, 0 failures>"
