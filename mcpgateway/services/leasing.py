"""The interface of the session pool, with or without pooling behind it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from mcpgateway.pool.breaker import Breaker
from mcpgateway.pool.key import PoolKey, Terms
from mcpgateway.pool.session import Lease, PooledSession
from mcpgateway.pool.shelf import Shelf

Open = Callable[[], Awaitable[PooledSession]]
"""Opens a new session of the wanted kind. Raises UpstreamError."""


class Want:
    """What a caller needs: a session of this key, on these terms, opened like this if none is warm."""

    __slots__ = ("key", "open", "shelf", "terms")

    def __init__(self, key: PoolKey, terms: Terms, open: Open) -> None:
        self.key = key
        self.terms = terms
        self.open = open
        self.shelf: Shelf | None = None
        """Where the pool found such sessions last, so that it need not look for each call."""

    def __repr__(self) -> str:
        return f"<Want {self.key!r}>"


class SessionPool(Protocol):
    """Lends upstream sessions. Whoever takes a lease gives it back, in the same function."""

    def warm(self, want: Want) -> Lease | None:
        """A lease of a session that is ready now, or None: then `lease` opens one or waits."""

    async def lease(self, want: Want) -> Lease:
        """A lease of a warm session, or of a new one. Raises PoolError, and UpstreamError from opening."""

    def give_back(self, lease: Lease, error: BaseException | None = None) -> None:
        """End a lease. `error` is how the call ended; it decides what becomes of the session. Idempotent."""

    def end(self, keys: Iterable[PoolKey]) -> None:
        """The conversation that owned these keys is over: its sessions are closed, leased ones as they come home."""

    def breaker(self, upstream: str) -> Breaker:
        """The circuit breaker of an upstream."""

    def drain(self, upstream: str) -> None:
        """Lend no session of `upstream` again that exists now; calls in flight finish."""

    def get_metrics(self) -> dict[str, int]:
        """The pool's figures by name."""

    async def close_all(self) -> None:
        """Close everything, concurrently and within a few seconds. The pool takes no more calls."""
