"""One session kept for the gateway itself, outside the shared pool and its limits: for watching SSE and stdio servers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from mcpgateway import runtime
from mcpgateway.errors import PoolClosed, UpstreamError
from mcpgateway.pool.breaker import Breaker
from mcpgateway.pool.key import PoolKey
from mcpgateway.pool.session import Lease, PooledSession
from mcpgateway.services.leasing import Want


class KeptSession:
    """A `leasing.SessionPool` of one session, which all calls share and which is opened again when it is gone."""

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker
        self._pooled: PooledSession | None = None
        self._opening = asyncio.Lock()
        self._closed = False

    def __repr__(self) -> str:
        return f"<KeptSession {self._pooled!r}>"

    def warm(self, want: Want) -> Lease | None:
        """A lease of the session, if it is alive."""
        pooled = self._pooled
        return Lease(pooled, 0.0) if pooled is not None and not pooled.session.closed else None

    async def lease(self, want: Want) -> Lease:
        """A lease of the session, opened if it is gone. Raises PoolClosed, UpstreamError."""
        async with self._opening:
            lease = self.warm(want)
            if lease is not None:
                return lease
            await self._end()
            if not self._closed:
                self._pooled = pooled = await want.open()
                lease = Lease(pooled, 0.0)
        if lease is None or self._closed:
            await self._end()
            raise PoolClosed("this upstream is not watched any more")
        return lease

    def give_back(self, lease: Lease, error: BaseException | None = None) -> None:
        """End a lease. After any error of the upstream the next one is of a new session."""
        if isinstance(error, UpstreamError) and lease.pooled is self._pooled:
            self._pooled = None
            runtime.spawn(lease.session.aclose(), f"close {lease.pooled!r}")

    def end(self, keys: Iterable[PoolKey]) -> None:
        """The session is no conversation's."""

    def breaker(self, upstream: str) -> Breaker:
        """The circuit breaker of the one upstream."""
        return self._breaker

    def drain(self, upstream: str) -> None:
        """A changed upstream is watched anew, with a session of its own."""

    def get_metrics(self) -> dict[str, int]:
        """None: the session does not count."""
        return {}

    async def close_all(self) -> None:
        """Close the session. None is opened again."""
        self._closed = True
        await self._end()

    async def _end(self) -> None:
        pooled, self._pooled = self._pooled, None
        if pooled is not None:
            await pooled.session.aclose()
