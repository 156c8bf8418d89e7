"""Calls while the server that has the tool is slow to list its tools."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.clients.modern_wire import ModernWire
from tests.clients.wire import Message
from tests.fakes.gateway import serving
from tests.servers.asking_stub import AskingStub
from tests.servers.http11 import Request


class SlowToList(AskingStub):
    """Lists its tools when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.release = asyncio.Event()

    async def _result(self, request: Request, message: Message) -> str | None:
        if message["method"] == "tools/list":
            await self.release.wait()
        return await super()._result(request, message)


@pytest.fixture
async def slow() -> AsyncIterator[SlowToList]:
    async with SlowToList() as stub:
        yield stub


def contradicting(wire: ModernWire) -> tuple[Message, dict[str, str | None]]:
    """A call whose header says something else than its argument."""
    params = {"name": "routed", "arguments": {"region": "eu"}}
    return wire.request_message("tools/call", params), {"mcp-param-region": "us"}


async def test_a_call_does_not_wait_for_a_list_and_its_headers_are_checked_once_there_is_one(slow: SlowToList) -> None:
    document = {"mcpServers": {"up": {"type": "http", "url": slow.url}}}
    async with serving(document, settled=False) as gateway, ModernWire(gateway.server("up")) as wire, asyncio.timeout(20):
        assert (await wire.post(*contradicting(wire))).status == 200
        assert not slow.release.is_set()
        slow.release.set()
        while (refused := await wire.post(*contradicting(wire))).status == 200:
            pass
        assert refused.message["error"]["code"] == -32020
