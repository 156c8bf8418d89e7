"""A principal that holds all it may have, for ever, with more callers waiting: what that costs the others in the pool.

Counted, not timed: turns of the event loop, and steps of Python.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterator, Callable
from types import FrameType
from typing import Any

import pytest

from mcpgateway.pool.key import PoolKey, Terms
from mcpgateway.pool.limits import Limits
from mcpgateway.pool.session import Lease
from mcpgateway.runtime import Sweep
from mcpgateway.services.leasing import Want
from mcpgateway.services.mcp_session_pool import MCPSessionPool
from tests.fakes.clock import FakeClock
from tests.fakes.upstream_session import FakeUpstream, key_of, quiet

MOST = 5
OTHERS = [key_of(f"other-{number}") for number in range(3)]
TERMS = Terms(max_sessions=MOST)


class World:
    """A pool in which every principal may have five sessions, and its upstream."""

    def __init__(self, clock: FakeClock) -> None:
        self.upstream = FakeUpstream()
        self.sweep = Sweep(clock)
        self.pool = MCPSessionPool(limits=Limits(per_principal=MOST), sweep=self.sweep)
        self.waiting: list[asyncio.Task[Lease]] = []

    async def lease(self, key: PoolKey) -> Lease:
        """A lease that is to be had at once."""
        async with asyncio.timeout(10):
            return await self._wait_for(key)

    async def _wait_for(self, key: PoolKey) -> Lease:
        return await self.pool.lease(self.want(key))

    def want(self, key: PoolKey) -> Want:
        return self.upstream.want(key, TERMS)

    def wait(self, name: str) -> None:
        """One more call of the hog, in a conversation of its own, which waits."""
        self.waiting.append(asyncio.create_task(self._wait_for(key_of("hog", partition=name))))

    async def hog(self, waiting: int) -> None:
        """One principal takes its maximum and keeps it, and so many more of its calls wait, each of a conversation's own."""
        for number in range(MOST):
            await self.lease(key_of("hog", partition=str(number)))
        for number in range(waiting):
            self.wait(f"waiting {number}")
        await quiet()
        assert self.pool.get_metrics()["waiting"] == waiting

    async def close(self) -> None:
        for task in self.waiting:
            task.cancel()
        await asyncio.gather(*self.waiting, return_exceptions=True)
        await self.pool.close_all()
        self.sweep.close()


@pytest.fixture
async def world(clock: FakeClock) -> AsyncIterator[World]:
    made = World(clock)
    yield made
    async with asyncio.timeout(10):
        await made.close()


async def turns_of(work: Callable[[], Any]) -> int:
    """How often the loop comes round until `work` is done."""
    task, turns = asyncio.create_task(work()), 0
    while not task.done():
        await asyncio.sleep(0)
        turns += 1
    await task
    return turns


def steps_of(work: Callable[[], object]) -> int:
    """How many functions, ours and built-in ones, are called in `work`."""
    steps = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal steps
        steps += event in ("call", "c_call")

    before = sys.getprofile()
    gc.collect()
    gc.disable()  # else what others left behind may be cleared away, and counted, in between
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
        gc.enable()
    return steps


async def test_a_new_session_of_another_opens_in_as_many_turns_as_before(world: World) -> None:
    before = await turns_of(lambda: world.lease(OTHERS[0]))
    await world.hog(waiting=500)
    assert await turns_of(lambda: world.lease(OTHERS[1])) == before


async def test_a_warm_call_of_another_takes_no_more_steps_however_many_wait(world: World) -> None:
    def call() -> None:
        lease = world.pool.warm(world.want(OTHERS[0]))
        assert lease is not None
        world.pool.give_back(lease)

    world.pool.give_back(await world.lease(OTHERS[0]))
    await world.hog(waiting=1)
    few = steps_of(call)
    for number in range(500):
        world.wait(f"more {number}")
    await quiet()
    assert world.pool.get_metrics()["waiting"] == 501
    assert steps_of(call) == few


async def test_the_others_sessions_are_neither_waited_for_nor_closed_to_make_room(world: World) -> None:
    for key in OTHERS:
        world.pool.give_back(await world.lease(key))
    await world.hog(waiting=50)
    before = world.pool.get_metrics()
    for _ in range(20):
        for key in OTHERS:
            lease = world.pool.warm(world.want(key))
            assert lease is not None, "it was there a moment ago"
            world.pool.give_back(lease)
            await quiet()
    after = world.pool.get_metrics()
    assert after["hits"] - before["hits"] == 20 * len(OTHERS)
    unchanged = ("misses", "waits", "opened", "closed", "evicted", "timeouts", "waiting", "open")
    assert {name: after[name] for name in unchanged} == {name: before[name] for name in unchanged}


async def test_who_waits_for_a_place_of_its_own_is_not_behind_another_who_waits_for_one(world: World) -> None:
    await world.hog(waiting=50)
    held = [await world.lease(OTHERS[0]._replace(partition=str(number))) for number in range(MOST)]
    waits = asyncio.create_task(world.lease(OTHERS[0]._replace(partition="one more")))
    await quiet()
    assert not waits.done()
    world.pool.give_back(held[0])
    await quiet()
    assert waits.done() and (await waits).pooled.key.user == OTHERS[0].user
    assert not any(task.done() for task in world.waiting)
