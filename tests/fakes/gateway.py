"""A whole gateway over real sockets, in the test's own event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from mcpgateway import config
from mcpgateway.app import Gateway
from mcpgateway.services.upstream import State
from mcpgateway.serving import server_of


def one(url: str, gateway: dict[str, Any] | None = None, **server: Any) -> dict[str, Any]:
    """The configuration of a gateway, with settings of its own, before one upstream, named `up`, with those of `server`."""
    return {"mcpServers": {"up": {"url": url, **server}}, "gateway": gateway or {}}


class RunningGateway:
    """Where a gateway under test is reached, and the gateway itself for looking into."""

    def __init__(self, gateway: Gateway, port: int) -> None:
        self.gateway = gateway
        self.port = port
        self.base = f"http://127.0.0.1:{port}"
        self.url = f"{self.base}/mcp"

    def server(self, name: str) -> str:
        """The endpoint of one upstream."""
        return f"{self.base}/servers/{name}/mcp"

    async def until(self, condition: Callable[[], bool], seconds: float = 10) -> None:
        """Wait until something is true of the gateway. It is asked again whenever the loop has done other work."""
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0)

    async def until_state(self, name: str, state: State) -> None:
        await self.until(lambda: self.gateway.upstreams[name].state is state, 30)


@asynccontextmanager
async def serving(document: dict[str, Any], *, settled: bool = True, **environ: str) -> AsyncIterator[RunningGateway]:
    """A gateway with this configuration, reached at a port of the system's choice; by default once each upstream was tried."""
    gateway = Gateway(config.parse(json.dumps(document), "test.json", environ))
    ready = asyncio.Event()
    server = server_of(gateway, "127.0.0.1", 0, lambda port: ready.set())
    task = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(30):
            await ready.wait()
            if settled:
                while not gateway.service.settled:
                    await gateway.service.news.wait()
                    gateway.service.news.clear()
        yield RunningGateway(gateway, server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        gateway.drain()
        async with asyncio.timeout(30):
            await task
