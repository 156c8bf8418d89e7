"""The session pool: awaits what the rules in `pool/` decide.

Every caller works on warm upstream sessions of its own key. Opening a session belongs to the pool, not to the caller that
happened to need it first: a caller that gives up loses its place in line and nothing else.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from weakref import WeakSet, ref

from mcpgateway import runtime
from mcpgateway.errors import (
    AuthRefused,
    CircuitOpen,
    ConnectFailed,
    ConnectionLost,
    PoolClosed,
    PoolExhausted,
    SessionLost,
    UpstreamError,
)
from mcpgateway.pool.blocked import Blocked
from mcpgateway.pool.breaker import Breaker, Breakers
from mcpgateway.pool.identity import identity_hash
from mcpgateway.pool.key import PoolKey, Terms, place_of, shown
from mcpgateway.pool.ledger import Ledger
from mcpgateway.pool.limits import Limits
from mcpgateway.pool.session import Lease, PooledSession, TransportType
from mcpgateway.pool.shelf import Shelf
from mcpgateway.pool.stats import PoolStats
from mcpgateway.services.closing import Closer
from mcpgateway.services.leasing import Open, Want
from mcpgateway.services.reaping import Reaper
from mcpgateway.services.waiting import Waiting
from mcpgateway.upstream.open import Opener, ping

__all__ = [
    "MCPSessionPool",
    "PooledSession",
    "TransportType",
    "close_mcp_session_pool",
    "get_mcp_session_pool",
    "init_mcp_session_pool",
]

ANONYMOUS = "anonymous"
REMEMBERED_KEYS = 1024
GIVE_UP_SECONDS = 5.0
PROBE_SECONDS = 5.0


_Wanted = tuple[str, str, TransportType, Callable[..., Any] | None, tuple[tuple[str, str], ...]]


class MCPSessionPool:
    """A pool of upstream sessions, each lent only under the key it was opened with.

    May be built outside a running loop. `session_ttl_seconds` is how old a session gets, and how long it may idle, where
    its terms do not say otherwise; `health_check_interval_seconds` is the idle time after which it is probed before use.
    `wait_seconds` bounds the wait for a lease. Whoever hands in an opener or a sweep closes it.
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
        self._owns_sweep, self._owns_opener = sweep is None, opener is None
        # Compared with None, for a sweep that watches nothing yet is false.
        self._sweep = sweep if sweep is not None else runtime.Sweep()
        self._now = self._sweep.now
        self._opener = opener if opener is not None else Opener(self._sweep)
        self._breakers = Breakers()
        self._blocked = Blocked()
        self._work: set[asyncio.Task[Any]] = set()
        self._closer = Closer(self._sweep, self._gone)
        self._reaper = Reaper(self._sweep, self._come_round)
        # Holds headers as they came, credentials among them: never shown, and bounded.
        self._known: dict[_Wanted, tuple[Want, Breaker]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
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
        named = tuple(headers.items()) if headers else ()
        wanted = (user_identity, url, transport_type, httpx_client_factory, named)
        want, breaker = self._known.get(wanted) or self._know(wanted, headers)
        if not breaker.is_open and (warm := self.warm(want)) is not None:
            return self._hold(warm)
        if timeout is not None:
            opens = partial(self._create_session, url, headers, transport_type, httpx_client_factory, timeout)
            want = Want(want.key, want.terms, opens)
        return self._hold(await self._acquire(want))

    def _know(self, wanted: _Wanted, headers: Mapping[str, str] | None) -> tuple[Want, Breaker]:
        """What is wanted, and its upstream's breaker: worked out once for callers that come again."""
        user, url, transport_type, factory, named = wanted
        key = self._make_pool_key(url, headers, transport_type, factory, user)
        if len(self._known) >= REMEMBERED_KEYS:
            self._known.clear()
        want = Want(key, self.terms, partial(self._create_session, url, dict(named), transport_type, factory, None))
        self._known[wanted] = known = want, self.breaker(place_of(key))
        return known

    def _hold(self, lease: Lease) -> PooledSession:
        """The session of a lease that its caller gives back by the session alone."""
        pooled = lease.pooled
        pooled.holder, pooled.held_by = lease, self._current_task()
        return pooled

    def _current_task(self) -> asyncio.Task[Any] | None:
        # Asked each time, which loop is running costs a system call. In one that is over nothing runs.
        task = asyncio.current_task(self._loop) if self._loop is not None else None
        if task is None:
            self._loop = asyncio.get_running_loop()
            task = asyncio.current_task(self._loop)
        return task

    async def _acquire(self, want: Want) -> Lease:
        """A lease that is not to be had at once."""
        trial = self._pass_breaker(want.key)
        try:
            return await self.lease(want)
        finally:
            # A trial that came to no verdict, say because a warm session was there, must not keep the next caller out.
            if trial is not None:
                trial.gave_up()

    async def release(self, session: PooledSession, error: BaseException | None = None) -> None:
        """Give back what `acquire` gave; `error` is how its use ended, see `give_back`.

        Idempotent: a task that gave the session back earlier does not take it from the one who holds it now.
        """
        lease, holder, task = session.holder, session.held_by, self._current_task()
        former = session.former_holders
        if lease is None or (task is not holder and former is not None and task in former):
            return
        session.holder = session.held_by = None
        # Most tasks take and give back the same session many times: that one is among the former holders already.
        if holder is not task or session.latest_holder is None or session.latest_holder() is not task:
            session.latest_holder = ref(task) if task is not None else None
            session.former_holders = former = WeakSet() if former is None else former
            former.update(each for each in (holder, task) if each is not None)
        self.give_back(lease, error)

    @asynccontextmanager
    async def session(self, url: str, headers: Mapping[str, str] | None = None, **how: Any) -> AsyncIterator[PooledSession]:
        """`acquire` and `release` around a block. How the block ends decides what becomes of the session."""
        session = await self.acquire(url, headers, **how)
        try:
            yield session
        except BaseException as error:
            await self.release(session, error)
            raise
        await self.release(session)

    @staticmethod
    def _compute_identity_hash(headers: Mapping[str, str] | None) -> str:
        return identity_hash(headers)

    def _make_pool_key(
        self,
        url: str,
        headers: Mapping[str, str] | None,
        transport_type: TransportType,
        httpx_client_factory: Callable[..., Any] | None = None,
        user_identity: str = ANONYMOUS,
    ) -> PoolKey:
        identity = identity_hash(headers)
        return PoolKey(user_identity, url, identity, transport_type.value, client_factory=httpx_client_factory)

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

    def warm(self, want: Want) -> Lease | None:
        """A lease of a session that is ready now, or None."""
        shelf = want.shelf
        if shelf is None or shelf.dropped:
            shelf = want.shelf = self._ledger.shelves.get(want.key)
        lease = self._ledger.warm(shelf, self._now()) if shelf is not None else None
        if lease is not None:
            self.stats.hits += 1
        return lease

    async def lease(self, want: Want) -> Lease:
        """A lease of a warm session of `want.key`, or of a new one. The circuit breaker is the caller's to heed.

        Raises PoolClosed; PoolExhausted after `wait_seconds` in line; UpstreamError where opening failed.
        """
        if self._closed:
            raise _closed()
        return self.warm(want) or await self._wait_in_line(want)

    async def _wait_in_line(self, want: Want) -> Lease:
        shelf = self._ledger.shelf(want.key, want.terms)
        waiter = Waiting(shelf, want.open, self._ledger.generation(shelf), self._now() + self._wait_seconds)
        if want.terms.spares:
            shelf.restock = want.open
        self.stats.misses += 1
        try:
            self._pump(shelf)
            if shelf.blocked_by is not None:
                self.stats.waits += 1
            self._sweep.watch(waiter)
            lease = await waiter.future
        except PoolExhausted:
            self.stats.timeouts += 1
            raise
        except asyncio.CancelledError:
            self._gave_up(waiter)
            raise
        finally:
            self._left(shelf, waiter)
        if lease.pooled.closed:
            raise _closed()
        return lease

    def _gave_up(self, waiter: Waiting) -> None:
        """A caller left. If a session was handed to it in the same moment, the session goes to the next in line."""
        if not waiter.future.cancel() and not waiter.future.cancelled() and waiter.future.exception() is None:
            self.give_back(waiter.future.result())

    def _left(self, shelf: Shelf, waiter: Waiting) -> None:
        self._sweep.forget(waiter)
        shelf.waiters.pop(waiter, None)
        if not shelf.waiters:
            self._blocked.drop(shelf)
            self._ledger.forget_if_empty(shelf)

    def _pass_breaker(self, key: PoolKey) -> Breaker | None:
        """Pass the breaker of the upstream, or raise CircuitOpen. It is returned to the one caller that is its trial."""
        breaker = self.breaker(place_of(key))
        pause = breaker.refuses_for(self._now())
        if pause > 0:
            raise CircuitOpen(
                f"upstream {shown(key)!r} failed repeatedly and is left alone for another {pause:.1f} s; try again after that",
                retry_after_seconds=pause,
            )
        return breaker if breaker.is_open else None

    def breaker(self, upstream: str) -> Breaker:
        """The circuit breaker of an upstream."""
        return self._breakers.of(upstream)

    # Serving those in line.

    def _pump(self, shelf: Shelf) -> None:
        """Get those in line on this shelf what they need and the limits allow: a warm session, a probed or a new one."""
        now = self._now()
        self._close(self._ledger.spoiled(shelf, now))
        self._ledger.serve(shelf, now)
        shelf.blocked_by = None
        while shelf.blocked_by is None and shelf.wanted() > 0:
            lease = self._ledger.to_probe(shelf, now)
            if lease is not None:
                self._start(self._validate_session(lease.pooled), f"probe {lease!r}", partial(self._probed, shelf, lease))
                continue
            shelf.blocked_by = self._ledger.reserve(shelf)
            if shelf.blocked_by is None:
                self._start_opening(shelf)
        self._block(shelf)

    def _block(self, shelf: Shelf) -> None:
        """Note what the shelf waits for. Where others hold its places, idle sessions make way."""
        scope = shelf.blocked_by
        if scope is None or scope == "key":
            self._blocked.drop(shelf)
            return
        self._blocked.put(shelf, scope)
        while shelf.wanted() > shelf.evicting and (victim := self._ledger.evict_for(shelf, scope)) is not None:
            self._closer.close(victim)

    def _use_room(self, key: PoolKey) -> None:
        """A place that counted for `key` came free: those whom it helps go on, first come first served."""
        tried: set[str] = set()
        while (shelf := self._blocked.next_for_place(key, tried)) is not None:
            scope = shelf.blocked_by
            self._pump(shelf)
            if scope is not None and shelf.blocked_by == scope:
                tried.add(scope)

    def _make_way(self, key: PoolKey) -> None:
        """A session of `key` went idle: it makes way if a caller elsewhere waits for its place."""
        shelf = self._blocked.next_for_eviction(key)
        if shelf is not None:
            self._block(shelf)

    def _start(self, work: Coroutine[Any, Any, Any], name: str, then: Callable[[asyncio.Task[Any]], None]) -> None:
        task = runtime.spawn(work, name)
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        # A callback rather than a `finally`: it is called as well where the task was cancelled before it began.
        task.add_done_callback(then)

    def _probed(self, shelf: Shelf, lease: Lease, task: asyncio.Task[bool]) -> None:
        """A session that idled for long was asked whether it is alive. No clear yes is a no."""
        self.stats.probes += 1
        if not task.cancelled() and task.exception() is None and task.result():
            self._took_back(lease, self._ledger.probed(lease, self._now()))
        else:
            # One budget for all: siblings that idled as long are not probed one after the other.
            self._close(self._ledger.found_dead(lease, self._now()))
        self._pump(shelf)

    async def _validate_session(self, pooled: PooledSession) -> bool:
        """Whether the session answers a ping. A time-out is a failure."""
        return await ping(pooled.session, PROBE_SECONDS)

    def _start_opening(self, shelf: Shelf) -> None:
        waiter = shelf.first_waiter()
        if not isinstance(waiter, Waiting):
            raise RuntimeError("a session is opened only for somebody in line")
        self._open(shelf, waiter.open, waiter.generation)

    def _open(self, shelf: Shelf, open: Open, generation: int) -> None:
        self._reaper.start()
        self._start(_attempt(open), f"open {shelf.key!r}", partial(self._opened, shelf, generation))

    def _restock(self, shelf: Shelf) -> None:
        """Open the spares that are missing. They make nobody wait and close nobody's session: where there is no room, none."""
        while not self._closed and shelf.missing_spares() > 0 and self._ledger.reserve(shelf) is None:
            if shelf.restock is not None:
                self._open(shelf, shelf.restock, self._ledger.generation(shelf))

    def _opened(self, shelf: Shelf, generation: int, task: asyncio.Task[PooledSession | Exception]) -> None:
        outcome = self._outcome_of(shelf, task)
        if isinstance(outcome, BaseException):
            self._ledger.not_opened(shelf)
            self._opening_failed(shelf, outcome)
            self._use_room(shelf.key)
            return
        now = self._now()
        # Jitter, so that the sessions of one burst are not all renewed in one moment.
        close_at = now + shelf.terms.max_age_seconds * random.uniform(0.9, 1.0)  # noqa: S311
        self._ledger.opened(shelf, outcome, generation, close_at, now)
        if outcome.session.closed is True:
            # Without this, a server that dies at once would be opened again and again for the one who waits.
            self._opening_failed(shelf, ConnectionLost(shown(shelf.key), "the session ended as soon as it was opened"))
            return
        self.breaker(place_of(shelf.key)).succeeded()
        if self._closed:
            # It was too late to call the opening off.
            self._close(self._ledger.end(shelf.key))
        self._pump(shelf)
        self._went_idle(outcome)

    def _outcome_of(self, shelf: Shelf, task: asyncio.Task[PooledSession | Exception]) -> PooledSession | BaseException:
        if not task.cancelled():
            return task.exception() or task.result()
        return _closed() if self._closed else ConnectFailed(shown(shelf.key), "the opening of a session was broken off")

    def _opening_failed(self, shelf: Shelf, error: BaseException) -> None:
        """Tell the one who waited for this opening, or all of them where they wait for the same session."""
        self.breaker(place_of(shelf.key)).count(error, self._now())
        while (waiter := shelf.first_waiter()) is not None:
            del shelf.waiters[waiter]
            waiter.refuse(error)
            if shelf.terms.exclusive:
                break
        self._pump(shelf)

    # Giving back.

    def give_back(self, lease: Lease, error: BaseException | None = None) -> None:
        """End a lease; `error` is how the call ended. Idempotent.

        A result, a JSON-RPC error, a time-out or a cancelled call keep the session. A lost session goes, and its older
        siblings with it. A refused credential ends this session only. A broken connection ends the session if the wire is
        gone with it, or if nobody's state is in it.
        """
        if error is None:
            to_close = self._ledger.give_back(lease, self._now())
            if to_close is not None or self._blocked.gate_of:
                self._took_back(lease, to_close)
        elif not lease.released:
            self._settle(lease, error)

    def _settle(self, lease: Lease, error: BaseException) -> None:
        shelf = lease.pooled.shelf
        if isinstance(error, UpstreamError):
            self.breaker(place_of(shelf.key)).count(error, self._now())
        if isinstance(error, SessionLost):
            self.stats.lost += 1
            self._close(self._ledger.found_dead(lease, self._now()))
            return
        broken = isinstance(error, AuthRefused) or (isinstance(error, ConnectionLost) and shelf.terms.exclusive)
        self._took_back(lease, self._ledger.give_back(lease, self._now(), not broken))

    def _took_back(self, lease: Lease, to_close: PooledSession | None) -> None:
        if to_close is not None:
            self._closer.close(to_close)
            self._restock(to_close.shelf)
        else:
            self._went_idle(lease.pooled)

    def _went_idle(self, pooled: PooledSession) -> None:
        if self._blocked.gate_of and not pooled.leases and not pooled.closed:
            self._make_way(pooled.shelf.key)

    # Closing.

    def end(self, keys: Iterable[PoolKey]) -> None:
        """Close the sessions of these keys, those on lease as they come home."""
        for key in keys:
            self._close(self._ledger.end(key))

    def drain(self, upstream: str) -> None:
        """Lend no session of `upstream` again that exists now; calls in flight finish."""
        self._close(self._ledger.drain(upstream))

    def reap(self) -> None:
        """Close what is old or was idle for too long. Runs by itself, without traffic."""
        self._close(self._ledger.due(self._now()))

    def _come_round(self) -> bool:
        self.reap()
        return self.holds_any

    def _close(self, sessions: Iterable[PooledSession]) -> None:
        for pooled in sessions:
            self._closer.close(pooled)

    def _gone(self, pooled: PooledSession) -> None:
        """A session is closed: its place is for those who wait, on its own shelf or elsewhere."""
        room_for = self._ledger.gone(pooled)
        self._use_room(pooled.shelf.key)
        self._pump(pooled.shelf)
        if room_for is not None:
            # By now another limit may hold it up, for which this place is no help: then others must make way.
            self._pump(room_for)

    async def close_all(self) -> None:
        """Close every session, concurrently and within a few seconds. Who waits is told; nothing is lent again."""
        self._closed = True
        self._reaper.stop()
        for shelf in list(self._ledger.shelves.values()):
            while (waiter := shelf.first_waiter()) is not None:
                del shelf.waiters[waiter]
                waiter.refuse(_closed())
        for task in self._work:
            task.cancel()
        if self._work:
            await asyncio.wait(list(self._work), timeout=GIVE_UP_SECONDS)
        self._close(self._ledger.retire(lambda session: True))
        self._close(self._ledger.abandon_leased())
        await self._closer.finish()
        if self._owns_opener:
            await self._opener.aclose()
        if self._owns_sweep:
            self._sweep.close()

    def get_metrics(self) -> dict[str, int]:
        """The figures: counters of `PoolStats`, and how many keys, sessions, idle and waiting there are now."""
        shelves = self._ledger.shelves.values()
        return self.stats.as_dict() | {
            "pool_key_count": len(shelves),
            "open": self._ledger.reservations.total,
            "idle": self._ledger.idle_count,
            "leased": sum(len(shelf.busy) for shelf in shelves),
            "opening": sum(shelf.opening for shelf in shelves),
            "closing": len(self._ledger.closing),
            "waiting": sum(len(shelf.waiters) for shelf in shelves),
        }

    @property
    def holds_any(self) -> bool:
        """Whether there is any session, or one on its way."""
        return self._ledger.reservations.total > 0

    @property
    def _hits(self) -> int:
        return self.stats.hits

    @property
    def _misses(self) -> int:
        return self.stats.misses


async def _attempt(open: Open) -> PooledSession | Exception:
    """What opening came to. An error is for the one who waits, not for the task that happened to meet it."""
    try:
        return await open()
    except Exception as error:
        return error


def _closed() -> PoolClosed:
    return PoolClosed("the session pool is closed: the gateway is shutting down")


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
