"""The pool against an upstream that hangs, refuses and breaks on request, on a clock that the test moves.

Not here, for the pool has no part in it: the shared TLS context (P18), tracing (P19), identity from the principal rather
than from the token's bytes (P20, beyond the key), and secrets at the edges (P21).
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import itertools
import logging
import tracemalloc
from collections.abc import AsyncIterator, Callable

import pytest

from mcpgateway.errors import (
    AuthRefused,
    BadAnswer,
    CircuitOpen,
    ConnectFailed,
    ConnectionLost,
    HttpRefused,
    PoolClosed,
    PoolExhausted,
    RpcError,
    SessionLost,
    UpstreamTimeout,
)
from mcpgateway.pool import breaker, ledger, limits, shelf
from mcpgateway.pool.breaker import FAILURES_TO_OPEN, FIRST_PAUSE_SECONDS, REMEMBERED
from mcpgateway.pool.key import PoolKey, Terms
from mcpgateway.pool.limits import Limits
from mcpgateway.pool.session import Lease, PooledSession, TransportType
from mcpgateway.runtime import Sweep
from mcpgateway.services import closing, mcp_session_pool
from mcpgateway.services.closing import CLOSE_SECONDS, CLOSES_AT_ONCE, FINISH_SECONDS
from mcpgateway.services.leasing import Want
from mcpgateway.services.mcp_session_pool import (
    MCPSessionPool,
    close_mcp_session_pool,
    get_mcp_session_pool,
    init_mcp_session_pool,
)
from mcpgateway.services.reaping import REAP_SECONDS
from tests.fakes.clock import FakeClock
from tests.fakes.upstream_session import FakeSession, FakeUpstream, InTime, key_of, quiet, until

TERMS = Terms(max_sessions=3, max_age_seconds=1000.0, max_idle_seconds=300.0, probe_after_seconds=60.0)
SHARED = TERMS._replace(exclusive=False)
WAIT_SECONDS = 30.0


class Pool(InTime, MCPSessionPool):
    """The pool, failing a test rather than letting it wait for ever."""


class World:
    """A pool with everything around it in the test's hands."""

    def __init__(self, clock: FakeClock, limits: Limits | None = None) -> None:
        self.clock = clock
        self.sweep = Sweep(clock)
        self.upstream = FakeUpstream()
        self.pool = Pool(sweep=self.sweep, limits=limits, wait_seconds=WAIT_SECONDS)

    def caller(self, key: PoolKey | None = None, terms: Terms = TERMS) -> asyncio.Task[Lease]:
        """Somebody who asks for a lease now."""
        return asyncio.create_task(self.pool.lease(self.upstream.want(key or key_of(), terms)))

    async def lease(self, key: PoolKey | None = None, terms: Terms = TERMS) -> Lease:
        return await self.pool.lease(self.upstream.want(key or key_of(), terms))

    def warm(self, key: PoolKey) -> Lease | None:
        return self.pool.warm(self.upstream.want(key))

    async def leases(self, number: int, key: PoolKey | None = None, terms: Terms = TERMS) -> list[Lease]:
        return [await self.lease(key, terms) for _ in range(number)]

    async def idle(self, number: int, key: PoolKey | None = None, terms: Terms = TERMS) -> list[FakeSession]:
        """So many idle sessions, oldest first."""
        leases = await self.leases(number, key, terms)
        for lease in leases:
            self.pool.give_back(lease)
        return [lease.session for lease in leases]

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.sweep.expire_due()

    def figure(self, name: str) -> int:
        return self.pool.get_metrics()[name]

    def figures(self, *names: str) -> list[int]:
        return [self.figure(name) for name in names]

    async def end(self) -> None:
        """Close the pool and see that nothing is left of anything."""
        for gate in (self.upstream.opening, self.upstream.pinging, self.upstream.closing):
            gate.open_up()
        await self.pool.close_all()
        await quiet()
        assert self.figures("open", "idle", "leased", "opening", "closing", "waiting", "pool_key_count") == [0] * 7
        assert self.upstream.open_now == 0
        assert all(session.ended == 1 for session in self.upstream.sessions if not self.upstream.born_dead)
        assert len(self.sweep) == 0
        self.sweep.close()


@pytest.fixture
async def world(clock: FakeClock) -> AsyncIterator[World]:
    world = World(clock)
    yield world
    await world.end()


@pytest.fixture
async def small(clock: FakeClock) -> AsyncIterator[World]:
    """A pool with four places in all, three for an upstream and two for a principal."""
    world = World(clock, Limits(total=4, per_upstream=3, per_principal=2))
    yield world
    await world.end()


async def test_a_session_is_opened_once_and_lent_again(world: World) -> None:
    for _ in range(5):
        lease = world.warm(key_of()) or await world.lease()
        world.pool.give_back(lease)
    assert len(world.upstream.sessions) == 1
    assert world.figures("hits", "misses", "opened") == [4, 1, 1]


# P1: who waits.


async def test_p1_a_session_that_comes_home_goes_to_the_first_in_line_at_once(world: World) -> None:
    leases = await world.leases(3)
    callers = [world.caller() for _ in range(3)]
    await quiet()
    for lease, caller in zip(leases, callers, strict=True):
        assert not caller.done()
        world.pool.give_back(lease)
        assert world.warm(key_of()) is None
        await quiet()
        assert (await caller).session is lease.session


async def test_p1_a_caller_that_gives_up_keeps_no_place(world: World) -> None:
    first, *_ = await world.leases(3)
    gone, patient = world.caller(), world.caller()
    await quiet()
    gone.cancel()
    await quiet()
    assert world.figure("waiting") == 1
    world.pool.give_back(first)
    assert (await patient).session is first.session


async def test_p1_a_caller_that_leaves_in_the_same_moment_is_skipped(world: World) -> None:
    first, *_ = await world.leases(3)
    gone, patient = world.caller(), world.caller()
    await quiet()
    gone.cancel()  # it has not run yet: to the eye it still stands in line
    world.pool.give_back(first)
    assert (await patient).session is first.session


async def test_p1_a_caller_whose_time_is_over_is_told_why_and_keeps_no_place(world: World) -> None:
    first, *_ = await world.leases(3)
    late = world.caller()
    await quiet()
    world.pass_time(WAIT_SECONDS)
    with pytest.raises(PoolExhausted, match=r"'crm'.*max_sessions_per_key is reached"):
        await late
    assert world.figures("waiting", "timeouts") == [0, 1]
    world.pool.give_back(first)
    assert world.figure("idle") == 1


async def test_p1_a_caller_whose_session_is_not_opened_in_time_is_told_so(world: World) -> None:
    world.upstream.opening.shut = True
    late = world.caller()
    await quiet()
    world.pass_time(WAIT_SECONDS)
    with pytest.raises(PoolExhausted, match="none was opened in time"):
        await late
    world.upstream.opening.let()
    await quiet()
    assert world.figure("idle") == 1


async def test_p1_callers_are_served_in_the_order_in_which_they_came(world: World) -> None:
    world.upstream.opening.shut = True
    served: list[int] = []

    async def call(number: int) -> None:
        lease = await world.lease()
        served.append(number)
        world.pool.give_back(lease)

    callers = [asyncio.create_task(call(number)) for number in range(20)]
    await quiet()
    world.upstream.opening.open_up()
    await asyncio.gather(*callers)
    assert served == list(range(20))


async def test_a_caller_does_not_wait_while_a_good_session_lies_under_a_dead_one(world: World) -> None:
    under, top = await world.idle(2)
    top.closed = True
    assert (await world.lease()).session is under
    assert world.upstream.openings == 2


# P2: giving back.


async def test_p2_a_second_release_does_not_lend_the_session_twice(world: World) -> None:
    lease = await world.lease()
    world.pool.give_back(lease)
    second = await world.lease()
    world.pool.give_back(lease)
    world.pool.give_back(lease, SessionLost("crm", "gone"))
    third = await world.lease()
    assert second.session is lease.session and third.session is not second.session
    world.pool.give_back(second)
    assert world.figures("idle", "lost") == [1, 0]


async def test_p2_a_former_holder_does_not_end_the_lease_of_the_next(world: World) -> None:
    pool = Contract(world)
    session = await pool.acquire("http://crm.test/mcp")
    await pool.release(session)
    taken, finished = asyncio.Event(), asyncio.Event()

    async def next_holder() -> None:
        assert await pool.acquire("http://crm.test/mcp") is session
        taken.set()
        await finished.wait()
        await pool.release(session)

    holder = asyncio.create_task(next_holder())
    await taken.wait()
    await pool.release(session)
    assert session.state == "leased"
    assert await pool.acquire("http://crm.test/mcp") is not session
    finished.set()
    await holder
    assert session.state == "idle"
    await pool.close_all()


async def test_p2_a_session_may_be_released_by_another_task_than_the_one_that_acquired_it(world: World) -> None:
    pool = Contract(world)
    session = await pool.acquire("http://crm.test/mcp")
    await asyncio.create_task(pool.release(session))
    await asyncio.create_task(pool.release(session))
    await pool.release(session)
    assert session.state == "idle"
    await pool.close_all()


# P3: cancellation.


async def test_p3_a_session_handed_to_a_caller_that_is_cancelled_goes_to_the_next(world: World) -> None:
    lease, *_ = await world.leases(3)
    for _ in range(100):
        gone, patient = world.caller(), world.caller()
        await quiet()
        world.pool.give_back(lease)  # the first in line has it now
        gone.cancel()
        lease = await patient
        assert gone.cancelled() or await _is_cancelled(gone)
    assert world.figures("leased", "waiting", "opening") == [3, 0, 0]


async def test_p3_a_session_handed_to_the_only_caller_when_it_is_cancelled_is_idle(world: World) -> None:
    lease, *_ = await world.leases(3)
    for _ in range(100):
        gone = world.caller()
        await quiet()
        world.pool.give_back(lease)
        gone.cancel()
        await _is_cancelled(gone)
        assert world.figures("leased", "idle", "waiting") == [2, 1, 0]
        lease = await world.lease()


async def test_p3_cancelled_in_line_costs_nothing(world: World) -> None:
    leases = await world.leases(3)
    for _ in range(100):
        callers = [world.caller() for _ in range(3)]
        await quiet()
        for caller in callers:
            caller.cancel()
            await _is_cancelled(caller)
    assert world.figures("waiting", "leased", "open") == [0, 3, 3]
    assert len(world.sweep) == 1  # the reaper alone
    for lease in leases:
        world.pool.give_back(lease)


async def test_p3_cancelled_while_its_session_is_opened_the_session_is_there_for_the_next(world: World) -> None:
    world.upstream.opening.shut = True
    for round_ in range(100):
        key = key_of(f"user-{round_}")
        gone = world.caller(key)
        await until(lambda: bool(world.upstream.opening.held))
        gone.cancel()
        await _is_cancelled(gone)
        world.upstream.opening.let()
        await quiet()
        lease = world.warm(key)
        assert lease is not None
        world.pool.give_back(lease, AuthRefused("crm", "no", status=401))
        await until(lambda: world.figure("open") == 0)
    assert world.figure("pool_key_count") == 0


async def test_p3_cancelled_in_the_same_moment_as_its_session_is_open(world: World) -> None:
    world.upstream.opening.shut = True
    for turns in range(100):
        key = key_of(f"user-{turns}")
        gone = world.caller(key)
        await until(lambda: bool(world.upstream.opening.held))
        world.upstream.opening.let()
        await quiet(turns % 6)
        if gone.cancel():
            await _is_cancelled(gone)
        else:
            world.pool.give_back(await gone)
        await quiet()
        assert world.figures("idle", "leased", "opening") == [turns + 1, 0, 0]


async def test_p3_cancelled_while_its_session_is_probed_the_session_is_kept(world: World) -> None:
    world.upstream.pinging.shut = True
    terms = Terms(probe_after_seconds=60.0)
    (session,) = await world.idle(1, terms=terms)
    for _ in range(100):
        world.pass_time(61)
        gone = world.caller(terms=terms)
        await until(lambda: bool(world.upstream.pinging.held))
        gone.cancel()
        await _is_cancelled(gone)
        world.upstream.pinging.let()
        await quiet()
        assert world.figures("idle", "leased", "open") == [1, 0, 1]
    assert world.upstream.sessions == [session]


async def test_p3_cancelled_while_room_is_made_for_it_the_room_is_free(small: World) -> None:
    small.upstream.closing.shut = True
    for round_ in range(100):
        await small.idle(2, key_of("alice", partition=str(round_)))
        gone = small.caller(key_of("alice", "files"))
        await until(lambda: bool(small.upstream.closing.held))
        gone.cancel()
        await _is_cancelled(gone)
        small.upstream.closing.let()
        await quiet()
        assert small.figures("open", "waiting", "closing") == [1, 0, 0]
        lease = small.warm(key_of("alice", partition=str(round_)))
        assert lease is not None
        small.pool.give_back(lease, AuthRefused("crm", "no", status=401))
        await quiet()
        small.upstream.closing.let()
        await until(lambda: small.upstream.open_now == 0)
    assert not small.pool._blocked.gate_of


async def test_p3_the_pool_closed_before_an_opening_began_leaves_no_place_taken(world: World) -> None:
    caller = world.caller()
    await asyncio.sleep(0)  # it stands in line, and the task that opens for it has not run yet
    assert world.upstream.openings == 0 and world.figure("opening") == 1
    await world.pool.close_all()
    with pytest.raises(PoolClosed):
        await caller
    assert world.figures("open", "opening") == [0, 0]


# P4: limits.


@pytest.mark.parametrize(
    ("keys", "allowed"),
    [
        (["alice crm"], 3),
        ([f"alice crm {number}" for number in range(40)], 2),
        ([f"user-{number} crm" for number in range(40)], 3),
        ([f"user-{number} up-{number}" for number in range(40)], 4),
    ],
    ids=["key", "principal", "upstream", "total"],
)
async def test_p4_never_more_open_than_allowed(small: World, keys: list[str], allowed: int) -> None:
    terms = TERMS._replace(max_sessions=3)
    small.pool._ledger.reservations.limits = Limits(4, 3, 3 if len(keys) == 1 else 2)

    async def call(key: PoolKey) -> None:
        lease = await small.lease(key, terms)
        assert lease.session.key == key
        await quiet(3)
        small.pool.give_back(lease)

    names = itertools.islice(itertools.cycle(keys), 40)
    await asyncio.gather(*(call(key_of(*name.split())) for name in names))
    assert small.upstream.most_open == allowed
    assert small.figures("waiting", "leased") == [0, 0]


async def test_p4_a_session_takes_its_place_until_it_is_closed(world: World) -> None:
    world.upstream.closing.shut = True
    leases = await world.leases(3)
    waiting = world.caller()
    world.pool.give_back(leases[0], AuthRefused("crm", "no", status=401))
    await quiet()
    assert not waiting.done() and world.upstream.most_open == 3
    world.upstream.closing.let()
    await waiting
    assert world.upstream.most_open == 3


async def test_p4_the_least_recently_used_idle_session_makes_room(small: World) -> None:
    sessions = []
    for number in range(3):
        sessions += await small.idle(1, key_of(f"user-{number}", f"up-{number}"))
        small.clock.advance(1)
    first, second, third = sessions
    await small.lease(key_of("user-9", "up-9"))
    used_again = await small.lease(first.key)
    small.pool.give_back(used_again)
    await small.lease(key_of("bob", "files"))
    assert (first.closed, second.closed, third.closed) == (False, True, False)
    assert small.figure("evicted") == 1


async def test_p4_work_in_flight_is_never_evicted(small: World) -> None:
    held = [await small.lease(key_of(f"user-{number}", f"up-{number}")) for number in range(4)]
    late = small.caller(key_of("bob", "files"))
    await quiet()
    small.pass_time(WAIT_SECONDS)
    with pytest.raises(PoolExhausted, match=r"session_pool\.max_sessions is reached"):
        await late
    assert not any(lease.session.closed for lease in held)


async def test_p4_those_who_wait_for_a_place_elsewhere_are_served_first_come_first_served(small: World) -> None:
    held = [await small.lease(key_of(f"user-{number}", f"up-{number}")) for number in range(4)]
    served: list[str] = []

    async def call(name: str) -> None:
        lease = await small.lease(key_of(name, f"of-{name}"))
        served.append(name)
        small.pool.give_back(lease)

    callers = []
    for name in ("ann", "ben", "cat", "dan", "eve"):
        callers.append(asyncio.create_task(call(name)))
        await quiet()
    for lease in held:
        small.pool.give_back(lease)
    await asyncio.gather(*callers)
    assert served == ["ann", "ben", "cat", "dan", "eve"]
    assert small.upstream.most_open == 4


async def test_p4_one_key_with_many_in_line_does_not_keep_others_waiting(small: World) -> None:
    held = [await small.lease(key_of(f"user-{number}", f"up-{number}")) for number in range(4)]
    greedy = key_of("ann", "of-ann")
    callers = [small.caller(greedy), small.caller(key_of("ben", "of-ben")), small.caller(greedy)]
    await quiet()
    small.pool.give_back(held[0])
    await callers[0]
    small.pool.give_back(held[1])
    await callers[1]
    assert not callers[2].done()
    small.pool.give_back(held[2])
    await callers[2]


async def test_p4_a_full_scope_does_not_hold_up_those_whom_it_does_not_concern(small: World) -> None:
    alices = [await small.lease(key_of("alice", f"up-{number}")) for number in range(2)]
    blocked = small.caller(key_of("alice", "files"))
    await quiet()
    assert await small.lease(key_of("bob", "files"))
    assert not blocked.done()
    small.pool.give_back(alices[0])
    await blocked
    assert small.figures("evicted", "open") == [1, 3]


async def test_p4_room_for_several_is_made_at_once(small: World) -> None:
    small.upstream.closing.shut = True
    for number in range(4):
        await small.idle(1, key_of(f"user-{number}", f"up-{number}"))
    callers = [small.caller(key_of(f"other-{number}", f"of-{number}")) for number in range(3)]
    await quiet()
    assert small.figures("closing", "idle") == [3, 1]
    small.upstream.closing.open_up()
    await asyncio.gather(*callers)
    assert small.upstream.most_open == 4


# P5: failures.


async def test_p5_after_any_number_of_failures_every_place_is_free(small: World) -> None:
    small.upstream.opening.refuses_with = ConnectFailed("crm", "nobody is there")
    for number in range(200):
        with pytest.raises(ConnectFailed):
            await small.lease(key_of(f"user-{number % 7}", f"up-{number % 5}"))
    assert small.figures("open", "opening", "waiting", "pool_key_count") == [0] * 4
    small.upstream.opening.refuses_with = None
    leases = [await small.lease(key_of(f"user-{number}", f"up-{number}")) for number in range(4)]
    assert len({lease.session for lease in leases}) == 4


async def test_p5_a_failed_opening_is_told_to_one_and_the_next_in_line_has_its_own(world: World) -> None:
    world.upstream.opening.shut = True
    callers = [world.caller() for _ in range(5)]
    await until(lambda: len(world.upstream.opening.held) == 3)
    world.upstream.opening.let(ConnectFailed("crm", "nobody is there"))
    with pytest.raises(ConnectFailed):
        await callers[0]
    await until(lambda: len(world.upstream.opening.held) == 3)
    world.upstream.opening.open_up()
    await asyncio.gather(*callers[1:4])
    world.pool.give_back(callers[1].result())
    await callers[4]


@pytest.mark.parametrize("error", [asyncio.CancelledError(), BaseExceptionGroup("", [asyncio.CancelledError()])], ids=repr)
async def test_p5_an_opening_that_breaks_in_an_unusual_way_is_told_and_its_place_free(
    world: World, error: BaseException
) -> None:
    world.upstream.opening.refuses_with = error
    expected = ConnectFailed if isinstance(error, asyncio.CancelledError) else BaseExceptionGroup
    with pytest.raises(expected):
        await world.lease()
    await quiet()
    assert world.figures("open", "opening") == [0, 0]


async def test_p5_a_server_that_dies_at_once_is_not_opened_again_and_again(world: World) -> None:
    world.upstream.born_dead = True
    with pytest.raises(ConnectionLost, match="ended as soon as it was opened"):
        await world.lease()
    await quiet()
    assert world.upstream.openings == 1
    assert world.figure("open") == 0


async def test_a_session_whose_age_is_nothing_serves_one_call(world: World) -> None:
    terms = TERMS._replace(max_age_seconds=0.0)
    lease = await world.lease(terms=terms)
    world.pass_time(1)
    world.pool.give_back(lease)
    await quiet()
    assert world.figures("open", "opened") == [0, 1]


# P6, P7: time.


async def test_p6_idle_sessions_are_closed_without_traffic(world: World) -> None:
    await world.idle(3)
    for _ in range(int(300 / REAP_SECONDS) + 2):
        world.pass_time(REAP_SECONDS * 1.2)
    await until(lambda: world.figure("open") == 0)
    assert world.figures("pool_key_count", "closed") == [0, 3]


async def test_p6_the_reaper_rests_while_there_is_nothing_to_reap(world: World) -> None:
    await world.idle(1)
    assert len(world.sweep) == 1
    world.pass_time(301)
    await until(lambda: world.figure("open") == 0)
    world.pass_time(REAP_SECONDS * 2)
    assert len(world.sweep) == 0
    await world.idle(1)
    assert len(world.sweep) == 1


async def test_p6_a_session_that_never_rests_is_replaced_when_it_is_old(world: World) -> None:
    old = await world.lease(terms=SHARED)
    world.pass_time(1001)
    new = await world.lease(terms=SHARED)
    assert new.session is not old.session and not old.session.closed
    world.pool.give_back(old)
    await until(lambda: old.session.closed)


async def test_p6_sessions_of_one_burst_are_not_all_renewed_in_one_moment(world: World) -> None:
    leases = [await world.lease(key_of(f"user-{number}")) for number in range(50)]
    assert len({lease.pooled.close_at for lease in leases}) > 25
    assert all(900 <= lease.pooled.close_at - world.clock.now() <= 1000 for lease in leases)


async def test_p7_the_spares_of_a_burst_age_out(world: World) -> None:
    await world.idle(3)
    for _ in range(80):
        world.pool.give_back(await world.lease())
        world.pass_time(REAP_SECONDS)
    await quiet()
    assert world.figures("open", "idle", "closed") == [1, 1, 2]


# P8: closing.


async def test_p8_fifty_slow_closers_are_closed_together_and_hold_up_nobody(world: World) -> None:
    for number in range(50):
        await world.idle(1, key_of(f"user-{number}"))
    world.upstream.closing.shut = True
    world.pool.drain("crm")
    await until(lambda: world.upstream.closings == 50)
    assert await world.lease()
    world.pass_time(CLOSE_SECONDS)
    await until(lambda: world.figure("closing") == 0)
    assert world.upstream.open_now == 1


async def test_p8_the_end_of_the_pool_is_bounded_however_many_hang(world: World) -> None:
    number = CLOSES_AT_ONCE * 3
    for each in range(number):
        await world.idle(1, key_of(f"user-{each}", f"up-{each}"))
    world.upstream.closing.shut = True
    ending = asyncio.create_task(world.pool.close_all())
    await until(lambda: world.upstream.closings == CLOSES_AT_ONCE)
    world.pass_time(CLOSE_SECONDS)
    await until(lambda: world.upstream.closings == CLOSES_AT_ONCE * 2)
    assert not ending.done()
    world.pass_time(FINISH_SECONDS - CLOSE_SECONDS)
    await ending
    assert world.figure("open") == 0
    world.upstream.open_now = 0  # those whose turn never came were dropped unasked
    for session in world.upstream.sessions:
        session.ended = 1


async def test_p8_the_end_of_the_pool_tells_everybody_and_closes_everything(small: World) -> None:
    small.upstream.opening.shut = True
    opening = small.caller(key_of("alice"))
    await until(lambda: bool(small.upstream.opening.held))
    small.upstream.opening.shut = False
    held = [await small.lease(key_of(name, f"of-{name}")) for name in ("ann", "ben", "cat")]
    in_line = [small.caller(key_of(name, f"of-{name}")) for name in ("dan", "eve")]
    await quiet()
    await small.pool.close_all()
    for caller in (opening, *in_line):
        with pytest.raises(PoolClosed):
            await caller
    with pytest.raises(PoolClosed):
        await small.lease()
    assert all(lease.session.closed for lease in held)
    for lease in held:
        small.pool.give_back(lease, SessionLost("crm", "gone"))


async def test_p8_the_end_of_the_pool_while_all_openings_hang_does_not_begin_new_ones(world: World) -> None:
    world.upstream.opening.shut = True
    callers = [world.caller() for _ in range(10)]
    await until(lambda: len(world.upstream.opening.held) == 3)
    await world.pool.close_all()
    assert world.upstream.openings == 3
    assert all([await _is_closed(caller) for caller in callers])


async def test_p8_an_opening_that_cannot_be_called_off_is_closed_as_soon_as_it_is_there(world: World) -> None:
    landing = asyncio.Event()

    async def open() -> PooledSession:
        try:
            await landing.wait()
        except asyncio.CancelledError:
            await landing.wait()
        return await world.upstream.opens(key_of())()

    caller = asyncio.create_task(world.pool.lease(Want(key_of(), TERMS, open)))
    await until(lambda: world.figure("opening") == 1)
    await quiet()
    ending = asyncio.create_task(world.pool.close_all())
    await quiet()
    assert await _is_closed(caller)
    landing.set()
    await ending
    assert world.upstream.openings == 1 and world.figure("open") == 0


async def test_p8_a_lease_granted_as_the_pool_ends_is_not_of_a_closed_session(world: World) -> None:
    lease, *_ = await world.leases(3)
    caller = world.caller()
    await quiet()
    world.pool.give_back(lease)
    await world.pool.close_all()
    assert await _is_closed(caller)


async def test_after_its_end_a_pool_with_a_sweep_of_its_own_keeps_no_timer() -> None:
    upstream = FakeUpstream()
    pool = MCPSessionPool()
    pool.give_back(await pool.lease(upstream.want(key_of())))
    await pool.close_all()
    assert len(pool._sweep) == 0 and pool._sweep._timer is None


# P9: draining.


async def test_p9_drain_ends_reuse_and_lets_leases_finish(world: World) -> None:
    held, idle = await world.leases(2)
    world.pool.give_back(idle)
    world.pool.drain("crm")
    await until(lambda: idle.session.closed)
    assert not held.session.closed
    after = await world.lease()
    assert after.session not in (held.session, idle.session)
    world.pool.give_back(held)
    await until(lambda: held.session.closed)
    world.pool.give_back(after)
    await quiet()
    assert world.figures("open", "idle", "closed") == [1, 1, 2]


async def test_p9_drain_concerns_one_upstream(world: World) -> None:
    (here,), (elsewhere,) = await world.idle(1), await world.idle(1, key_of(upstream="files"))
    world.pool.drain("crm")
    await until(lambda: here.closed)
    assert not elsewhere.closed


@pytest.mark.parametrize("terms", [TERMS, SHARED], ids=["exclusive", "shared"])
async def test_p9_a_session_drained_while_it_is_opened_is_only_for_those_who_were_in_line(world: World, terms: Terms) -> None:
    world.upstream.opening.shut = True
    before = world.caller(terms=terms)
    await until(lambda: bool(world.upstream.opening.held))
    world.pool.drain("crm")
    after = world.caller(terms=terms)
    await quiet()
    world.upstream.opening.let()
    old = await before
    await until(lambda: bool(world.upstream.opening.held))
    world.upstream.opening.open_up()
    assert (await after).session is not old.session
    world.pool.give_back(old)
    await until(lambda: old.session.closed)


async def test_p9_a_session_drained_while_it_is_opened_for_nobody_is_closed(world: World) -> None:
    world.upstream.opening.shut = True
    gone = world.caller()
    await until(lambda: bool(world.upstream.opening.held))
    gone.cancel()
    world.pool.end([key_of()])
    world.upstream.opening.let()
    await until(lambda: world.figure("closed") == 1)
    assert world.figure("open") == 0


async def test_p9_a_session_drained_while_it_is_probed_is_closed(world: World) -> None:
    (session,) = await world.idle(1)
    world.pass_time(61)
    world.upstream.pinging.shut = True
    caller = world.caller()
    await until(lambda: bool(world.upstream.pinging.held))
    world.pool.drain("crm")
    world.upstream.pinging.let()
    assert (await caller).session is not session
    await until(lambda: session.closed)


async def test_the_end_of_a_conversation_ends_its_sessions_as_they_come_home(world: World) -> None:
    held = await world.lease(terms=SHARED)
    (other,) = await world.idle(1, key_of(partition="other"))
    world.pool.end([key_of()])
    await quiet()
    assert not held.session.closed
    world.pool.give_back(held)
    await until(lambda: held.session.closed)
    assert not other.closed


# P10: the breaker.


async def test_p10_failures_of_authentication_never_open_the_breaker(world: World) -> None:
    refused = AuthRefused("crm", "401", status=401)
    for number in range(FAILURES_TO_OPEN * 2):
        lease = await world.lease(key_of(f"user-{number}"))
        world.pool.give_back(lease, refused)
        world.upstream.opening.refuses_with = refused
        with pytest.raises(AuthRefused):
            await world.lease(key_of("eve"))
        world.upstream.opening.refuses_with = None
    assert not world.pool.breaker("crm").is_open
    await until(lambda: world.figure("open") == 0)


async def test_p10_an_open_breaker_refuses_and_lets_one_trial_through(world: World) -> None:
    pool = Contract(world)
    world.upstream.opening.refuses_with = ConnectFailed("crm", "nobody is there")
    for _ in range(FAILURES_TO_OPEN):
        with pytest.raises(ConnectFailed):
            await pool.acquire("http://crm.test/mcp")
    with pytest.raises(CircuitOpen) as refused:
        await pool.acquire("http://crm.test/mcp")
    assert 0 < refused.value.retry_after_seconds <= FIRST_PAUSE_SECONDS
    world.pass_time(FIRST_PAUSE_SECONDS)
    world.upstream.opening.shut, world.upstream.opening.refuses_with = True, None
    trial = asyncio.create_task(pool.acquire("http://crm.test/mcp"))
    await until(lambda: bool(world.upstream.opening.held))
    with pytest.raises(CircuitOpen):
        await pool.acquire("http://crm.test/mcp")
    world.upstream.opening.open_up()
    await pool.release(await trial)
    assert await pool.acquire("http://crm.test/mcp") is await trial
    await pool.close_all()


async def test_p10_a_trial_that_needs_no_opening_does_not_shut_the_door_for_good(world: World) -> None:
    pool = Contract(world)
    session = await pool.acquire("http://crm.test/mcp")
    await pool.release(session)
    breaker = pool.breaker("http://crm.test/mcp")
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed(world.clock.now())
    world.pass_time(FIRST_PAUSE_SECONDS)
    for _ in range(3):
        await pool.release(await pool.acquire("http://crm.test/mcp"))
    await pool.close_all()


# P11, P12: probes.


async def test_p11_a_session_that_idled_for_long_is_probed_and_one_that_did_not_is_not(world: World) -> None:
    (session,) = await world.idle(1)
    world.pass_time(60)
    world.pool.give_back(await world.lease())
    assert world.upstream.pinged == []
    world.pass_time(61)
    assert (await world.lease()).session is session
    assert world.upstream.pinged == [session]


@pytest.mark.parametrize(
    "failure", [UpstreamTimeout("crm", "silence"), ConnectionLost("crm", "cut"), SessionLost("crm", "404")], ids=repr
)
async def test_p11_a_probe_that_fails_or_times_out_means_dead(world: World, failure: Exception) -> None:
    (session,) = await world.idle(1)
    world.pass_time(61)
    world.upstream.pinging.refuses_with = failure
    assert (await world.lease()).session is not session
    await until(lambda: session.closed)


async def test_p11_an_error_answer_to_a_probe_is_an_answer(world: World) -> None:
    (session,) = await world.idle(1)
    world.pass_time(61)
    world.upstream.pinging.refuses_with = RpcError.of(-32601, "what is a ping?")
    assert (await world.lease()).session is session


async def test_p12_one_failed_probe_ends_the_siblings_too(world: World) -> None:
    sessions = await world.idle(3)
    world.pass_time(61)
    world.upstream.pinging.refuses_with = UpstreamTimeout("crm", "silence")
    assert (await world.lease()).session not in sessions
    assert len(world.upstream.pinged) == 1
    await until(lambda: all(session.closed for session in sessions))


async def test_p12_many_callers_spend_one_probe_budget(world: World) -> None:
    sessions = await world.idle(3)
    world.pass_time(61)
    world.upstream.pinging.shut = True
    callers = [world.caller() for _ in range(3)]
    await until(lambda: len(world.upstream.pinging.held) == 3)
    for _ in range(3):
        world.upstream.pinging.let(UpstreamTimeout("crm", "silence"))
    leases = await asyncio.gather(*callers)
    assert not {lease.session for lease in leases} & set(sessions)


async def test_p12_a_shared_session_is_lent_to_nobody_until_it_was_probed(world: World) -> None:
    (session,) = await world.idle(1, terms=SHARED)
    world.pass_time(61)
    world.upstream.pinging.shut = True
    callers = [world.caller(terms=SHARED) for _ in range(8)]
    await until(lambda: bool(world.upstream.pinging.held))
    assert world.warm(key_of()) is None
    assert len(world.upstream.pinging.held) == 1
    world.upstream.pinging.open_up()
    leases = await asyncio.gather(*callers)
    assert {lease.session for lease in leases} == {session}


# P13, P14: what an outcome does.

KEPT = (
    RpcError.of(-32000, "no"),
    UpstreamTimeout("crm", "silence"),
    HttpRefused("crm", "500", status=500),
    BadAnswer("crm", "gibberish"),
    ConnectFailed("crm", "refused"),
    asyncio.CancelledError(),
    ValueError("a fault of ours"),
)
ENDED = (SessionLost("crm", "404"), AuthRefused("crm", "401", status=401))


@pytest.mark.parametrize("terms", [TERMS, SHARED], ids=["exclusive", "shared"])
@pytest.mark.parametrize("error", KEPT, ids=lambda error: type(error).__name__)
async def test_p13_such_an_outcome_keeps_the_session(world: World, error: BaseException, terms: Terms) -> None:
    lease = await world.lease(terms=terms)
    world.pool.give_back(lease, error)
    assert (await world.lease(terms=terms)).session is lease.session


@pytest.mark.parametrize("terms", [TERMS, SHARED], ids=["exclusive", "shared"])
@pytest.mark.parametrize("error", ENDED, ids=lambda error: type(error).__name__)
async def test_p13_such_an_outcome_ends_the_session(world: World, error: BaseException, terms: Terms) -> None:
    lease = await world.lease(terms=terms)
    world.pool.give_back(lease, error)
    assert (await world.lease(terms=terms)).session is not lease.session
    await until(lambda: lease.session.closed)


@pytest.mark.parametrize(("terms", "kept"), [(TERMS, False), (SHARED, True)], ids=["exclusive", "shared"])
async def test_p13_a_broken_connection_keeps_a_session_only_where_it_may_hold_state(
    world: World, terms: Terms, kept: bool
) -> None:
    lease = await world.lease(terms=terms)
    world.pool.give_back(lease, ConnectionLost("crm", "cut"))
    assert ((await world.lease(terms=terms)).session is lease.session) is kept


@pytest.mark.parametrize("terms", [TERMS, SHARED], ids=["exclusive", "shared"])
async def test_p14_a_session_whose_wire_is_gone_is_not_lent_again(world: World, terms: Terms) -> None:
    for error in (None, ConnectionLost("crm", "cut"), UpstreamTimeout("crm", "silence")):
        lease = await world.lease(terms=terms)
        lease.session.closed = True
        world.pool.give_back(lease, error)
        assert (await world.lease(terms=terms)).session is not lease.session


async def test_p14_a_session_whose_wire_broke_while_it_was_idle_is_not_lent(world: World) -> None:
    sessions = await world.idle(3)
    for session in sessions:
        session.closed = True
    assert world.warm(key_of()) is None
    assert (await world.lease()).session not in sessions


async def test_p14_a_lost_session_takes_its_older_siblings_with_it_but_not_its_successors(world: World) -> None:
    first, older, newer = await world.leases(2) + [None]
    world.pool.give_back(older)
    world.clock.advance(1)
    newer = await world.lease(terms=TERMS)
    assert newer.session is older.session
    world.clock.advance(1)
    newest = await world.lease()
    world.pool.give_back(newer, SessionLost("crm", "404"))
    world.pool.give_back(newest)
    world.pool.give_back(first)
    await until(lambda: first.session.closed and newer.session.closed)
    assert not newest.session.closed
    assert world.figures("lost", "idle") == [1, 1]


async def test_p14_a_late_word_of_the_same_loss_does_not_end_the_new_session(world: World) -> None:
    first, second = await world.lease(terms=SHARED), await world.lease(terms=SHARED)
    world.pool.give_back(first, SessionLost("crm", "404"))
    world.clock.advance(1)
    renewed = await world.lease(terms=SHARED)
    world.pool.give_back(second, SessionLost("crm", "404"))
    world.pool.give_back(renewed)
    await quiet()
    assert not renewed.session.closed and world.figures("open", "idle") == [1, 1]


async def test_p14_the_block_form_tells_the_pool_how_it_ended(world: World) -> None:
    pool = Contract(world)
    with pytest.raises(SessionLost):
        async with pool.session("http://crm.test/mcp") as lost:
            raise SessionLost("crm", "404")
    async with pool.session("http://crm.test/mcp") as session:
        assert session is not lost
    await pool.close_all()


# P15: one pool per process.


async def test_p15_a_second_pool_for_the_process_is_refused() -> None:
    await close_mcp_session_pool()
    pool = init_mcp_session_pool(max_sessions_per_key=2)
    try:
        with pytest.raises(RuntimeError, match="initialized already"):
            init_mcp_session_pool()
        assert get_mcp_session_pool() is pool and pool.terms.max_sessions == 2
    finally:
        await close_mcp_session_pool()
    with pytest.raises(RuntimeError, match="not initialized"):
        get_mcp_session_pool()


# P16: memory.


async def test_p16_ten_thousand_keys_come_and_go_and_nothing_is_left(world: World) -> None:
    for number in range(10_000):
        key = key_of(f"user-{number % 97}", f"up-{number}", f"bound:{number}")
        world.pool.give_back(await world.pool.lease(world.upstream.want(key, SHARED)))
        world.pool.end([key])
        if number % 100 == 99:
            await until(lambda: world.figure("closing") == 0)
    pool = world.pool
    assert not pool._ledger.shelves and not pool._ledger.closing and not pool._blocked.gate_of and not pool._work
    assert repr(pool._ledger.reservations) == "<Reservations 0/10000, 0 principals>"
    assert len(pool._breakers) <= REMEMBERED


async def test_p16_urls_that_fail_leave_no_breaker_each(world: World) -> None:
    pool = Contract(world)
    world.upstream.opening.refuses_with = ConnectFailed("?", "nobody is there")
    kept = pool.breaker("crm")
    for number in range(REMEMBERED * 2):
        with pytest.raises(ConnectFailed):
            await pool.acquire(f"http://{number}.test/mcp")
    gc.collect()
    assert len(pool._breakers) <= REMEMBERED + 1
    assert pool.breaker("crm") is kept
    await pool.close_all()


# P17: clocks.


def test_p17_nothing_here_reads_the_wall_clock() -> None:
    for module in (breaker, closing, ledger, limits, mcp_session_pool, shelf):
        source = inspect.getsource(module)
        assert "time.time" not in source and "datetime" not in source and "loop.time" not in source


async def test_p17_sessions_age_by_the_pools_own_clock(world: World) -> None:
    (session,) = await world.idle(1)
    world.pool.reap()
    assert world.figure("idle") == 1
    world.clock.advance(300)
    world.pool.reap()
    await until(lambda: session.closed)


# P18: what a session costs here.


async def test_p18_the_pool_needs_less_than_four_kilobytes_for_a_session(world: World) -> None:
    number = 500
    keys = [key_of(f"user-{each // 50}", "crm", f"bound:{each}") for each in range(number)]
    await world.idle(1, key_of("first"))
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for key in keys:
            await world.idle(1, key, SHARED)
        gc.collect()
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert used / number < 4096


# P20, P21: who, and what is never shown.


async def test_p20_a_principal_whose_credential_upstream_is_the_same_keeps_its_session(world: World) -> None:
    pool = Contract(world)
    for trace in ("a", "b", "c"):
        headers = {"Authorization": "Bearer for-crm", "traceparent": trace, "X-Request-Id": trace}
        await pool.release(await pool.acquire("http://crm.test/mcp", headers, user_identity="alice"))
    assert pool.get_metrics()["opened"] == 1
    await pool.close_all()


async def test_i1_two_users_behind_one_credential_have_two_sessions(world: World) -> None:
    pool = Contract(world)
    headers = {"Authorization": "Bearer for-all"}
    alices = await pool.acquire("http://crm.test/mcp", headers, user_identity="alice")
    await pool.release(alices)
    assert await pool.acquire("http://crm.test/mcp", headers, user_identity="bob") is not alices
    await pool.close_all()


async def test_i7_callers_with_http_clients_of_their_own_do_not_meet(world: World) -> None:
    pool = Contract(world)
    mine = await pool.acquire("http://crm.test/mcp", httpx_client_factory=FakeUpstream)
    await pool.release(mine)
    assert await pool.acquire("http://crm.test/mcp") is not mine
    assert await pool.acquire("http://crm.test/mcp", httpx_client_factory=World) is not mine
    assert await pool.acquire("http://crm.test/mcp", httpx_client_factory=FakeUpstream) is mine
    await pool.close_all()


async def test_p21_a_secret_in_a_url_or_header_is_never_shown(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    pool = Contract(world)
    shown: list[object] = []
    urls = ("http://crm.test/mcp?key=s3cret", "http://user:s3cret@crm.test/mcp", "http://crm.test/mcp#s3cret")
    for url in urls:
        headers = {"X-Api-Key": "s3cret"}
        session = await pool.acquire(url, headers, user_identity="s3cret")
        shown += [session, session.holder, session.key, pool, pool._ledger, *pool._ledger.shelves.values(), pool.get_metrics()]
        await pool.release(session, ConnectionLost("crm", "cut"))
        world.upstream.opening.refuses_with = ConnectFailed("crm", "nobody is there")
        while not pool.breaker(url).is_open:
            with pytest.raises(ConnectFailed):
                await pool.acquire(url, user_identity="eve")
        with pytest.raises(CircuitOpen) as refused:
            await pool.acquire(url, user_identity="eve")
        world.upstream.opening.refuses_with = None
        shown.append(refused.value)
    world.upstream.opening.shut = True
    late = asyncio.create_task(pool.acquire("http://late.test/?key=s3cret"))
    await until(lambda: bool(world.upstream.opening.held))
    world.pass_time(WAIT_SECONDS)
    with pytest.raises(PoolExhausted) as exhausted:
        await late
    await pool.close_all()
    shown += [exhausted.value, *caplog.messages]
    assert "s3cret" not in " ".join(f"{each!r} {each}" for each in shown)


# Shared and single-use sessions.


async def test_thirty_two_calls_on_a_cold_key_open_one_session(world: World) -> None:
    callers = [world.caller(terms=SHARED) for _ in range(32)]
    leases = await asyncio.gather(*callers)
    assert len({lease.session for lease in leases}) == 1
    assert world.upstream.openings == 1
    for lease in leases:
        assert world.figure("idle") == 0
        world.pool.give_back(lease)
    assert world.figures("idle", "leased") == [1, 0]


async def test_calls_that_wait_for_one_shared_session_all_hear_that_it_failed(world: World) -> None:
    world.upstream.opening.refuses_with = ConnectFailed("crm", "nobody is there")
    outcomes = await asyncio.gather(*(world.caller(terms=SHARED) for _ in range(8)), return_exceptions=True)
    assert all(isinstance(outcome, ConnectFailed) for outcome in outcomes)
    assert world.upstream.openings == 1


SINGLE = TERMS._replace(single_use=True)


async def test_a_single_use_session_is_closed_after_its_call(world: World) -> None:
    first = await world.lease(terms=SINGLE)
    world.pool.give_back(first)
    second = await world.lease(terms=SINGLE)
    assert second.session is not first.session and first.session.closed


async def test_a_spare_that_was_never_used_stands_ready(world: World) -> None:
    terms = SINGLE._replace(spares=2)
    seen: set[FakeSession] = set()
    world.pool.give_back(await world.lease(terms=terms))
    for _ in range(5):
        await until(lambda: world.figure("idle") == 2)
        lease = world.warm(key_of())
        assert lease is not None and lease.session not in seen and lease.pooled.uses == 1
        seen.add(lease.session)
        world.pool.give_back(lease)
    await quiet()
    assert world.figures("open", "idle", "waiting") == [2, 2, 0]


async def test_spares_are_not_opened_again_without_a_call(world: World) -> None:
    terms = SINGLE._replace(spares=1)
    world.pool.give_back(await world.lease(terms=terms))
    await until(lambda: world.figure("idle") == 1)
    world.upstream.opening.refuses_with = ConnectFailed("crm", "nobody is there")
    lease = world.warm(key_of())
    assert lease is not None
    world.pool.give_back(lease)
    await quiet()
    assert (world.upstream.openings, world.figure("open")) == (3, 0)


@pytest.mark.parametrize("whole_upstream", [True, False])
async def test_p9_spares_are_not_opened_in_the_way_of_a_configuration_that_is_over(world: World, whole_upstream: bool) -> None:
    lease = await world.lease(terms=SINGLE._replace(spares=1))
    if whole_upstream:
        world.pool.drain("crm")
    else:
        world.pool.end([key_of()])
    world.pool.give_back(lease)
    await quiet()
    assert (world.upstream.openings, world.figure("open")) == (1, 0)


async def test_spares_make_room_for_nobody_and_wait_for_none(small: World) -> None:
    terms = SINGLE._replace(spares=3)
    (idle,) = await small.idle(1, key_of("alice", "files"))
    small.pool.give_back(await small.lease(key_of("bob"), terms))
    await quiet()
    assert small.figures("open", "idle", "evicted") == [2, 2, 0] and not idle.closed


class Contract(Pool):
    """The contract's form of the pool, opening its sessions at the fake upstream. A seam that the contract itself uses."""

    def __init__(self, world: World) -> None:
        super().__init__(max_sessions_per_key=3, sweep=world.sweep, wait_seconds=WAIT_SECONDS)
        self._upstream = world.upstream

    async def _create_session(
        self,
        url: str,
        headers: object,
        transport_type: TransportType,
        httpx_client_factory: Callable[..., object] | None,
        timeout: float | None,
    ) -> PooledSession:
        return await self._upstream.opens(PoolKey("", url, "", transport_type.value))()


async def _is_cancelled(task: asyncio.Task[Lease]) -> bool:
    await asyncio.wait([task])
    return task.cancelled()


async def _is_closed(task: asyncio.Task[Lease]) -> bool:
    await asyncio.wait([task])
    return isinstance(task.exception(), PoolClosed)
