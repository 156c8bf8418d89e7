"""How often a principal may call: a token bucket each. Whoever is over it waits a moment; nobody is ever locked out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from mcpgateway.errors import Busy

TIDY_AT = 10_000


class RateLimit(Protocol):
    """Asked at every request."""

    def check(self, user: str) -> None:
        """Raises Busy, which says when to try again."""


class NoRateLimit:
    """Everybody may call as often as they like."""

    def check(self, user: str) -> None:
        return


class TokenBuckets:
    """`per_second` requests on average, `burst` at once. `now` gives monotonic seconds."""

    def __init__(self, per_second: float, burst: int, now: Callable[[], float]) -> None:
        self._rate = per_second
        self._burst = float(burst)
        self._now = now
        self._buckets: dict[str, tuple[float, float]] = {}

    def __repr__(self) -> str:
        return f"<TokenBuckets {self._rate:g}/s, burst {self._burst:g}, {len(self._buckets)} principals>"

    def check(self, user: str) -> None:
        """Take a token. Raises Busy where there is none; being refused costs none."""
        now = self._now()
        tokens, at = self._buckets.get(user, (self._burst, now))
        tokens = min(self._burst, tokens + (now - at) * self._rate)
        if tokens < 1:
            wait = (1 - tokens) / self._rate
            text = f"more than {self._rate:g} requests per second (gateway.limits.calls_per_second); try again in {wait:.1f} s"
            raise Busy(text, retry_after_seconds=wait)
        self._buckets[user] = (tokens - 1, now)
        if len(self._buckets) > TIDY_AT:
            self._tidy(now)

    def _tidy(self, now: float) -> None:
        """Forget those whose bucket is full again: they are as if they had never called."""
        full_after = self._burst / self._rate
        self._buckets = {user: bucket for user, bucket in self._buckets.items() if now - bucket[1] < full_after}
