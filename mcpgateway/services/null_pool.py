"""The pool that keeps nothing: a session per call, behind the same interface."""

from __future__ import annotations

from collections.abc import Iterable

from mcpgateway import runtime
from mcpgateway.errors import PoolClosed
from mcpgateway.pool.breaker import Breaker, Breakers
from mcpgateway.pool.key import PoolKey, place_of
from mcpgateway.pool.session import Lease, PooledSession
from mcpgateway.pool.stats import PoolStats
from mcpgateway.services.closing import Closer
from mcpgateway.services.leasing import Want


class NullPool:
    """See `leasing.SessionPool`. Used where `session_pool.enabled` is false. Whoever hands in a sweep closes it."""

    def __init__(self, sweep: runtime.Sweep | None = None) -> None:
        self.stats = PoolStats()
        self._owns_sweep = sweep is None
        # Compared with None, for a sweep that watches nothing yet is false.
        self._sweep = sweep if sweep is not None else runtime.Sweep()
        self._now = self._sweep.now
        self._breakers = Breakers()
        self._leased: set[PooledSession] = set()
        self._opening = 0
        self._closer = Closer(self._sweep, self._gone)
        self._closed = False

    def __repr__(self) -> str:
        return f"<NullPool {len(self._leased)} leased>"

    def warm(self, want: Want) -> Lease | None:
        """Always None: nothing is kept."""
        return None

    async def lease(self, want: Want) -> Lease:
        """A lease of a new session. Raises PoolClosed, UpstreamError."""
        if self._closed:
            raise _closed()
        self.stats.misses += 1
        self._opening += 1
        try:
            pooled = await want.open()
        except BaseException as error:
            self.stats.failed += 1
            self.breaker(place_of(want.key)).count(error, self._now())
            raise
        finally:
            self._opening -= 1
        self.breaker(place_of(want.key)).succeeded()
        return self._lend(pooled, want.key)

    def _lend(self, pooled: PooledSession, key: PoolKey) -> Lease:
        self.stats.opened += 1
        pooled.key = key
        pooled.opened_at = self._now()
        pooled.leases = pooled.uses = 1
        lease = Lease(pooled, pooled.opened_at)
        self._leased.add(pooled)
        if self._closed:
            # The pool was closed while this one was being opened: nobody else would close it.
            self.give_back(lease)
            raise _closed()
        return lease

    def give_back(self, lease: Lease, error: BaseException | None = None) -> None:
        """End a lease, and with it the session."""
        if lease.released:
            return
        lease.released = True
        lease.pooled.leases = 0
        if lease.pooled.key is not None and error is not None:
            self.breaker(place_of(lease.pooled.key)).count(error, self._now())
        self._close(lease.pooled)

    def _close(self, pooled: PooledSession) -> None:
        if not pooled.closed:
            pooled.closed = True
            self._closer.close(pooled)

    def _gone(self, pooled: PooledSession) -> None:
        self._leased.discard(pooled)
        self.stats.closed += 1

    def end(self, keys: Iterable[PoolKey]) -> None:
        """Nothing is kept, so nothing ends."""

    def drain(self, upstream: str) -> None:
        """Nothing is kept, so nothing is drained."""

    def breaker(self, upstream: str) -> Breaker:
        """The circuit breaker of an upstream."""
        return self._breakers.of(upstream)

    def get_metrics(self) -> dict[str, int]:
        """The figures, by the names of the real pool."""
        closing = sum(pooled.closed for pooled in self._leased)
        return self.stats.as_dict() | {
            "pool_key_count": 0,
            "open": len(self._leased) + self._opening,
            "idle": 0,
            "leased": len(self._leased) - closing,
            "opening": self._opening,
            "closing": closing,
            "waiting": 0,
        }

    async def close_all(self) -> None:
        """Close what is in use, concurrently and within a few seconds."""
        self._closed = True
        for pooled in list(self._leased):
            self._close(pooled)
        await self._closer.finish()
        if self._owns_sweep:
            self._sweep.close()


def _closed() -> PoolClosed:
    return PoolClosed("the gateway is shutting down")
