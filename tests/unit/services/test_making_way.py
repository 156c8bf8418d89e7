"""Idle sessions make way for callers who wait for their place, also where another limit than at first holds these up."""

from __future__ import annotations

import asyncio

from mcpgateway.pool.key import PoolKey, Terms
from mcpgateway.pool.limits import Limits
from mcpgateway.pool.session import Lease
from mcpgateway.runtime import Sweep
from mcpgateway.services.mcp_session_pool import MCPSessionPool
from tests.fakes.clock import FakeClock
from tests.fakes.upstream_session import FakeUpstream, InTime, key_of, quiet

LIMITS = Limits(total=5, per_principal=3)


class Pool(InTime, MCPSessionPool):
    """The pool, failing a test rather than letting it wait for ever."""


async def test_p1_an_idle_session_makes_way_when_the_room_made_before_is_no_help_any_more(clock: FakeClock) -> None:
    upstream, sweep = FakeUpstream(), Sweep(clock)
    pool = Pool(sweep=sweep, limits=LIMITS)

    def lease(user: str, name: str) -> asyncio.Task[Lease]:
        return asyncio.create_task(pool.lease(upstream.want(_key(user, name), Terms())))

    for ready in [await lease("ann", "one"), await lease("ann", "two")]:
        pool.give_back(ready)
    first, second = await lease("ben", "one"), await lease("ben", "two")
    upstream.closing.shut = True
    # One of the three takes the last place, for two others ann's sessions make way; then one of these leaves.
    third, gone, waiting = lease("ben", "three"), lease("ben", "three"), lease("ben", "three")
    await quiet()
    gone.cancel()
    await quiet()
    assert third.done() and len(upstream.closing.held) == 2
    pool.give_back(first)
    upstream.closing.let()
    await quiet()
    assert pool.get_metrics()["open"] == 4, "ben's own limit holds him up now, whatever else ann leaves"
    upstream.closing.open_up()
    served = await waiting
    for each in (second, await third, served):
        pool.give_back(each)
    await pool.close_all()
    sweep.close()


def _key(user: str, name: str) -> PoolKey:
    return key_of(user, partition=name)
