"""The token buckets."""

from __future__ import annotations

import pytest

from mcpgateway.downstream import rate_limit
from mcpgateway.downstream.rate_limit import TokenBuckets
from mcpgateway.errors import Busy
from tests.fakes.clock import FakeClock


def test_c8_a_burst_passes_and_what_is_over_it_is_told_when_to_come_back(clock: FakeClock) -> None:
    buckets = TokenBuckets(2, 3, clock.now)
    for _ in range(3):
        buckets.check("alice")
    with pytest.raises(Busy) as refused:
        buckets.check("alice")
    assert refused.value.retry_after_seconds == pytest.approx(0.5)


def test_c8_being_refused_never_locks_out(clock: FakeClock) -> None:
    buckets = TokenBuckets(2, 1, clock.now)
    buckets.check("alice")
    for _ in range(100):
        with pytest.raises(Busy):
            buckets.check("alice")
    clock.advance(0.5)
    buckets.check("alice")


def test_one_principal_at_its_limit_does_not_slow_another(clock: FakeClock) -> None:
    buckets = TokenBuckets(1, 1, clock.now)
    buckets.check("alice")
    with pytest.raises(Busy):
        buckets.check("alice")
    buckets.check("bob")


def test_principals_who_came_and_went_are_forgotten(clock: FakeClock) -> None:
    buckets = TokenBuckets(1000, 1, clock.now)
    for number in range(rate_limit.TIDY_AT):
        buckets.check(str(number))
    clock.advance(1)
    buckets.check("last")
    assert "1 principals" in repr(buckets)
