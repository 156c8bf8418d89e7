"""What every session pool promises, whether it keeps sessions or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from mcpgateway.errors import AuthRefused, ConnectFailed, PoolClosed, RpcError
from mcpgateway.pool.breaker import FAILURES_TO_OPEN
from mcpgateway.pool.key import Terms
from mcpgateway.runtime import Sweep
from mcpgateway.services.closing import CLOSE_SECONDS
from mcpgateway.services.leasing import SessionPool
from mcpgateway.services.mcp_session_pool import MCPSessionPool
from mcpgateway.services.null_pool import NullPool
from tests.fakes.clock import FakeClock
from tests.fakes.upstream_session import FakeUpstream, InTime, key_of, quiet, until


class Pool(InTime, MCPSessionPool):
    """The pool, failing a test rather than letting it wait for ever."""


class Nothing(InTime, NullPool):
    """The null pool, likewise."""


MAKERS: dict[str, Callable[[Sweep], SessionPool]] = {
    "pool": lambda sweep: Pool(sweep=sweep),
    "null": lambda sweep: Nothing(sweep),
}


@pytest.fixture
async def sweep(clock: FakeClock) -> AsyncIterator[Sweep]:
    sweep = Sweep(clock)
    yield sweep
    sweep.close()


@pytest.fixture(params=MAKERS)
async def pool(request: pytest.FixtureRequest, sweep: Sweep) -> AsyncIterator[SessionPool]:
    pool = MAKERS[request.param](sweep)
    yield pool
    await pool.close_all()


@pytest.fixture
def upstream() -> FakeUpstream:
    return FakeUpstream()


async def test_a_lease_is_of_an_open_session_of_its_own_key(pool: SessionPool, upstream: FakeUpstream) -> None:
    alices, bobs = [await pool.lease(upstream.want(key_of(user))) for user in ("alice", "bob")]
    assert alices.session is not bobs.session
    assert (alices.session.key.user, bobs.session.key.user) == ("alice", "bob")
    assert not alices.session.closed and not bobs.session.closed


async def test_users_who_differ_in_nothing_else_never_meet_one_after_the_other(
    pool: SessionPool, upstream: FakeUpstream
) -> None:
    seen: dict[str, set[object]] = {"alice": set(), "bob": set()}
    for _ in range(5):
        for user, sessions in seen.items():
            want = upstream.want(key_of(user))
            lease = pool.warm(want) or await pool.lease(want)
            sessions.add(lease.session)
            pool.give_back(lease)
            await quiet()
    assert not seen["alice"] & seen["bob"]


async def test_two_exclusive_leases_at_once_are_of_two_sessions(pool: SessionPool, upstream: FakeUpstream) -> None:
    want = upstream.want(key_of())
    first, second = await asyncio.gather(pool.lease(want), pool.lease(want))
    assert first.session is not second.session


async def test_p2_giving_back_twice_is_giving_back_once(pool: SessionPool, upstream: FakeUpstream) -> None:
    want = upstream.want(key_of())
    lease = await pool.lease(want)
    for error in (None, None, ConnectFailed("crm", "gone")):
        pool.give_back(lease, error)
    await quiet()
    first, second = await pool.lease(want), await pool.lease(want)
    assert first.session is not second.session
    assert pool.get_metrics()["leased"] == 2


async def test_a_failed_opening_is_told_and_leaves_nothing(pool: SessionPool, upstream: FakeUpstream) -> None:
    upstream.opening.refuses_with = ConnectFailed("crm", "nobody is there")
    with pytest.raises(ConnectFailed, match="nobody is there"):
        await pool.lease(upstream.want(key_of()))
    await quiet()
    figures = pool.get_metrics()
    assert (figures["open"], figures["leased"], figures["opening"], figures["failed"]) == (0, 0, 0, 1)
    upstream.opening.refuses_with = None
    assert await pool.lease(upstream.want(key_of()))


async def test_p10_failures_to_connect_open_the_breaker_of_that_upstream_alone(
    pool: SessionPool, upstream: FakeUpstream, clock: FakeClock
) -> None:
    upstream.opening.refuses_with = ConnectFailed("crm", "nobody is there")
    for _ in range(FAILURES_TO_OPEN):
        with pytest.raises(ConnectFailed):
            await pool.lease(upstream.want(key_of()))
    assert pool.breaker("crm").refuses_for(clock.now()) > 0
    assert pool.breaker("files").refuses_for(clock.now()) == 0


@pytest.mark.parametrize(
    "error", [AuthRefused("crm", "no", status=401), RpcError.of(-32602, "no")], ids=lambda error: type(error).__name__
)
async def test_p10_refusals_never_open_the_breaker(pool: SessionPool, upstream: FakeUpstream, error: Exception) -> None:
    for _ in range(FAILURES_TO_OPEN * 2):
        lease = await pool.lease(upstream.want(key_of()))
        pool.give_back(lease, error)
        upstream.opening.refuses_with = error
        with pytest.raises(type(error)):
            await pool.lease(upstream.want(key_of("bob")))
        upstream.opening.refuses_with = None
    assert not pool.breaker("crm").is_open


async def test_p3_a_caller_that_leaves_while_its_session_is_opened_leaves_nothing_behind(
    pool: SessionPool, upstream: FakeUpstream
) -> None:
    upstream.opening.shut = True
    callers = [asyncio.create_task(pool.lease(upstream.want(key_of()))) for _ in range(5)]
    await until(lambda: upstream.openings == 5)
    for caller in callers:
        caller.cancel()
    await asyncio.wait(callers)
    await pool.close_all()
    assert upstream.open_now == 0
    assert pool.get_metrics()["open"] == 0


async def test_after_the_end_nothing_is_open_and_nothing_is_lent(pool: SessionPool, upstream: FakeUpstream) -> None:
    held = await pool.lease(upstream.want(key_of()))
    pool.give_back(await pool.lease(upstream.want(key_of("bob"))))
    await pool.close_all()
    assert upstream.open_now == 0
    assert [session.ended for session in upstream.sessions] == [1, 1]
    with pytest.raises(PoolClosed):
        await pool.lease(upstream.want(key_of()))
    pool.give_back(held)
    await pool.close_all()
    assert [session.ended for session in upstream.sessions] == [1, 1]


async def test_p3_a_session_that_was_being_opened_when_the_pool_closed_is_closed_too(
    pool: SessionPool, upstream: FakeUpstream
) -> None:
    upstream.opening.shut = True
    caller = asyncio.create_task(pool.lease(upstream.want(key_of())))
    await until(lambda: upstream.openings == 1)
    await pool.close_all()
    upstream.opening.open_up()
    with pytest.raises(PoolClosed):
        await caller
    await until(lambda: upstream.open_now == 0)


async def test_p8_sessions_are_closed_at_once_and_hung_ones_are_cut_off(
    pool: SessionPool, upstream: FakeUpstream, clock: FakeClock, sweep: Sweep
) -> None:
    for number in range(20):
        await pool.lease(upstream.want(key_of(f"user-{number}")))
    upstream.closing.shut = True
    closing = asyncio.create_task(pool.close_all())
    await until(lambda: upstream.closings == 20)
    assert not closing.done() and len(sweep) >= 20
    clock.advance(CLOSE_SECONDS)
    sweep.expire_due()
    await closing
    assert upstream.open_now == 0
    assert pool.get_metrics()["closed"] == 20


async def test_a_failure_to_close_is_the_end_of_the_session_all_the_same(pool: SessionPool, upstream: FakeUpstream) -> None:
    await pool.lease(upstream.want(key_of()))
    upstream.closing.refuses_with = ConnectFailed("crm", "gone")
    await pool.close_all()
    assert pool.get_metrics()["open"] == 0


async def test_ending_and_draining_what_is_not_there_does_nothing(pool: SessionPool, upstream: FakeUpstream) -> None:
    pool.end([key_of()])
    pool.drain("crm")
    assert await pool.lease(upstream.want(key_of()))


async def test_a_lease_outlives_the_drain_of_its_upstream(pool: SessionPool, upstream: FakeUpstream) -> None:
    want = upstream.want(key_of(), Terms(exclusive=False))
    lease = await pool.lease(want)
    pool.drain("crm")
    pool.end([want.key])
    await quiet()
    assert not lease.session.closed
    pool.give_back(lease)
    await until(lambda: lease.session.closed)


async def test_a_breaker_is_one_for_all_who_ask(pool: SessionPool) -> None:
    assert pool.breaker("crm") is pool.breaker("crm")
    assert pool.breaker("crm") is not pool.breaker("files")


async def test_the_figures_have_the_same_names_whichever_pool_it_is(pool: SessionPool, sweep: Sweep) -> None:
    names = set(pool.get_metrics())
    assert all(set(make(sweep).get_metrics()) == names for make in MAKERS.values())
