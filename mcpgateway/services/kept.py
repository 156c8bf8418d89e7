"""One session kept for the gateway itself, outside the shared pool and its limits: for watching SSE and stdio servers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from mcpgateway import runtime
from mcpgateway.errors import UpstreamError
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

    def __repr__(self) -> str:
        return f"<KeptSession {self._pooled!r}>"

    def warm(self, key: PoolKey) -> Lease | None:
        pooled = self._pooled
        return Lease(pooled, 0.0) if pooled is not None and not pooled.session.closed else None

    async def lease(self, want: Want) -> Lease:
        async with self._opening:
            lease = self.warm(want.key)
            if lease is not None:
                return lease
            await self.close_all()
            self._pooled = pooled = await want.open()
            return Lease(pooled, 0.0)

    def give_back(self, lease: Lease, error: BaseException | None = None) -> None:
        if isinstance(error, UpstreamError) and lease.pooled is self._pooled:
            self._pooled = None
            runtime.spawn(lease.session.aclose(), f"close {lease.pooled!r}")

    def end(self, keys: Iterable[PoolKey]) -> None:
        return

    def breaker(self, upstream: str) -> Breaker:
        return self._breaker

    def drain(self, upstream: str) -> None:
        return

    def get_metrics(self) -> dict[str, int]:
        return {}

    async def close_all(self) -> None:
        pooled, self._pooled = self._pooled, None
        if pooled is not None:
            await pooled.session.aclose()
