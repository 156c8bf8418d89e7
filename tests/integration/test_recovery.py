"""Upstream sessions that are lost: what may be repeated is, once and by one new session; what has run is not."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.clients.wire import Message, Wire
from tests.fakes.gateway import RunningGateway, serving
from tests.fakes.mcp_script import McpScript, json_of, playing, say_json
from tests.fakes.process import Server
from tests.fakes.scripted import EVENT_STREAM, Talk, answer
from tests.fakes.stub_server import StubServer
from tests.servers.http11 import Request, chunk

LOST = pytest.mark.parametrize("lost_as", ["404", "400"])
FORM = pytest.mark.parametrize("form", ["json", "sse"])


def count_of(response: Message) -> int:
    """What `counter` answered. A failed call is shown whole."""
    assert "result" in response, response
    return int(json.loads(response["result"]["content"][0]["text"])["count"])


@contextlib.asynccontextmanager
async def conversations(gateway: RunningGateway, number: int) -> AsyncIterator[list[Wire]]:
    """That many clients, each with a session of its own."""
    async with contextlib.AsyncExitStack() as stack, asyncio.timeout(30):
        clients = [await stack.enter_async_context(Wire(gateway.server("up"))) for _ in range(number)]
        for client in clients:
            await client.initialize()
        yield clients


async def initializes(stub: StubServer) -> int:
    return int((await stub.seen())["initializes"])


@FORM
@LOST
async def test_u1_after_a_restart_no_call_fails_and_each_conversation_has_one_new_session(
    lost_as: str, form: str, stub: StubServer
) -> None:
    await stub.do(answer=form)
    async with serving({"mcpServers": {"up": {"url": stub.url}}}) as gateway, conversations(gateway, 4) as clients:
        for client in clients:
            assert [count_of(await client.call("counter")) for _ in range(2)] == [1, 2]
        stub.restart()
        await stub.do(answer=form, lost_as=lost_as)
        for client in clients:
            assert count_of(await client.call("counter")) == 1
        assert await initializes(stub) == len(clients)
        for client in clients:
            assert count_of(await client.call("counter")) == 2
        assert await initializes(stub) == len(clients)


@FORM
@LOST
async def test_u3_a_session_that_the_server_forgot_is_replaced_without_a_failed_call(
    lost_as: str, form: str, stub: StubServer
) -> None:
    await stub.do(answer=form)
    async with serving({"mcpServers": {"up": {"url": stub.url}}}) as gateway, conversations(gateway, 2) as clients:
        for client in clients:
            await client.call("counter")
        before = await initializes(stub)
        await stub.do(forget_sessions=lost_as)
        assert [count_of(await client.call("counter")) for client in clients] == [1, 1]
        assert await initializes(stub) == before + len(clients)


@LOST
async def test_u1_calls_at_the_same_time_share_the_one_new_session(lost_as: str, stub: StubServer) -> None:
    async with serving({"mcpServers": {"up": {"url": stub.url}}}) as gateway, conversations(gateway, 1) as clients:
        (client,) = clients
        await client.call("counter")
        before = await initializes(stub)
        await stub.do(forget_sessions=lost_as)
        counts = await asyncio.gather(*(client.call("counter") for _ in range(10)))
        assert sorted(map(count_of, counts)) == list(range(1, 11))
        assert await initializes(stub) == before + 1


@LOST
async def test_u6_each_call_that_was_refused_ran_exactly_once(lost_as: str, stub: StubServer) -> None:
    async with serving({"mcpServers": {"up": {"url": stub.url}}}) as gateway, conversations(gateway, 1) as clients:
        (client,) = clients
        await client.call("counter")
        await stub.do(forget_sessions=lost_as)
        assert count_of(await client.call("counter")) == 1
        calls = [request["session"] for request in await stub.of("tools/call")]
        lost, refused, repeated = calls
        assert lost == refused != repeated


async def test_u2_a_session_that_is_lost_again_and_again_is_said(stub: StubServer) -> None:
    async with serving({"mcpServers": {"up": {"url": stub.url}}}) as gateway, conversations(gateway, 1) as clients:
        (client,) = clients
        await client.call("counter")
        await stub.do(status=404)
        error = (await client.call("counter"))["error"]
        assert "'up'" in error["message"] and "404" in error["message"]
        await stub.do(status=None)
        assert count_of(await client.call("counter")) >= 1


async def test_u1_a_real_server_that_was_restarted_is_used_again(own_stateful_1x: Server) -> None:
    async with serving({"mcpServers": {"up": {"url": own_stateful_1x.url}}}) as gateway, conversations(gateway, 2) as clients:
        for client in clients:
            assert "result" in await client.call("counter")
        await asyncio.to_thread(own_stateful_1x.restart)
        for client in clients:
            assert "result" in await client.call("counter")


class Breaking:
    """Breaks off the first `times` tool calls: in the middle of a JSON answer, or of a stream."""

    def __init__(self, script: McpScript, form: str, times: int = 1) -> None:
        self._form = form
        self._left = times
        script.take = self._take

    async def _take(self, talk: Talk, request: Request, message: dict[str, Any]) -> None:
        if not self._left:
            await say_json(talk, message, '{"content":[],"contents":[],"messages":[],"whole":true}')
            return
        self._left -= 1
        if self._form == "json":
            await talk.say(answer(json_of(message, '{"content":[]}'))[:-5])
        elif self._form == "sse":
            await talk.say(EVENT_STREAM + chunk(b": working\n\n"))
        raise ConnectionResetError


BREAKS = pytest.mark.parametrize("form", ["json", "sse", "nothing"])


@BREAKS
async def test_u6_a_call_that_may_have_run_is_not_repeated(form: str) -> None:
    async with playing() as upstream, serving({"mcpServers": {"up": {"url": upstream.url}}}) as gateway:
        Breaking(upstream, form)
        async with conversations(gateway, 1) as clients:
            error = (await clients[0].call("once"))["error"]
            assert "'up'" in error["message"]
            assert len(upstream.of("tools/call")) == 1
            # The session is not lost by it: the server still knows it.
            before = len(upstream.of("initialize"))
            assert (await clients[0].call("once"))["result"]["whole"]
            assert len(upstream.of("initialize")) == before


@BREAKS
async def test_u6_a_read_only_call_is_repeated_once(form: str) -> None:
    async with playing() as upstream, serving({"mcpServers": {"up": {"url": upstream.url}}}) as gateway:
        Breaking(upstream, form)
        async with conversations(gateway, 1) as clients:
            assert (await clients[0].call("look"))["result"]["whole"]
            assert len(upstream.of("tools/call")) == 2


@BREAKS
async def test_u6_and_not_twice(form: str) -> None:
    async with playing() as upstream, serving({"mcpServers": {"up": {"url": upstream.url}}}) as gateway:
        Breaking(upstream, form, times=2)
        async with conversations(gateway, 1) as clients:
            assert "'up'" in (await clients[0].call("look"))["error"]["message"]
            assert len(upstream.of("tools/call")) == 2


@BREAKS
@pytest.mark.parametrize("method", ["resources/read", "prompts/get"])
async def test_u6_what_reads_is_repeated_once(method: str, form: str) -> None:
    params = {"uri": "demo://one"} if method == "resources/read" else {"name": "greet"}
    async with playing() as upstream, serving({"mcpServers": {"up": {"url": upstream.url}}}) as gateway:
        Breaking(upstream, form)
        async with conversations(gateway, 1) as clients:
            assert (await clients[0].request(method, params))["result"]["whole"]
            assert len(upstream.of(method)) == 2
