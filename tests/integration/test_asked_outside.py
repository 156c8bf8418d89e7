"""Servers that ask on the stream of their session in the middle of a call, as many do: modern clients have no such stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.clients.modern_wire import ModernWire
from tests.clients.wire import Message
from tests.fakes.gateway import serving
from tests.fakes.until import until
from tests.servers.raw_stub import Stub

HANG = {"name": "slow", "arguments": {"ms": 600_000}}
QUESTION = {"jsonrpc": "2.0", "id": "q-1", "method": "roots/list"}
ROOTS = {"roots": [{"uri": "file:///srv", "name": "srv"}]}


@pytest.fixture
async def stub() -> AsyncIterator[Stub]:
    async with Stub() as server:
        yield server


def answers(stub: Stub) -> list[Message]:
    """What the server was answered to its question."""
    return [each["message"] for each in stub.seen.requests if each["message"].get("id") == "q-1" and each["rpc"] is None]


def session_of(stub: Stub) -> Any:
    return stub.of("tools/call")[-1]["session"]


async def test_a_question_in_the_middle_of_the_only_call_is_that_callers(stub: Stub) -> None:
    async with serving({"mcpServers": {"up": {"url": stub.url}}}) as gateway, asyncio.timeout(20):
        async with ModernWire(gateway.server("up"), capabilities={"roots": {}}) as client:
            calling = asyncio.create_task(client.request("tools/call", HANG))
            await until(lambda: stub.seen.running == 1)
            stub.do({"notify": QUESTION, "session": session_of(stub)})
            asked = await calling
            (key,) = asked["result"]["inputRequests"]
            assert asked["result"]["inputRequests"][key]["method"] == "roots/list"
            again = asyncio.create_task(client.again("tools/call", HANG, asked, {key: ROOTS}))
            await until(lambda: len(answers(stub)) == 1)
            assert answers(stub)[0]["result"] == ROOTS
            again.cancel()


async def test_a_question_that_could_be_for_either_of_two_calls_is_refused(stub: Stub) -> None:
    async with serving({"mcpServers": {"up": {"url": stub.url}}}) as gateway, asyncio.timeout(20):
        async with ModernWire(gateway.server("up"), capabilities={"roots": {}}) as client:
            calls = [asyncio.create_task(client.request("tools/call", HANG)) for _ in range(2)]
            await until(lambda: stub.seen.running == 2)
            stub.do({"notify": QUESTION, "session": session_of(stub)})
            await until(lambda: len(answers(stub)) == 1)
            assert answers(stub)[0]["error"]["code"] == -32601
            assert not any(call.done() for call in calls)
            for call in calls:
                call.cancel()
            await asyncio.wait(calls)


async def test_a_question_with_no_call_in_flight_is_refused(stub: Stub) -> None:
    async with serving({"mcpServers": {"up": {"url": stub.url}}}) as gateway, asyncio.timeout(20):
        async with ModernWire(gateway.server("up"), capabilities={"roots": {}}) as client:
            await client.call("counter")
            stub.do({"notify": QUESTION, "session": session_of(stub)})
            await until(lambda: len(answers(stub)) == 1)
            assert answers(stub)[0]["error"]["code"] == -32601


async def test_nobody_is_heard_for_a_client_that_answers_nothing(stub: Stub) -> None:
    async with serving({"mcpServers": {"up": {"url": stub.url}}}) as gateway, asyncio.timeout(20):
        before = stub.seen.streams
        async with ModernWire(gateway.server("up")) as client:
            await client.call("counter")
        assert stub.seen.streams == before
