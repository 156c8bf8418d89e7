"""Clients that go away before their stream has begun."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mcpgateway import runtime
from tests.clients.modern_wire import ModernWire
from tests.fakes.gateway import serving


@asynccontextmanager
async def silent_server() -> AsyncIterator[str]:
    """The URL of a server that takes every request and answers none."""
    over = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp"
    finally:
        over.set()
        server.close()


async def listen(url: str) -> None:
    async with ModernWire(url) as wire, wire.listening(toolsListChanged=True) as stream:
        await anext(stream)


@pytest.mark.parametrize("protocol", ["own", "uvicorn"])
async def test_c1_a_client_that_leaves_while_its_server_is_silent_leaves_no_stream_behind(protocol: str) -> None:
    async with silent_server() as url, asyncio.timeout(20):
        document = {"mcpServers": {"up": {"url": url}}, "gateway": {"http_protocol": protocol}}
        async with serving(document, settled=False) as gateway:
            streams = gateway.gateway._modern._listening
            client = runtime.spawn(listen(gateway.server("up")), "listen, and leave")
            await gateway.until(lambda: len(streams) == 1)
            await runtime.end_task(client)
            await gateway.until(lambda: len(streams) == 0, 5)
