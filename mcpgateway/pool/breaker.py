"""The circuit breaker of one upstream: after repeated connection-level failures it is left alone for a moment."""

from __future__ import annotations

FAILURES_TO_OPEN = 5
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 5.0
"""Short, for an upstream that is back must not stay shut out: the pause only keeps callers from queueing at a dead door."""


class Breaker:
    """Closed: all pass. Open: none. Half-open, once the pause is over: one trial, whose outcome decides.

    Only connection-level failures are reported here; what one caller is refused for never closes the door on another.
    """

    __slots__ = ("_failures", "_open_until", "_pause", "_trial")

    def __init__(self) -> None:
        self._failures = 0
        self._pause = FIRST_PAUSE_SECONDS
        self._open_until: float | None = None
        self._trial = False

    def __repr__(self) -> str:
        return f"<Breaker {'closed' if self._open_until is None else 'open'}, {self._failures} failures>"

    @property
    def is_open(self) -> bool:
        return self._open_until is not None

    def refuses_for(self, now: float) -> float:
        """Seconds for which a caller is refused; 0.0 if it may pass. Passing while half-open takes the one trial."""
        if self._open_until is None:
            return 0.0
        if now < self._open_until:
            return self._open_until - now
        if self._trial:
            return FIRST_PAUSE_SECONDS
        self._trial = True
        return 0.0

    def succeeded(self) -> None:
        self._failures = 0
        self._pause = FIRST_PAUSE_SECONDS
        self._open_until = None
        self._trial = False

    def failed(self, now: float) -> None:
        self._failures += 1
        if self._trial or self._failures >= FAILURES_TO_OPEN:
            if self._trial:
                self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)
            self._open_until = now + self._pause
            self._trial = False

    def gave_up(self) -> None:
        """The trial ended without a verdict (its caller left): the next caller may try."""
        self._trial = False
