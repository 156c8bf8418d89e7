"""The session pool: awaits what the rules in `pool/` decide.

Every caller works on warm upstream sessions of its own key. Opening a session belongs to the pool, not to the caller that
happened to need it first: a caller that gives up loses its place in line and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from mcpgateway import runtime
from mcpgateway.errors import (
    AuthRefused,
    CircuitOpen,
    ConnectionLost,
    PoolClosed,
    PoolExhausted,
    RpcError,
    SessionLost,
    UpstreamError,
)
from mcpgateway.pool.breaker import Breaker
from mcpgateway.pool.identity import identity_hash
from mcpgateway.pool.key import PoolKey, Terms
from mcpgateway.pool.ledger import Ledger
from mcpgateway.pool.limits import Limits, place_of
from mcpgateway.pool.session import Lease, PooledSession, TransportType
from mcpgateway.pool.shelf import Shelf
from mcpgateway.pool.stats import PoolStats
from mcpgateway.services.leasing import Open, Want
from mcpgateway.upstream.open import Opener, ping

__all__ = [
    "MCPSessionPool",
    "PooledSession",
    "TransportType",
    "close_mcp_session_pool",
    "get_mcp_session_pool",
    "init_mcp_session_pool",
]

_log = logging.getLogger("mcpgateway.pool")

ANONYMOUS = "anonymous"
CLOSE_SECONDS = 5.0
CLOSES_AT_ONCE = 64
PROBE_SECONDS = 5.0
REAP_SECONDS = 5.0

SCOPES = {
    "key": "session_pool.max_sessions_per_key",
    "principal": "session_pool.max_sessions_per_principal",
    "upstream": "session_pool.max_sessions_per_upstream",
    "total": "session_pool.max_sessions",
}


class _Waiting:
    """One caller in line. Served with a lease, refused with an error, or gone."""

    def __init__(self, want: Want, deadline: float) -> None:
        self.open: Open = want.open
        self.deadline = deadline
        self.scope: str | None = None
        self._upstream = place_of(want.key).partition("?")[0]
        self.future: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()

    def __repr__(self) -> str:
        return f"<_Waiting {'done' if self.done() else 'in line'}>"

    def done(self) -> bool:
        return self.future.done()

    def grant(self, lease: Lease) -> None:
        self.future.set_result(lease)

    def refuse(self, error: BaseException) -> None:
        self.future.set_exception(error)

    def expire(self) -> None:
        if not self.done():
            why = f"{SCOPES[self.scope]} is reached" if self.scope else "the session was not opened in time"
            self.refuse(PoolExhausted(f"no session for upstream {self._upstream!r} came free: {why}; try again shortly"))


class MCPSessionPool:
    """A pool of upstream sessions, each lent only under the key it was opened with.

    May be built outside a running loop. `session_ttl_seconds` is how old a session gets, and how long it may idle, where
    its terms do not say otherwise; `health_check_interval_seconds` is the idle time after which it is probed before use.
    `wait_seconds` bounds the wait for a lease.
    """

    def __init__(
        self,
        max_sessions_per_key: int = 10,
        session_ttl_seconds: float = 300.0,
        health_check_interval_seconds: float = 60.0,
        *,
        limits: Limits | None = None,
        wait_seconds: float = 30.0,
        opener: Opener | None = None,
        sweep: runtime.Sweep | None = None,
    ) -> None:
        self.terms = Terms(
            exclusive=True,
            max_sessions=max_sessions_per_key,
            max_age_seconds=session_ttl_seconds,
            max_idle_seconds=session_ttl_seconds,
            probe_after_seconds=health_check_interval_seconds,
        )
        self.stats = PoolStats()
        self._ledger = Ledger(limits or Limits(), self.stats)
        self._wait_seconds = wait_seconds
        self._sweep = sweep or runtime.Sweep()
        self._now = self._sweep.now
        self._opener = opener or Opener(self._sweep)
        self._breakers: dict[str, Breaker] = {}
        self._blocked: dict[Shelf, None] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = asyncio.Semaphore(CLOSES_AT_ONCE)
        self._reaper = _Reaper(self)
        self._closed = False

    def __repr__(self) -> str:
        return f"<MCPSessionPool {'closed ' if self._closed else ''}{self._ledger!r}>"

    # The contract's form: one holder per session, the session itself as the handle.

    async def acquire(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        transport_type: TransportType = TransportType.STREAMABLE_HTTP,
        httpx_client_factory: Callable[..., Any] | None = None,
        timeout: float | None = None,
        user_identity: str = ANONYMOUS,
    ) -> PooledSession:
        """An exclusive session for this URL and identity, until it is given to `release`.

        `timeout` bounds the opening, in seconds. Raises PoolError (CircuitOpen too) and UpstreamError.
        """
        key = self._make_pool_key(url, headers, transport_type, user_identity=user_identity)

        async def open() -> PooledSession:
            return await self._create_session(url, headers, transport_type, httpx_client_factory, timeout)

        self._check_breaker(key)
        lease = await self.lease(Want(key, self.terms, open))
        lease.pooled.holder = lease
        return lease.pooled

    async def release(self, session: PooledSession) -> None:
        """Give back what `acquire` gave. Idempotent."""
        lease, session.holder = session.holder, None
        if lease is not None:
            self.give_back(lease)

    @asynccontextmanager
    async def session(self, url: str, headers: Mapping[str, str] | None = None, **how: Any) -> AsyncIterator[PooledSession]:
        """`acquire` and `release` around a block."""
        session = await self.acquire(url, headers, **how)
        try:
            yield session
        finally:
            await self.release(session)

    @staticmethod
    def _compute_identity_hash(headers: Mapping[str, str] | None) -> str:
        return identity_hash(headers)

    def _make_pool_key(
        self,
        url: str,
        headers: Mapping[str, str] | None,
        transport_type: TransportType,
        user_identity: str = ANONYMOUS,
    ) -> PoolKey:
        return PoolKey(user_identity, url, identity_hash(headers), transport_type.value)

    async def _create_session(
        self,
        url: str,
        headers: Mapping[str, str] | None,
        transport_type: TransportType,
        httpx_client_factory: Callable[..., Any] | None,
        timeout: float | None,
    ) -> PooledSession:
        session, context = await self._opener.open_url(url, headers or {}, transport_type, httpx_client_factory, timeout)
        return PooledSession(session, context, url, identity_hash(headers), transport_type, headers)

    # The pool's own form: leases.

    def warm(self, key: PoolKey) -> Lease | None:
        """A lease of a session that is ready now, or None."""
        lease = self._ledger.warm(key, self._now())
        if lease is not None:
            self.stats.hits += 1
        return lease

    async def lease(self, want: Want) -> Lease:
        """A lease of a warm session of `want.key`, or of a new one. The circuit breaker is the caller's to heed.

        Raises PoolClosed; PoolExhausted after `wait_seconds` in line; UpstreamError where opening failed.
        """
        if self._closed:
            raise PoolClosed("the session pool is closed: the gateway is shutting down")
        return self.warm(want.key) or await self._probed(want.key) or await self._wait_in_line(want)

    async def _probed(self, key: PoolKey) -> Lease | None:
        """A lease of a session that idled for long and has just shown that it is alive."""
        self._close_soon(self._ledger.spoiled(key, self._now()))
        lease = self._ledger.to_probe(key, self._now())
        if lease is None:
            return None
        self.stats.probes += 1
        try:
            alive = await self._validate_session(lease.pooled)
        except BaseException:
            # Given back as it was: neither proven alive nor found dead.
            self._take_back(self._ledger.give_back(lease, lease.pooled.idle_since))
            raise
        if alive:
            self.stats.hits += 1
            return lease
        # One probe budget for all: siblings that idled as long are not probed one after the other.
        self._drop(lease)
        return None

    async def _validate_session(self, pooled: PooledSession) -> bool:
        """Whether the session answers a ping. A time-out is a failure."""
        return await ping(pooled.session, PROBE_SECONDS)

    async def _wait_in_line(self, want: Want) -> Lease:
        shelf = self._ledger.shelf(want.key, want.terms)
        waiter = _Waiting(want, self._now() + self._wait_seconds)
        shelf.waiters.append(waiter)
        self.stats.misses += 1
        self._pump(shelf)
        self._sweep.watch(waiter)
        try:
            return await waiter.future
        except PoolExhausted:
            self.stats.timeouts += 1
            raise
        except asyncio.CancelledError:
            self._gave_up(waiter)
            raise
        finally:
            self._sweep.forget(waiter)
            shelf.first_waiter()
            self._ledger.forget_if_empty(shelf)

    def _gave_up(self, waiter: _Waiting) -> None:
        """A caller left. If a session was handed to it in the same moment, the session goes to the next in line."""
        if not waiter.future.cancel() and not waiter.future.cancelled() and waiter.future.exception() is None:
            self.give_back(waiter.future.result())

    def _check_breaker(self, key: PoolKey) -> None:
        pause = self.breaker(place_of(key)).refuses_for(self._now())
        if pause > 0:
            name = place_of(key).partition("?")[0]
            raise CircuitOpen(
                f"upstream {name!r} failed repeatedly and is left alone for another {pause:.1f} s; try again after that",
                retry_after_seconds=pause,
            )

    def breaker(self, upstream: str) -> Breaker:
        """The circuit breaker of an upstream."""
        return self._breakers.setdefault(upstream, Breaker())

    # Opening.

    def _pump(self, shelf: Shelf) -> None:
        """Open as many sessions as those in line on this shelf need and the limits allow."""
        self._blocked.pop(shelf, None)
        while shelf.wanted() > 0:
            scope = self._ledger.reserve(shelf)
            if scope is None:
                self._start_opening(shelf)
                continue
            for waiter in shelf.waiters:
                if isinstance(waiter, _Waiting):
                    waiter.scope = scope
            self.stats.waits += 1
            if scope != "key":
                self._blocked[shelf] = None
                self._make_room(shelf.key, scope)
            return

    def _make_room(self, key: PoolKey, scope: str) -> None:
        if not self._ledger.room_is_coming(key, scope):
            victim = self._ledger.evict_for(key, scope)
            if victim is not None:
                self._close_soon([victim])

    def _use_room(self) -> None:
        """A place came free: those who were blocked try again, in the order in which they were."""
        for shelf in list(self._blocked):
            self._pump(shelf)

    def _start_opening(self, shelf: Shelf) -> None:
        waiter = shelf.first_waiter()
        if not isinstance(waiter, _Waiting):
            raise RuntimeError("a session is opened only for somebody in line")
        self._reaper.start()
        self._keep(runtime.spawn(self._open(shelf, waiter.open), f"open {shelf.key!r}"))

    async def _open(self, shelf: Shelf, open: Open) -> None:
        generation = self._ledger.generation(shelf.key)
        try:
            pooled = await open()
        except BaseException as error:
            self._ledger.not_opened(shelf)
            self._opening_failed(shelf, error)
            if not isinstance(error, Exception):
                raise
            return
        self.breaker(place_of(shelf.key)).succeeded()
        now = self._now()
        # Jitter, so that the sessions of one burst are not all renewed in one moment.
        close_at = now + shelf.terms.max_age_seconds * random.uniform(0.9, 1.0)  # noqa: S311
        self._ledger.opened(shelf, pooled, generation, close_at, now)
        self._close_soon(self._ledger.spoiled(shelf.key, now))
        self._pump(shelf)

    def _opening_failed(self, shelf: Shelf, error: BaseException) -> None:
        """Tell the one who waited for this opening, or all of them where they wait for the same session."""
        self._count(place_of(shelf.key), error)
        if not isinstance(error, Exception):
            error = PoolClosed("the session pool is closed: the gateway is shutting down")
        while (waiter := shelf.first_waiter()) is not None:
            shelf.waiters.popleft()
            waiter.refuse(error)
            if shelf.terms.exclusive:
                break
        self._pump(shelf)
        self._ledger.forget_if_empty(shelf)
        self._use_room()

    def _count(self, upstream: str, error: BaseException) -> None:
        breaker = self.breaker(upstream)
        if isinstance(error, UpstreamError) and error.connection_level:
            breaker.failed(self._now())
        elif isinstance(error, UpstreamError | RpcError):
            breaker.succeeded()
        else:
            breaker.gave_up()

    # Giving back.

    def give_back(self, lease: Lease, error: BaseException | None = None) -> None:
        """End a lease; `error` is how the call ended. Idempotent.

        A result, a JSON-RPC error, a time-out or a cancelled call keep the session. A lost session goes, and its older
        siblings with it. A refused credential ends this session only. A broken connection ends the session if the wire is
        gone with it, or if nobody's state is in it.
        """
        if error is None:
            self._take_back(self._ledger.give_back(lease, self._now(), lease.session.closed is not True))
        elif not lease.released:
            self._settle(lease, error)

    def _settle(self, lease: Lease, error: BaseException) -> None:
        key = lease.pooled.key
        if key is not None and isinstance(error, UpstreamError):
            self._count(place_of(key), error)
        if isinstance(error, SessionLost):
            self.stats.lost += 1
            self._drop(lease)
            return
        shared = key is not None and key in self._ledger.shelves and self._ledger.shelves[key].terms.exclusive
        broken = isinstance(error, AuthRefused) or (isinstance(error, ConnectionLost) and shared)
        self._take_back(self._ledger.give_back(lease, self._now(), not broken and lease.session.closed is not True))

    def _drop(self, lease: Lease) -> None:
        """The session is dead, and its siblings of its age with it."""
        idle = self._ledger.lost_with_siblings(lease.pooled)
        dead = self._ledger.give_back(lease, self._now(), keep=False)
        self._close_soon([*idle, *([dead] if dead else [])])

    def _take_back(self, to_close: PooledSession | None) -> None:
        if to_close is not None:
            self._close_soon([to_close])
        if self._blocked:
            self._use_room()

    # Closing.

    def end(self, keys: Iterable[PoolKey]) -> None:
        """Close the sessions of these keys, those on lease as they come home."""
        for key in keys:
            shelf = self._ledger.shelves.get(key)
            if shelf is not None:
                self._close_soon(self._ledger.retire_on(shelf, lambda session: True))

    def drain(self, upstream: str) -> None:
        """Lend no session of `upstream` again that exists now; calls in flight finish."""
        self._close_soon(self._ledger.drain(upstream))

    def reap(self) -> None:
        """Close what is old or was idle for too long. Runs by itself, without traffic."""
        self._close_soon(self._ledger.due(self._now()))

    def _close_soon(self, sessions: Iterable[PooledSession]) -> None:
        for pooled in sessions:
            self._keep(runtime.spawn(self._close(pooled), f"close {pooled!r}"))

    async def _close(self, pooled: PooledSession) -> None:
        try:
            async with self._closing, asyncio.timeout(CLOSE_SECONDS):
                await pooled.transport_context.__aexit__(None, None, None)
        except Exception as error:
            _log.info("closing %r: %s", pooled, error or type(error).__name__)
        finally:
            self._ledger.gone(pooled)
            self._use_room()
            if pooled.key is not None and (shelf := self._ledger.shelves.get(pooled.key)) is not None:
                self._pump(shelf)

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close_all(self) -> None:
        """Close every session, concurrently and each within a few seconds. Who waits is told; nothing is lent again."""
        self._closed = True
        self._reaper.stop()
        for task in [task for task in self._tasks if task.get_name().startswith("open ")]:
            await runtime.end_task(task)
        for shelf in list(self._ledger.shelves.values()):
            while (waiter := shelf.first_waiter()) is not None:
                shelf.waiters.popleft()
                waiter.refuse(PoolClosed("the session pool is closed: the gateway is shutting down"))
        self._close_soon(self._ledger.retire(lambda session: True))
        self._close_soon(self._ledger.abandon_leased())
        while self._tasks:
            await asyncio.wait(list(self._tasks))
        await self._opener.aclose()

    def get_metrics(self) -> dict[str, int]:
        """The figures: counters of `PoolStats`, and how many keys, sessions, idle and waiting there are now."""
        shelves = self._ledger.shelves.values()
        return self.stats.as_dict() | {
            "pool_key_count": len(shelves),
            "open": self._ledger.reservations.total,
            "idle": self._ledger.idle_count,
            "leased": sum(len(shelf.busy) for shelf in shelves),
            "opening": sum(shelf.opening for shelf in shelves),
            "waiting": sum(not waiter.done() for shelf in shelves for waiter in shelf.waiters),
        }

    @property
    def _hits(self) -> int:
        return self.stats.hits

    @property
    def _misses(self) -> int:
        return self.stats.misses


class _Reaper:
    """Comes round by the sweep: no task and no timer of its own."""

    def __init__(self, pool: MCPSessionPool) -> None:
        self._pool = pool
        self._running = False
        self.deadline = 0.0

    def start(self) -> None:
        if not self._running:
            self._running = True
            self._again()

    def stop(self) -> None:
        self._running = False
        self._pool._sweep.forget(self)

    def _again(self) -> None:
        self.deadline = self._pool._now() + REAP_SECONDS * random.uniform(0.8, 1.2)  # noqa: S311
        self._pool._sweep.watch(self)

    def expire(self) -> None:
        self._pool.reap()
        if self._running:
            self._again()


_pool: MCPSessionPool | None = None


def init_mcp_session_pool(**settings: Any) -> MCPSessionPool:
    """Make the process-wide pool; the settings are MCPSessionPool's. Raises RuntimeError if there is one already."""
    global _pool
    if _pool is not None:
        raise RuntimeError("the MCP session pool is initialized already: close it first, or its sessions would leak")
    _pool = MCPSessionPool(**settings)
    return _pool


def get_mcp_session_pool() -> MCPSessionPool:
    """The process-wide pool. Raises RuntimeError if there is none."""
    if _pool is None:
        raise RuntimeError("the MCP session pool is not initialized: call init_mcp_session_pool first")
    return _pool


async def close_mcp_session_pool() -> None:
    """Close the process-wide pool, if there is one."""
    global _pool
    pool, _pool = _pool, None
    if pool is not None:
        await pool.close_all()
