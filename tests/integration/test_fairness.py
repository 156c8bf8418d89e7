"""One caller holds its maximum for ever, over sockets: the others' calls stand behind none of its."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from tests.clients.wire import Wire
from tests.fakes.callers import bearer, letting_in
from tests.fakes.gateway import RunningGateway, serving
from tests.fakes.until import until
from tests.servers.raw_stub import Stub

MOST = 4
CALLS = 15
OTHERS = ("bob", "carol", "dave")
NEVER = {"ms": 3_600_000}


def document(stub: Stub) -> dict[str, Any]:
    pool = {"max_sessions_per_principal": MOST, "wait_seconds": 600}
    return {"mcpServers": {"up": {"url": stub.url}}, "gateway": letting_in("hog", *OTHERS) | {"session_pool": pool}}


class Calls:
    """The callers of one test, each with its conversations."""

    def __init__(self, gateway: RunningGateway, stack: contextlib.AsyncExitStack) -> None:
        self.gateway = gateway
        self._stack = stack

    async def conversation(self, name: str) -> Wire:
        wire = await self._stack.enter_async_context(Wire(self.gateway.server("up"), bearer(name)))
        await wire.initialize()
        return wire

    def pool(self) -> dict[str, int]:
        return self.gateway.gateway.pool.get_metrics()


@contextlib.asynccontextmanager
async def calling() -> AsyncIterator[tuple[Calls, Stub]]:
    stub = Stub()
    await stub.start()
    async with serving(document(stub)) as gateway, contextlib.AsyncExitStack() as stack, asyncio.timeout(30):
        # Before the gateway's own end, which what never ends on its own would hold up.
        stack.push_async_callback(stub.aclose)
        yield Calls(gateway, stack), stub


async def test_a_caller_that_holds_its_maximum_for_ever_keeps_nobody_else_waiting() -> None:
    async with calling() as (calls, stub):
        others = [await calls.conversation(name) for name in OTHERS]
        for wire in others:
            await wire.call("counter")
        endless = [asyncio.create_task((await calls.conversation("hog")).call("slow", NEVER)) for _ in range(MOST)]
        await until(lambda: stub.seen.running == MOST)
        endless += [asyncio.create_task((await calls.conversation("hog")).call("slow", NEVER)) for _ in range(20)]
        await until(lambda: calls.pool()["waiting"] == 20)
        before = calls.pool()
        for _ in range(CALLS):
            answers = await asyncio.gather(*(wire.call("counter") for wire in others))
            assert all("result" in answer for answer in answers)
        after = calls.pool()
        assert not any(task.done() for task in endless)
        assert after["hits"] - before["hits"] >= CALLS * len(OTHERS)
        for figure in ("waits", "opened", "evicted", "timeouts"):
            assert after[figure] == before[figure], f"no call of the others was the reason for one of {figure}"
        assert after["waiting"] == 20, "all of the hog's"
        newcomer = await calls.conversation("bob")
        assert "result" in await newcomer.call("counter")
        assert calls.pool()["waits"] == before["waits"], "not even a new conversation's first call waited"
        for task in endless:
            task.cancel()
        await asyncio.gather(*endless, return_exceptions=True)
