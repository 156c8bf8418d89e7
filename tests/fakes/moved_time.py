"""Deadlines of a running gateway that come when a test says so."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.fakes.clock import FakeClock
from tests.fakes.gateway import RunningGateway


class MovedTime:
    """The gateway's deadlines follow a clock that the test moves, from where the real one stands."""

    def __init__(self, gateway: RunningGateway) -> None:
        self._sweep = gateway.gateway.sweep
        self._clock = FakeClock(self._sweep.now())

    def __repr__(self) -> str:
        return f"<MovedTime at {self._clock.now()}>"

    def passes(self, seconds: float) -> None:
        self._clock.advance(seconds)
        self._sweep.expire_due()


@contextlib.contextmanager
def moved_time(gateway: RunningGateway) -> Iterator[MovedTime]:
    """Time that stands still for the length of the block but for what the test lets pass."""
    sweep = gateway.gateway.sweep
    real, time = sweep.now, MovedTime(gateway)
    sweep.now = time._clock.now
    try:
        yield time
    finally:
        sweep.now = real
