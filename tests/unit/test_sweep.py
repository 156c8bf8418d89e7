"""The one timer for all deadlines."""

from __future__ import annotations

import asyncio

from mcpgateway.runtime import Sweep
from tests.fakes.clock import FakeClock


class Again:
    """Watches itself anew each time it expires, as everything periodic does."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self.times = 0
        self.deadline = 0.0

    def expire(self) -> None:
        self.times += 1
        self._sweep.watch(self)


async def test_u8_what_comes_again_and_again_never_has_more_than_one_timer() -> None:
    sweep = Sweep(FakeClock(), tick_seconds=0.001)
    again = Again(sweep)
    sweep.watch(again)
    async with asyncio.timeout(10):
        while again.times < 20:
            await asyncio.sleep(0)
    sweep.close()
    # A timer that nobody knows of any more would go on after the end.
    before = again.times
    done = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, done.set)
    sweep._watched.add(again)
    await done.wait()
    assert again.times == before
