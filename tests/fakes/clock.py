"""A clock that stands still until a test moves it."""

from __future__ import annotations

from mcpgateway.runtime import Clock


class FakeClock(Clock):
    """Monotonic seconds that only `advance` moves."""

    def __init__(self, now: float = 1000.0) -> None:
        self._now = now

    def __repr__(self) -> str:
        return f"<FakeClock at {self._now}>"

    def now(self) -> float:
        return self._now

    def advance(self, seconds: float) -> float:
        """Move on by `seconds` and return the new time."""
        if seconds < 0:
            raise ValueError("a monotonic clock does not go back")
        self._now += seconds
        return self._now
