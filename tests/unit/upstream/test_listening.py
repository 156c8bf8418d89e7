"""One listen stream for all sessions of an identity: who hears what, and what happens when it changes or breaks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec import Raw

from mcpgateway import runtime
from mcpgateway.errors import AuthRefused, ConnectFailed, ConnectionLost, HttpRefused, RpcError, UpstreamError, UpstreamTimeout
from mcpgateway.protocol import jsonrpc
from mcpgateway.runtime import Sweep
from mcpgateway.upstream.base import Welcome
from mcpgateway.upstream.listening import (
    ACKNOWLEDGE_SECONDS,
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    MAX_URIS,
    Heard,
    Listening,
)
from mcpgateway.upstream.subscriptions import without_id
from tests.fakes.clock import FakeClock
from tests.fakes.peers import Ear
from tests.fakes.until import until
from tests.fakes.upstream_session import quiet

Json = dict[str, Any]
ALL = {"tools": {"listChanged": True}, "prompts": {"listChanged": True}, "resources": {"listChanged": True}}
LISTS = {"toolsListChanged": True, "promptsListChanged": True, "resourcesListChanged": True}


class Session:
    """A member, with an ear."""

    def __init__(self, capabilities: Json = ALL) -> None:
        self.welcome = Welcome("2026-07-28", {name: jsonrpc.raw(value) for name, value in capabilities.items()})
        self.ear = Ear()
        self.listener: Ear | None = self.ear


class Stream:
    """One stream that was asked for, in the test's hands."""

    def __init__(self, wanted: Raw, heard: Heard) -> None:
        self.wanted: Json = json.loads(bytes(wanted))
        self.fate = ""
        self._heard = heard
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        try:
            await self._over
            self.fate = "ended"
        except asyncio.CancelledError:
            self.fate = "closed"
            raise

    def say(self, method: str, **params: Any) -> None:
        self._heard(f"notifications/{method}", {name: jsonrpc.raw(value) for name, value in params.items()})

    def acknowledge(self, **honoured: Any) -> None:
        self.say("subscriptions/acknowledged", notifications=honoured or self.wanted)

    def end(self, error: Exception | None = None) -> None:
        if error is None:
            self._over.set_result(None)
        else:
            self._over.set_exception(error)


class World:
    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.sweep = Sweep(clock, tick_seconds=3600)
        self.streams: list[Stream] = []
        self.listening = Listening("up", self._begin, self.sweep)

    async def _begin(self, wanted: Raw, heard: Heard) -> None:
        self.streams.append(Stream(wanted, heard))
        await self.streams[-1].run()

    async def stream(self, number: int) -> Stream:
        """The `number`th stream, once it is asked for."""
        await until(lambda: len(self.streams) >= number)
        return self.streams[number - 1]

    async def heard_by(self, session: Session, *, acknowledged: int = 1) -> Stream:
        """Let a session listen, and have the stream acknowledged that this takes."""
        self.listening.listen(session)
        stream = await self.stream(acknowledged)
        stream.acknowledge()
        return stream

    def subscribe(self, session: Session, uri: str, timeout_seconds: float = 10) -> asyncio.Task[None]:
        return asyncio.create_task(self.listening.subscribe(session, uri, timeout_seconds))

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.sweep.expire_due()


@pytest.fixture
async def world(clock: FakeClock) -> AsyncIterator[World]:
    world = World(clock)
    yield world
    for member in {*world.listening._lists, *world.listening._uris}:
        world.listening.forget(member)
    await until(lambda: not runtime.running_tasks())
    assert len(world.sweep) == 0
    world.sweep.close()


async def done(task: asyncio.Task[None]) -> None:
    async with asyncio.timeout(10):
        await task


async def test_nothing_is_opened_before_somebody_listens_and_nothing_for_a_server_that_announces_nothing(world: World) -> None:
    await quiet()
    world.listening.listen(Session({"tools": {}, "resources": {"listChanged": False}, "prompts": {"listChanged": 1}}))
    await quiet()
    assert world.streams == []


async def test_all_sessions_of_an_identity_share_one_stream(world: World) -> None:
    sessions = [Session() for _ in range(3)]
    stream = await world.heard_by(sessions[0])
    for session in sessions[1:]:
        world.listening.listen(session)
    stream.say("tools/list_changed")
    for session in sessions:
        assert await session.ear.next() == ("notifications/tools/list_changed", {})
    assert [stream.wanted for stream in world.streams] == [LISTS]


async def test_only_what_the_server_announces_is_asked_for(world: World) -> None:
    world.listening.listen(Session({"tools": {"listChanged": True}, "resources": {"subscribe": True}}))
    assert (await world.stream(1)).wanted == {"toolsListChanged": True}


async def test_the_stream_ends_with_the_last_who_listens(world: World) -> None:
    one, other = Session(), Session()
    stream = await world.heard_by(one)
    world.listening.listen(other)
    world.listening.stop_listening(one)
    await quiet()
    assert stream.fate == ""
    world.listening.forget(other)
    await until(lambda: stream.fate == "closed")
    assert len(world.streams) == 1


async def test_c5_an_update_is_told_to_those_who_subscribed_to_that_resource_and_to_nobody_else(world: World) -> None:
    one, other, third = Session(), Session(), Session()
    first = world.subscribe(one, "demo://one")
    (await world.stream(1)).acknowledge()
    await done(first)
    second = world.subscribe(other, "demo://other")
    stream = await world.stream(2)
    assert stream.wanted == {"resourceSubscriptions": ["demo://one", "demo://other"]}
    stream.acknowledge()
    await done(second)
    world.listening.listen(third)
    (await world.stream(3)).acknowledge()
    world.streams[2].say("resources/updated", uri="demo://one")
    world.streams[2].say("resources/updated", uri="demo://other/part")
    world.streams[2].say("resources/updated", uri="demo://onetwo")
    world.streams[2].say("resources/updated")
    world.streams[2].say("resources/list_changed")
    assert await one.ear.next() == ("notifications/resources/updated", {"uri": "demo://one"})
    assert await other.ear.next() == ("notifications/resources/updated", {"uri": "demo://other/part"})
    assert await third.ear.next() == ("notifications/resources/list_changed", {})
    assert [session.ear.heard.qsize() for session in (one, other, third)] == [0, 0, 0]


async def test_the_old_stream_is_heard_until_the_new_one_is_acknowledged(world: World) -> None:
    session = Session()
    old = await world.heard_by(session)
    subscribing = world.subscribe(session, "demo://one")
    new = await world.stream(2)
    old.say("tools/list_changed")
    assert (await session.ear.next())[0] == "notifications/tools/list_changed"
    new.say("tools/list_changed")
    assert old.fate == "" and session.ear.heard.empty()
    new.acknowledge()
    await done(subscribing)
    await until(lambda: old.fate == "closed")
    old.say("tools/list_changed")
    new.say("resources/updated", uri="demo://one")
    assert (await session.ear.next())[0] == "notifications/resources/updated"
    assert session.ear.heard.empty()


async def test_what_changes_while_a_stream_is_opened_is_asked_for_with_the_next(world: World) -> None:
    session = Session({})
    tasks = [world.subscribe(session, "demo://1")]
    first = await world.stream(1)
    tasks += [world.subscribe(session, f"demo://{number}") for number in (2, 3, 4)]
    await quiet()
    assert len(world.streams) == 1
    first.acknowledge()
    second = await world.stream(2)
    assert second.wanted == {"resourceSubscriptions": [f"demo://{number}" for number in (1, 2, 3, 4)]}
    assert [task.done() for task in tasks] == [True, False, False, False]
    second.acknowledge()
    for task in tasks:
        await done(task)


async def test_a_subscription_that_is_held_already_costs_nothing(world: World) -> None:
    one, other = Session(), Session()
    first = world.subscribe(one, "demo://one")
    (await world.stream(1)).acknowledge()
    await done(first)
    await done(world.subscribe(one, "demo://one"))
    await done(world.subscribe(other, "demo://one"))
    world.listening.unsubscribe(one, "demo://one")
    world.streams[0].say("resources/updated", uri="demo://one")
    assert (await other.ear.next())[1] == {"uri": "demo://one"}
    assert one.ear.heard.empty()
    assert len(world.streams) == 1


async def test_a_resource_that_is_not_acknowledged_is_refused_and_asked_for_no_more(world: World) -> None:
    session = Session()
    await world.heard_by(session)
    subscribing = world.subscribe(session, "demo://none")
    (await world.stream(2)).acknowledge(**LISTS)
    with pytest.raises(RpcError) as caught:
        await done(subscribing)
    assert caught.value.code == -32602
    assert (await world.stream(3)).wanted == LISTS


async def test_unsubscribing_narrows_the_stream_without_a_wait(world: World) -> None:
    session = Session()
    await world.heard_by(session)
    subscribing = world.subscribe(session, "demo://one")
    (await world.stream(2)).acknowledge()
    await done(subscribing)
    world.listening.unsubscribe(session, "demo://one")
    world.streams[1].say("resources/updated", uri="demo://one")
    assert session.ear.heard.empty()
    assert (await world.stream(3)).wanted == LISTS


BREAKS: dict[str, Exception | None] = {
    "its end": None,
    "a broken connection": ConnectionLost("up", "gone"),
    "an error": RpcError.of(-32603, "full"),
    "a fault of ours": ValueError("oops"),
}


@pytest.mark.parametrize("kind", BREAKS)
async def test_a_stream_that_ends_is_opened_again_and_what_was_missed_is_made_up_for(kind: str, world: World) -> None:
    session = Session({"tools": {"listChanged": True}})
    await world.heard_by(session)
    subscribing = world.subscribe(session, "demo://one")
    (await world.stream(2)).acknowledge()
    await done(subscribing)
    world.streams[1].end(BREAKS[kind])
    await until(lambda: len(world.sweep) == 1)
    assert len(world.streams) == 2
    world.pass_time(FIRST_PAUSE_SECONDS)
    again = await world.stream(3)
    assert again.wanted == {"toolsListChanged": True, "resourceSubscriptions": ["demo://one"]}
    assert session.ear.heard.empty()
    again.acknowledge()
    assert await session.ear.next() == ("notifications/tools/list_changed", {})
    assert await session.ear.next() == ("notifications/resources/updated", {"uri": "demo://one"})


async def test_the_pauses_grow_and_begin_anew_once_something_is_heard(world: World) -> None:
    stream = await world.heard_by(Session())
    seconds = FIRST_PAUSE_SECONDS
    for number in range(2, 10):
        stream.end()
        await until(lambda: len(world.sweep) == 1)
        world.pass_time(seconds - 0.01)
        await quiet()
        assert len(world.streams) == number - 1
        world.pass_time(0.02)
        stream = await world.stream(number)
        stream.acknowledge()
        seconds = min(seconds * 2, LONGEST_PAUSE_SECONDS)
    stream.say("tools/list_changed")
    stream.end()
    await until(lambda: len(world.sweep) == 1)
    world.pass_time(FIRST_PAUSE_SECONDS)
    await world.stream(10)


REFUSALS: dict[str, UpstreamError | RpcError] = {
    "no such method": RpcError.of(-32601, "no"),
    "401": AuthRefused("up", "no", status=401),
    "405": HttpRefused("up", "no", status=405),
}


@pytest.mark.parametrize("kind", REFUSALS)
async def test_a_server_that_refuses_is_asked_again_only_for_something_else(kind: str, world: World) -> None:
    world.listening.listen(Session())
    (await world.stream(1)).end(REFUSALS[kind])
    await until(lambda: not runtime.running_tasks())
    assert world.listening.unauthorized == (kind == "401")
    world.listening.listen(Session())
    world.pass_time(3600)
    await quiet()
    assert len(world.streams) == 1
    subscribing = world.subscribe(Session(), "demo://one")
    (await world.stream(2)).acknowledge()
    await done(subscribing)


async def test_i10_a_server_that_refused_a_credential_is_asked_again_with_another(world: World) -> None:
    world.listening.listen(Session())
    (await world.stream(1)).end(REFUSALS["401"])
    await until(lambda: world.listening.unauthorized)
    world.listening.retry()
    (await world.stream(2)).acknowledge()
    assert not world.listening.unauthorized


PASSING: dict[str, UpstreamError | RpcError] = {
    "down": ConnectFailed("up", "down"),
    "503": HttpRefused("up", "busy", status=503),
    "429": HttpRefused("up", "busy", status=429),
    "full": RpcError.of(-32603, "full"),
}


@pytest.mark.parametrize("kind", PASSING)
async def test_a_subscription_that_fails_says_why_and_leaves_the_stream_as_it_was(kind: str, world: World) -> None:
    session = Session()
    stream = await world.heard_by(session)
    subscribing = world.subscribe(session, "demo://one")
    (await world.stream(2)).end(PASSING[kind])
    with pytest.raises(type(PASSING[kind])):
        await done(subscribing)
    assert stream.fate == ""
    world.pass_time(3600)
    await quiet()
    assert len(world.streams) == 2


async def test_a_subscription_in_a_pause_is_tried_at_once(world: World) -> None:
    session = Session()
    (await world.heard_by(session)).end()
    await until(lambda: len(world.sweep) == 1)
    subscribing = world.subscribe(session, "demo://one")
    (await world.stream(2)).acknowledge()
    await done(subscribing)


async def test_a_subscription_that_is_not_acknowledged_in_time_fails(world: World) -> None:
    session = Session()
    with pytest.raises(UpstreamTimeout):
        await done(world.subscribe(session, "demo://one", timeout_seconds=0.01))
    await until(lambda: world.streams[0].fate == "closed")


async def test_a_stream_that_is_never_acknowledged_is_given_up_and_opened_again(world: World) -> None:
    world.listening.listen(Session())
    first = await world.stream(1)
    world.pass_time(ACKNOWLEDGE_SECONDS)
    await until(lambda: first.fate == "closed")
    world.pass_time(FIRST_PAUSE_SECONDS)
    (await world.stream(2)).acknowledge()


async def test_a_caller_that_gives_up_subscribing_leaves_nothing(world: World) -> None:
    subscribing = world.subscribe(Session(), "demo://one")
    stream = await world.stream(1)
    subscribing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await subscribing
    await until(lambda: stream.fate == "closed")


async def test_one_listeners_fault_is_not_the_others_trouble(world: World) -> None:
    class Faulty(Ear):
        def notified(self, method: str, params: bytes) -> None:
            raise ValueError("oops")

    faulty, deaf, sound = Session(), Session(), Session()
    faulty.listener, deaf.listener = Faulty(), None
    for session in (faulty, deaf, sound):
        world.listening.listen(session)
    (await world.stream(1)).acknowledge()
    world.streams[0].say("tools/list_changed")
    assert (await sound.ear.next())[0] == "notifications/tools/list_changed"


async def test_a_session_that_ends_while_it_is_told_something_ends_in_peace(world: World) -> None:
    session = Session()

    class Leaving(Ear):
        def notified(self, method: str, params: bytes) -> None:
            world.listening.forget(session)

    session.listener = Leaving()
    stream = await world.heard_by(session)
    stream.say("tools/list_changed")
    await until(lambda: stream.fate == "closed")


async def test_p16_subscriptions_have_an_end(world: World) -> None:
    session = Session()
    world.listening._uris[session] = {f"demo://{number}" for number in range(MAX_URIS)}
    with pytest.raises(RpcError):
        await done(world.subscribe(session, "demo://one-more"))


@pytest.mark.parametrize(
    ("meta", "rest"),
    [
        ({"io.modelcontextprotocol/subscriptionId": 7}, None),
        ({"io.modelcontextprotocol/subscriptionId": 7, "a": 1}, {"a": 1}),
    ],
)
def test_the_id_of_the_subscription_is_taken_out(meta: Json, rest: Json | None) -> None:
    params, id = without_id({"uri": jsonrpc.raw("x"), "_meta": jsonrpc.raw(meta)})
    assert bytes(id or b"") == b"7"
    assert params == {"uri": jsonrpc.raw("x")} | ({"_meta": jsonrpc.raw(rest)} if rest else {})
    for nothing in ({"uri": jsonrpc.raw("x")}, {"_meta": jsonrpc.raw(5)}):
        assert without_id(nothing) == (nothing, None)
