"""One client's messages on one pipe: how many at once, in which order, and what becomes of those that fail."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mcpgateway import config
from mcpgateway.app import Gateway
from mcpgateway.auth.principals import ANONYMOUS
from mcpgateway.downstream.conversing import MAX_BATCH, NoHeaders
from mcpgateway.downstream.dispatch import Handler
from mcpgateway.downstream.piped import MAX_IN_FLIGHT, Pipe, PipedSession
from mcpgateway.errors import Busy, InvalidRequest
from mcpgateway.protocol.call import Call
from tests.fakes.until import until

Message = dict[str, Any]


class Said:
    """An outlet that remembers."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.ended = False
        self._news = asyncio.Event()

    def put(self, data: bytes) -> None:
        assert not self.ended
        self.messages.append(json.loads(data))
        self._news.set()

    put_surely = put

    def end(self) -> None:
        self.ended = True

    async def until(self, count: int) -> list[Any]:
        async with asyncio.timeout(5):
            while len(self.messages) < count:
                self._news.clear()
                await self._news.wait()
        return self.messages


class Holding:
    """A dispatch whose handlers wait until the test lets them go on; `initialize` is not among them."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.running: list[str] = []

    def handler(self, method: str) -> Handler:
        async def hold(view: object, conversation: object, call: Call, channel: object) -> bytes:
            self.running.append(call.method)
            await self.release.wait()
            return b"{}"

        return hold


class Slow:
    """A handshake that waits, and fails if it is told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.release = asyncio.Event()
        self.error = error

    async def initialize(self, view: object, conversation: object, call: object) -> bytes:
        await self.release.wait()
        if self.error is not None:
            raise self.error
        return b"{}"


class Rig:
    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.dispatch = gateway.conversing._dispatch = Holding()  # type: ignore[assignment]
        view = gateway._views.of("")
        assert view is not None
        self.session = PipedSession(ANONYMOUS, view, gateway.sweep)
        gateway.sessions.add(self.session)
        self.said = Said()
        self.session.attach(self.said)
        self.pipe = Pipe(gateway.conversing, self.session, self.said)

    def take(self, message: object) -> None:
        self.pipe.take(json.dumps(message).encode(), NoHeaders())

    async def initialize(self) -> None:
        self.take(hello())
        await self.said.until(1)
        await until(lambda: not self.session.in_flight)
        self.said.messages.clear()


@asynccontextmanager
async def rig_of() -> AsyncIterator[Rig]:
    gateway = Gateway(config.parse('{"mcpServers": {}}', "test.json", {}))
    try:
        yield Rig(gateway)
    finally:
        await gateway.stop()


def ask(method: str, id: object) -> Message:
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": {}}


def hello(id: object = "hello") -> Message:
    params = {"protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    return ask("initialize", id) | {"params": params}


def cancel(id: object) -> Message:
    return {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}}


async def test_a_client_may_not_have_any_number_of_requests_in_flight() -> None:
    async with rig_of() as rig:
        await rig.initialize()
        for id in range(MAX_IN_FLIGHT):
            rig.take(ask("tools/list", id))
        with pytest.raises(Busy):
            rig.take(ask("tools/list", "one more"))
        rig.dispatch.release.set()
        assert len(await rig.said.until(MAX_IN_FLIGHT)) == MAX_IN_FLIGHT
        rig.take(ask("tools/list", "one more"))


async def test_what_comes_in_the_same_breath_as_initialize_waits_for_it() -> None:
    async with rig_of() as rig:
        handshake = rig.gateway.conversing._handshake = Slow()  # type: ignore[assignment]
        rig.dispatch.release.set()
        for message in (hello(), ask("tools/list", 1), ask("tools/list", 2), cancel(2)):
            rig.take(message)
        await asyncio.sleep(0)
        assert rig.dispatch.running == [] and rig.said.messages == []
        handshake.release.set()
        assert [message["id"] for message in await rig.said.until(2)] == ["hello", 1]
        assert rig.dispatch.running == ["tools/list"] and rig.session.in_flight == {} and rig.session.cancelled == set()


@pytest.mark.parametrize("error", [InvalidRequest("not like this"), ZeroDivisionError("a secret")])
async def test_an_initialize_that_fails_is_answered_and_may_be_tried_again(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async with rig_of() as rig:
        handshake = rig.gateway.conversing._handshake = Slow(error)  # type: ignore[assignment]
        handshake.release.set()
        rig.gateway.announcer.conversations.add(rig.session)  # as if it had got that far
        with caplog.at_level(logging.ERROR):
            rig.take(hello("i"))
            rig.take(ask("tools/list", 1))
            first, second = await rig.said.until(2)
        assert (first["id"], second["id"]) == ("i", 1) and "initialize first" in second["error"]["message"]
        assert "secret" not in json.dumps(first) and ("not like this" in json.dumps(first)) == isinstance(error, InvalidRequest)
        told = [record for record in caplog.records if record.name.startswith("mcpgateway")]
        assert len(told) == isinstance(error, ZeroDivisionError)
        assert rig.gateway.announcer.conversations == set()
        handshake.error = None
        rig.take(hello("again"))
        assert (await rig.said.until(3))[-1] == {"jsonrpc": "2.0", "id": "again", "result": {}}
        assert rig.gateway.announcer.conversations == {rig.session}


async def test_a_request_that_is_cancelled_before_it_began_leaves_its_id_free() -> None:
    async with rig_of() as rig:
        await rig.initialize()
        rig.take(ask("tools/list", "x"))
        rig.take(cancel("x"))
        rig.take(ask("ping", "y"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert list(rig.session.in_flight) == ["y"] and rig.session.cancelled == set() and rig.said.messages == []
        rig.take(ask("ping", "x"))
        rig.dispatch.release.set()
        assert {message["id"] for message in await rig.said.until(2)} == {"x", "y"}


async def test_while_it_drains_a_pipe_ends_after_the_last_answer() -> None:
    async with rig_of() as rig:
        await rig.initialize()
        rig.take([ask("ping", 1), ask("ping", 2)])
        rig.take(ask("ping", 3))
        rig.session.drain()
        assert not rig.said.ended
        rig.dispatch.release.set()
        single, together = sorted(await rig.said.until(2), key=lambda said: isinstance(said, list))
        assert single["id"] == 3 and [each["id"] for each in together] == [1, 2]
        await until(lambda: rig.said.ended)


async def test_when_the_session_ends_nothing_is_said_of_what_was_in_flight() -> None:
    async with rig_of() as rig:
        await rig.initialize()
        rig.take(ask("ping", 1))
        await asyncio.sleep(0)
        rig.gateway.sessions.end(rig.session)
        await until(lambda: not rig.session.in_flight)
        assert rig.said.ended and rig.said.messages == []


async def test_what_is_wrong_with_one_of_a_batch_is_answered_in_its_place_and_the_others_run() -> None:
    async with rig_of() as rig:
        await rig.initialize()
        rig.dispatch.release.set()
        rig.take([ask("ping", 5), ask("tools/call", 6), ask("ping", 5), {"jsonrpc": "2.0"}, 7, ask("ping", 1.5)])
        (answers,) = await rig.said.until(1)
        assert sorted(each["id"] for each in answers if "result" in each) == [5, 6]
        assert [each["error"]["code"] for each in answers if "error" in each] == [-32600] * 4
        assert rig.dispatch.running == ["ping", "tools/call"] and not rig.session.in_flight


async def test_a_batch_of_nothing_but_nonsense_is_answered() -> None:
    async with rig_of() as rig:
        await rig.initialize()
        rig.take([7])
        ((answer,),) = await rig.said.until(1)
        assert answer["error"]["code"] == -32600


@pytest.mark.parametrize("count", [0, MAX_BATCH + 1])
async def test_a_batch_has_its_bounds(count: int) -> None:
    async with rig_of() as rig:
        await rig.initialize()
        with pytest.raises(InvalidRequest, match="1 to"):
            rig.take([ask("ping", id) for id in range(count)])
        assert not rig.session.in_flight


async def test_a_request_whose_meta_is_no_object_is_answered_in_a_trace_too() -> None:
    async with rig_of() as rig:
        await rig.initialize()
        rig.dispatch.release.set()
        sent = NoHeaders()
        sent.headers = {b"traceparent": b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"}
        rig.pipe.take(json.dumps(ask("tools/list", 1) | {"params": {"_meta": 5}}).encode(), sent)
        assert await rig.said.until(1) == [{"jsonrpc": "2.0", "id": 1, "result": {}}]


async def test_c7_initialize_and_calls_that_wait_for_it_are_answered_when_the_gateway_has_to_end() -> None:
    async with rig_of() as rig:
        rig.gateway.conversing._handshake = Slow()  # type: ignore[assignment]
        rig.take(hello())
        rig.take({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "x"}})
        await until(lambda: len(rig.session.in_flight) == 2)
        rig.gateway.give_up()
        await until(lambda: len(rig.said.messages) == 2)
        assert {message["error"]["data"]["kind"] for message in rig.said.messages} == {"GatewayStopped"}
