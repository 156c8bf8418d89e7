"""The modern leg on one pipe: discovery, calls, and listen streams told apart by their ids."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mcpgateway import runtime
from mcpgateway.errors import BadAnswer, ConnectionLost, HttpRefused, Incompatible, RpcError, SessionLost, UpstreamError
from mcpgateway.runtime import Sweep
from mcpgateway.upstream.base import Hello, Target
from mcpgateway.upstream.listening import FIRST_PAUSE_SECONDS
from mcpgateway.upstream.modern_stdio import ModernStdioSession, open_on
from mcpgateway.upstream.owner import OwnedSession, open_owned
from tests.fakes.clock import FakeClock
from tests.fakes.peers import Ear, Person, call
from tests.fakes.until import until
from tests.fakes.wire import FakeWire

Json = dict[str, Any]
TARGET = Target(name="clock", open_timeout_seconds=10)
DISCOVERED: Json = {
    "resultType": "complete",
    "supportedVersions": ["2026-07-28"],
    "capabilities": {"tools": {"listChanged": True}},
    "ttlMs": 0,
    "cacheScope": "private",
}
SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"


class World:
    def __init__(self, wire: FakeWire, session: ModernStdioSession, sweep: Sweep, clock: FakeClock) -> None:
        self.wire = wire
        self.session = session
        self.sweep = sweep
        self.clock = clock
        self.ear = Ear()
        session.listener = self.ear

    async def listen(self) -> int:
        """Let the session listen; the id of the stream that this takes."""
        self.session.listen()
        sent = await self.wire.next()
        assert sent["method"] == "subscriptions/listen"
        self.say(sent["id"], "subscriptions/acknowledged", notifications=sent["params"]["notifications"])
        return int(sent["id"])

    def say(self, stream: object, method: str, **params: Any) -> None:
        self.wire.say(method=f"notifications/{method}", params=params | {"_meta": {SUBSCRIPTION: stream}})


def opening(wire: FakeWire, sweep: Sweep, hello: Hello | None = None) -> asyncio.Task[ModernStdioSession]:
    async def greet(owned: OwnedSession) -> ModernStdioSession:
        await owned.opened()
        return await open_on(owned, hello or Hello(), 5, sweep)

    return asyncio.create_task(open_owned(TARGET, wire, sweep, greet))


@pytest.fixture
async def world(clock: FakeClock) -> AsyncIterator[World]:
    wire, sweep = FakeWire(), Sweep(clock, tick_seconds=3600)
    task = opening(wire, sweep)
    wire.say(id=(await wire.next())["id"], result=DISCOVERED)
    session = await task
    yield World(wire, session, sweep, clock)
    await session.aclose()
    await until(lambda: not runtime.running_tasks())
    assert wire.closed == 1
    assert len(sweep) == 0
    sweep.close()


async def done(task: asyncio.Task[bytes]) -> bytes:
    async with asyncio.timeout(10):
        return await task


def begin(world: World, asked: Any, channel: Ear | None = None) -> asyncio.Task[bytes]:
    return asyncio.create_task(world.session.request(asked, channel or Ear()))


async def test_a_session_begins_with_discovery_and_nothing_else(clock: FakeClock) -> None:
    wire, sweep = FakeWire(), Sweep(clock, tick_seconds=3600)
    task = opening(wire, sweep, Hello(b'{"roots":{}}'))
    sent = await wire.next()
    assert sent["method"] == "server/discover"
    assert sent["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] == {"roots": {}}
    wire.say(id=sent["id"], result=DISCOVERED)
    session = await task
    assert session.welcome.protocol_version == "2026-07-28"
    assert json.loads(session.welcome.discovered) == DISCOVERED
    assert json.loads(session.welcome.raw)["serverInfo"]["name"] == "clock"
    assert session.stateful
    assert wire.posted.empty()
    await session.aclose()
    assert session.closed
    sweep.close()


async def test_a_process_that_refuses_and_names_our_revision_is_asked_again_once(clock: FakeClock) -> None:
    wire, sweep = FakeWire(), Sweep(clock, tick_seconds=3600)
    task = opening(wire, sweep)
    refusal = {"code": -32022, "message": "no", "data": {"supported": ["2026-07-28"]}}
    wire.say(id=(await wire.next())["id"], error=refusal)
    wire.say(id=(await wire.next())["id"], result=DISCOVERED)
    await (await task).aclose()
    task = opening(wire := FakeWire(), sweep)
    for _ in range(2):
        wire.say(id=(await wire.next())["id"], error=refusal)
    with pytest.raises(HttpRefused):
        await task
    sweep.close()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"error": {"code": -32601, "message": "no"}}, HttpRefused),
        ({"error": {"code": -32022, "message": "no", "data": {"supported": ["2027-01-01"]}}}, Incompatible),
        ({"result": DISCOVERED | {"supportedVersions": ["2025-11-25"]}}, HttpRefused),
        ({"result": {}}, BadAnswer),
    ],
)
async def test_a_process_that_is_not_modern_says_so_and_is_ended(
    answer: Json, expected: type[UpstreamError], clock: FakeClock
) -> None:
    wire, sweep = FakeWire(), Sweep(clock, tick_seconds=3600)
    task = opening(wire, sweep)
    wire.say(id=(await wire.next())["id"], **answer)
    with pytest.raises(expected):
        await task
    assert wire.closed == 1
    sweep.close()


async def test_calls_carry_the_envelope_and_get_their_own_answers(world: World) -> None:
    ear = Ear()
    first = begin(world, call("tools/call", token="t", name="a"), ear)
    second = begin(world, call("tools/call", name="b"))
    one, other = await world.wire.next(), await world.wire.next()
    assert one["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] == "2026-07-28"
    assert one["params"]["_meta"]["progressToken"] == one["id"]
    world.wire.say(method="notifications/progress", params={"progressToken": one["id"], "progress": 1})
    world.wire.say(id=other["id"], result={"n": 2})
    world.wire.say(id=one["id"], result={"n": 1, "resultType": "complete"})
    assert json.loads(await done(first)) == {"n": 1, "resultType": "complete"}
    assert json.loads(await done(second)) == {"n": 2}
    assert await ear.next() == ("notifications/progress", {"progressToken": "t", "progress": 1})


async def test_questions_are_asked_of_the_caller_and_answered_with_the_next_request(world: World) -> None:
    class Client(Person):
        capabilities = b'{"roots":{}}'

    asked = call("tools/call", name="ask")
    asked.client = Client()
    ear = Ear()
    ear.answer.set_result(b'{"roots":[]}')
    task = begin(world, asked, ear)
    questions = {"r": {"method": "roots/list"}}
    first = await world.wire.next()
    world.wire.say(id=first["id"], result={"resultType": "input_required", "inputRequests": questions, "requestState": "s"})
    second = await world.wire.next()
    assert second["id"] != first["id"]
    assert (second["params"]["inputResponses"], second["params"]["requestState"]) == ({"r": {"roots": []}}, "s")
    world.wire.say(id=second["id"], result={"resultType": "complete"})
    assert await done(task) == b'{"resultType": "complete"}'


async def test_c1_a_cancelled_call_is_cancelled_by_name(world: World) -> None:
    task = begin(world, call("tools/call", name="hang"))
    id = (await world.wire.next())["id"]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    sent = await world.wire.next()
    assert (sent["method"], sent["params"]["requestId"]) == ("notifications/cancelled", id)


async def test_what_legacy_servers_alone_have_is_answered_here(world: World) -> None:
    assert await done(begin(world, call("logging/setLevel", level="debug"))) == b"{}"
    await world.session.notify("notifications/roots/list_changed")
    ping = begin(world, call("ping"))
    sent = await world.wire.next()
    assert sent["method"] == "server/discover"
    world.wire.say(id=sent["id"], result=DISCOVERED)
    assert await done(ping) == b"{}"


async def test_a_listen_stream_brings_what_carries_its_id_and_nothing_else(world: World) -> None:
    id = await world.listen()
    for stream in (id + 1, str(id), None, id):
        world.say(stream, "tools/list_changed", n=str(stream))
    assert await world.ear.next() == ("notifications/tools/list_changed", {"n": str(id)})
    assert world.ear.heard.empty()


async def test_what_belongs_to_no_stream_is_for_who_listens(world: World) -> None:
    world.wire.say(method="notifications/message", params={"level": "info", "data": "x"})
    assert await world.ear.next() == ("notifications/message", {"level": "info", "data": "x"})


async def test_a_listen_stream_is_no_call_in_flight(world: World) -> None:
    """A log message belongs to the one call that runs, however many streams are open."""
    await world.listen()
    ear = Ear()
    task = begin(world, call("tools/call", name="log"), ear)
    id = (await world.wire.next())["id"]
    world.wire.say(method="notifications/message", params={"level": "info", "data": "x"})
    assert (await ear.next())[0] == "notifications/message"
    world.wire.say(id=id, result={})
    await done(task)


async def test_a_stream_of_other_resources_takes_the_place_of_the_old_which_is_cancelled(world: World) -> None:
    old = await world.listen()
    task = begin(world, call("resources/subscribe", uri="demo://one"))
    sent = await world.wire.next()
    wanted = sent["params"]["notifications"]
    assert wanted == {"toolsListChanged": True, "resourceSubscriptions": ["demo://one"]}
    world.say(sent["id"], "subscriptions/acknowledged", notifications=wanted)
    assert await done(task) == b"{}"
    cancelled = await world.wire.next()
    assert (cancelled["method"], cancelled["params"]["requestId"]) == ("notifications/cancelled", old)
    world.say(old, "tools/list_changed")
    world.say(sent["id"], "resources/updated", uri="demo://one")
    assert await world.ear.next() == ("notifications/resources/updated", {"uri": "demo://one"})


@pytest.mark.parametrize("manner", ["result", "cancelled", "error"])
async def test_a_stream_may_end_in_either_way_and_is_opened_again(manner: str, world: World) -> None:
    id = await world.listen()
    if manner == "result":
        world.wire.say(id=id, result={"resultType": "complete", "_meta": {SUBSCRIPTION: id}})
    elif manner == "cancelled":
        world.wire.say(method="notifications/cancelled", params={"requestId": id})
    else:
        world.wire.say(id=id, error={"code": -32603, "message": "full"})
    await until(lambda: len(world.sweep) == 1)
    world.clock.advance(FIRST_PAUSE_SECONDS)
    world.sweep.expire_due()
    assert (await world.wire.next())["method"] == "subscriptions/listen"


async def test_u4_a_process_that_ends_takes_its_streams_and_calls_with_it(world: World) -> None:
    await world.listen()
    task = begin(world, call("tools/call", name="hang"))
    subscribing = begin(world, call("resources/subscribe", uri="demo://one"))
    await world.wire.next()
    world.wire.end("its process ended with exit code 3")
    for lost in (task, subscribing):
        with pytest.raises((ConnectionLost, SessionLost), match="exit code 3"):
            await done(lost)
    await until(lambda: world.session.closed)
    with pytest.raises(SessionLost):
        await done(begin(world, call("tools/call", name="x")))


async def test_an_error_answer_is_raised_as_it_came(world: World) -> None:
    task = begin(world, call("resources/read", uri="demo://none"))
    world.wire.say(id=(await world.wire.next())["id"], error={"code": -32602, "message": "no", "data": {"uri": "x"}})
    with pytest.raises(RpcError) as caught:
        await done(task)
    assert json.loads(caught.value.error) == {"code": -32602, "message": "no", "data": {"uri": "x"}}
