"""The pool that keeps nothing: a session per call, behind the same interface."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

from mcpgateway import runtime
from mcpgateway.errors import PoolClosed, UpstreamError
from mcpgateway.pool.breaker import Breaker
from mcpgateway.pool.key import PoolKey
from mcpgateway.pool.session import Lease, PooledSession
from mcpgateway.pool.stats import PoolStats
from mcpgateway.services.leasing import Want

_log = logging.getLogger("mcpgateway.pool")

CLOSE_SECONDS = 5.0


class NullPool:
    """See `leasing.SessionPool`. Used where `session_pool.enabled` is false."""

    def __init__(self, clock: runtime.Clock | None = None) -> None:
        self.stats = PoolStats()
        self._now = (clock or runtime.Clock()).now
        self._breakers: dict[str, Breaker] = {}
        self._leased: set[PooledSession] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<NullPool {len(self._leased)} leased>"

    def warm(self, key: PoolKey) -> Lease | None:
        """Always None: nothing is kept."""
        return None

    async def lease(self, want: Want) -> Lease:
        """A lease of a new session. Raises PoolClosed, UpstreamError."""
        if self._closed:
            raise PoolClosed("the gateway is shutting down")
        self.stats.misses += 1
        try:
            pooled = await want.open()
        except Exception as error:
            self.stats.failed += 1
            self._count(want.key.upstream, error)
            raise
        self.breaker(want.key.upstream).succeeded()
        self.stats.opened += 1
        pooled.key = want.key
        pooled.leases = 1
        self._leased.add(pooled)
        return Lease(pooled, self._now())

    def give_back(self, lease: Lease, error: BaseException | None = None) -> None:
        """End a lease, and with it the session."""
        if not lease.released:
            lease.released = True
            if lease.pooled.key is not None and error is not None:
                self._count(lease.pooled.key.upstream, error)
            self._close_soon(lease.pooled)

    def _count(self, upstream: str, error: BaseException) -> None:
        if isinstance(error, UpstreamError) and error.connection_level:
            self.breaker(upstream).failed(self._now())

    def _close_soon(self, pooled: PooledSession) -> None:
        pooled.closed = True
        task = runtime.spawn(self._close(pooled), f"close {pooled!r}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _close(self, pooled: PooledSession) -> None:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await pooled.transport_context.__aexit__(None, None, None)
        except Exception as error:
            _log.info("closing %r: %s", pooled, error or type(error).__name__)
        finally:
            self._leased.discard(pooled)
            self.stats.closed += 1

    def end(self, keys: Iterable[PoolKey]) -> None:
        """Nothing is kept, so nothing ends."""

    def drain(self, upstream: str) -> None:
        """Nothing is kept, so nothing is drained."""

    def breaker(self, upstream: str) -> Breaker:
        return self._breakers.setdefault(upstream, Breaker())

    def get_metrics(self) -> dict[str, int]:
        """The figures, by the names of the real pool."""
        leased = len(self._leased)
        now = {"pool_key_count": 0, "open": leased, "idle": 0, "leased": leased, "opening": 0, "waiting": 0}
        return self.stats.as_dict() | now

    async def close_all(self) -> None:
        """Close what is in use, concurrently."""
        self._closed = True
        for pooled in [pooled for pooled in self._leased if not pooled.closed]:
            self._close_soon(pooled)
        while self._tasks:
            await asyncio.wait(list(self._tasks))
