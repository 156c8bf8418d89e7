"""The circuit breaker of one upstream: after repeated connection-level failures it is left alone for a moment."""

from __future__ import annotations

from collections import OrderedDict
from weakref import WeakValueDictionary

from mcpgateway.errors import AuthRefused, BadAnswer, HttpRefused, Incompatible, RpcError, SessionLost, UpstreamError

FAILURES_TO_OPEN = 5
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 5.0
"""Short, for an upstream that is back must not stay shut out: the pause only keeps callers from queueing at a dead door."""

LONGEST_TRIAL_SECONDS = 60.0
"""A trial without a verdict for so long was forgotten by its caller: the next one may try."""

REMEMBERED = 1024

ANSWERS = (AuthRefused, BadAnswer, HttpRefused, Incompatible, RpcError, SessionLost)
"""Errors that an upstream which can be reached has sent."""


class Breaker:
    """Closed: all pass. Open: none. Half-open, once the pause is over: one trial, whose outcome decides.

    Only connection-level failures are reported here; what one caller is refused for never closes the door on another.
    """

    __slots__ = ("__weakref__", "_failures", "_open_until", "_pause", "_trial_until")

    def __init__(self) -> None:
        self._failures = 0
        self._pause = FIRST_PAUSE_SECONDS
        self._open_until: float | None = None
        self._trial_until: float | None = None

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
        if self._trial_until is not None and now < self._trial_until:
            return FIRST_PAUSE_SECONDS
        self._trial_until = now + LONGEST_TRIAL_SECONDS
        return 0.0

    def succeeded(self) -> None:
        """The upstream answered."""
        self._failures = 0
        self._pause = FIRST_PAUSE_SECONDS
        self._open_until = None
        self._trial_until = None

    def failed(self, now: float) -> None:
        """The upstream could not be reached."""
        self._failures += 1
        if self._trial_until is not None:
            self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)
        if self._failures >= FAILURES_TO_OPEN:
            self._open_until = now + self._pause
            self._trial_until = None

    def gave_up(self) -> None:
        """The trial ended without a verdict (its caller left): the next caller may try. Only for the trial's caller to say."""
        self._trial_until = None

    def count(self, error: BaseException, now: float) -> None:
        """Take what a call or an opening failed with as a verdict, where it says anything about reaching the upstream."""
        if isinstance(error, UpstreamError) and error.connection_level:
            self.failed(now)
        elif isinstance(error, ANSWERS):
            self.succeeded()


class Breakers:
    """The breaker of each upstream, by name.

    Whoever needs one for long keeps it. Of those that nobody keeps, the ones asked for last are remembered: callers name
    URLs as they please, and each must not cost memory for ever.
    """

    def __init__(self) -> None:
        self._all: WeakValueDictionary[str, Breaker] = WeakValueDictionary()
        self._recent: OrderedDict[str, Breaker] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Breakers of {len(self._all)} upstreams>"

    def __len__(self) -> int:
        return len(self._all)

    def of(self, upstream: str) -> Breaker:
        """The one breaker of `upstream`."""
        breaker = self._all.get(upstream)
        if breaker is None:
            breaker = self._all[upstream] = Breaker()
        self._recent[upstream] = breaker
        self._recent.move_to_end(upstream)
        if len(self._recent) > REMEMBERED:
            self._recent.popitem(last=False)
        return breaker
