"""A whole gateway before a proxy that breaks connections, and what must be true of it when a fault is over."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from mcpgateway import runtime
from mcpgateway.upstream.connection import Origin
from tests.clients.messages import text_of
from tests.clients.wire import Message, Wire
from tests.fakes.cuttable_proxy import CuttableProxy
from tests.fakes.gateway import RunningGateway, serving
from tests.fakes.moved_time import MovedTime, moved_time
from tests.servers.raw_stub import Stub


class Scene:
    """One gateway with one upstream, named `up`, behind a proxy."""

    def __init__(self, gateway: RunningGateway, proxy: CuttableProxy, stub: Stub) -> None:
        self.gateway = gateway
        self.proxy = proxy
        self.stub = stub
        self._tasks = runtime.running_tasks()

    def __repr__(self) -> str:
        return f"<Scene {self.proxy!r}>"

    async def call(self, client: Wire, text: str = "x") -> Message:
        """The response to a call of the tool `echo`."""
        return await client.call("up__echo", {"text": text})

    @contextlib.asynccontextmanager
    async def in_no_time(self) -> AsyncIterator[None]:
        """Once the fault is met, the gateway's deadlines pass as fast as it can work.

        It waits as patiently as it is configured to, and the test does not.
        """
        over = asyncio.Event()
        with moved_time(self.gateway) as time:
            passing = asyncio.create_task(self._pass_time(time, over))
            try:
                yield
            finally:
                over.set()
                await passing

    async def _pass_time(self, time: MovedTime, over: asyncio.Event) -> None:
        while not over.is_set():
            await self.round_trip()
            if self.proxy.struck.is_set():
                time.passes(1)

    async def round_trip(self) -> None:
        """What was on its way to the gateway has been read there when this is over."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.gateway.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert await reader.readexactly(12) == b"HTTP/1.1 200"
        writer.close()
        await writer.wait_closed()

    async def until_nothing_is_left(self) -> None:
        """No task, no socket that is not idle, and no slot of the pool remains of what went wrong."""
        try:
            await self.gateway.until(lambda: self.left() == [])
        except TimeoutError:
            raise AssertionError(f"something was left behind: {self.left()}") from None

    def left(self) -> list[str]:
        """All that remains of calls that are over."""
        inner = self.gateway.gateway
        tasks = runtime.running_tasks()
        for known in self._tasks:
            if known in tasks:
                tasks.remove(known)
        metrics = inner.pool.get_metrics()
        slots = [f"{metrics[name]} {name}" for name in ("leased", "opening", "waiting", "closing") if metrics[name]]
        origins = list(inner._opener._clients.values())
        busy = [repr(connection) for origin in origins for connection in origin._all if connection not in origin._idle]
        calls = [f"{id} in flight" for session in inner.sessions.all() for id in session.in_flight]
        return tasks + slots + busy + calls + self._lines(origins)

    def _lines(self, origins: list[Origin]) -> list[str]:
        """Sockets that the proxy holds and the gateway has forgotten."""
        kept = sum(origin.connections for origin in origins)
        return [f"{self.proxy.lines} sockets, of which {kept} are known"] if self.proxy.lines > kept else []


@contextlib.asynccontextmanager
async def scene(proxy: CuttableProxy, stub: Stub, **server: Any) -> AsyncIterator[Scene]:
    """A gateway that has met its upstream, while nothing was broken."""
    document = {
        "mcpServers": {"up": {"url": f"{proxy.scheme}://127.0.0.1:{proxy.port}/mcp", "timeout_seconds": 20, **server}},
        # Nothing but the test's own calls meets the faults.
        "gateway": {"health_check_interval_seconds": 600},
    }
    async with serving(document) as gateway:
        assert [upstream.state.value for upstream in gateway.gateway.upstreams.values()] == ["ready"]
        yield Scene(gateway, proxy, stub)


@contextlib.asynccontextmanager
async def client_of(scene: Scene, *, warm: bool) -> AsyncIterator[Wire]:
    """A client with a session. `warm`: with an upstream session and a connection too."""
    async with Wire(scene.gateway.url) as client:
        await client.initialize()
        if warm:
            assert text_of(await scene.call(client, "warm")) == "warm"
        yield client


def expect_clear_error(message: Message, said: str = "") -> None:
    """The call failed, and the client is told what happened at which upstream: among others, `said`."""
    error = message.get("error")
    assert error is not None, message
    assert "'up'" in error["message"]
    assert said in error["message"]
    assert len(error["message"]) > len("upstream 'up': ") + 10, "it says what happened"
    assert error["data"]["upstream"] == "up"
    assert "Traceback" not in error["message"]


async def expect_recovery(here: Scene) -> None:
    """Once it is healed, the next call works, of the same client and of others, each with its own answer."""
    await here.until_nothing_is_left()
    await here.proxy.heal()
    async with client_of(here, warm=True) as other:
        for number in range(3):
            assert text_of(await here.call(other, f"again {number}")) == f"again {number}"
