"""Who is let in no more, or may not use a server any more, hears nothing from then on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mcpgateway import config
from tests.clients.modern_wire import ModernWire
from tests.clients.wire import Wire
from tests.fakes.callers import bearer, letting_in
from tests.fakes.gateway import RunningGateway, serving
from tests.servers.raw_stub import Stub


@pytest.fixture
async def stub() -> AsyncIterator[Stub]:
    async with Stub() as server:
        yield server


def document(stub: Stub, **gateway: Any) -> dict[str, Any]:
    return {"mcpServers": {"up": {"url": stub.url}}, "gateway": letting_in("alice", "bob") | gateway}


async def change(gateway: RunningGateway, document: dict[str, Any]) -> None:
    await gateway.gateway.apply(config.parse(json.dumps(document), "test.json", {}))


def without_alice(stub: Stub) -> dict[str, Any]:
    return document(stub, **letting_in("bob"))


def not_for_alice(stub: Stub) -> dict[str, Any]:
    return document(stub, access=[{"who": {"principal": "bob"}, "servers": ["up"]}])


@pytest.mark.parametrize("after", [without_alice, not_for_alice])
async def test_the_streams_of_who_is_withdrawn_end_and_nobody_elses(stub: Stub, after: Any) -> None:
    async with serving(document(stub)) as gateway, asyncio.timeout(20):
        url = gateway.server("up")
        async with (
            Wire(url, bearer("alice")) as alice,
            Wire(url, bearer("bob")) as bob,
            ModernWire(url, bearer("alice")) as modern,
        ):
            await alice.initialize()
            await bob.initialize()
            async with alice.listen() as hers, bob.listen() as his, modern.listening(toolsListChanged=True) as listening:
                await anext(listening)
                await change(gateway, after(stub))
                assert [message async for message in hers] == []
                assert [message["id"] async for message in listening if "id" in message] == ["listen"]
                waiting = asyncio.ensure_future(anext(his))
                await bob.call("counter")
                assert not waiting.done() or not isinstance(waiting.exception(), StopAsyncIteration)
                waiting.cancel()
            assert (await alice.post(alice.request_message("ping"))).status in (401, 404)
