"""`subscriptions/listen`: what modern clients hear outside their calls, and nobody else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from mcpgateway import runtime
from mcpgateway.downstream.listen import BEAT_SECONDS
from tests.clients.modern_wire import SERVER_INFO, SUBSCRIPTION, ModernWire
from tests.clients.wire import Message, Wire
from tests.fakes.callers import bearer, letting_in
from tests.fakes.gateway import RunningGateway, one, serving
from tests.fakes.moved_time import moved_time
from tests.fakes.process import Server
from tests.servers.asking_stub import AskingStub

AUTH = letting_in("alice", "bob")
UPDATED = "notifications/resources/updated"
TOUCHABLE = "demo://touchable"

Stream = AsyncIterator[Message]


@pytest.fixture
async def stub() -> AsyncIterator[AskingStub]:
    async with AskingStub() as server:
        yield server


def client_of(gateway: RunningGateway, name: str = "", url: str = "") -> ModernWire:
    headers = bearer(name) if name else {}
    return ModernWire(url or gateway.server("up"), headers)


async def acknowledged(stream: Stream) -> Message:
    """What the client is told it will hear: the first message of every stream."""
    first = await anext(stream)
    assert first["method"] == "notifications/subscriptions/acknowledged", first
    told: Message = first["params"]["notifications"]
    return told


def subscribed(stub: AskingStub, rpc: str = "resources/subscribe") -> list[tuple[str, str]]:
    """The session and the URI of each such request."""
    return [(entry["session"], entry["message"]["params"]["uri"]) for entry in stub.of(rpc)]


def say_updated(stub: AskingStub, uri: str) -> None:
    stub.do({"notify": {"jsonrpc": "2.0", "method": UPDATED, "params": {"uri": uri}}})


async def heard_by(gateway: RunningGateway, stub: AskingStub) -> None:
    """Wait until the streams are open on which the stub speaks: the gateway's own, and that of the one caller."""
    await gateway.until(lambda: stub.seen.open_streams >= 2)


@pytest.mark.parametrize("id", ["listen-1", 7])
async def test_a_stream_begins_with_what_is_honoured_and_every_message_names_it(id: int | str, stub: AskingStub) -> None:
    async with serving(one(stub.url)) as gateway, client_of(gateway) as wire, asyncio.timeout(20):
        wanted = {"toolsListChanged": True, "promptsListChanged": True, "resourceSubscriptions": ["note://1"]}
        async with wire.listening(id, **wanted) as stream:
            first = await anext(stream)
            assert first["params"]["_meta"] == {SUBSCRIPTION: id}
            # The server has no prompts.
            assert first["params"]["notifications"] == {"toolsListChanged": True, "resourceSubscriptions": ["note://1"]}
            await heard_by(gateway, stub)
            say_updated(stub, "note://1")
            update = await anext(stream)
            assert update["method"] == UPDATED and update["params"] == {"uri": "note://1", "_meta": {SUBSCRIPTION: id}}


async def test_a_session_that_is_open_already_is_heard_from_then_on(stub: AskingStub) -> None:
    async with serving(one(stub.url)) as gateway, client_of(gateway) as wire, asyncio.timeout(20):
        await wire.call("counter")
        async with wire.listening(resourceSubscriptions=["note://1"]) as stream:
            await acknowledged(stream)
            await heard_by(gateway, stub)
            say_updated(stub, "note://1")
            assert (await anext(stream))["method"] == UPDATED
            assert stub.seen.initializes == 2  # the gateway's own, and one for all that this principal does


async def test_only_what_was_asked_for_is_heard(stub: AskingStub) -> None:
    async with serving(one(stub.url)) as gateway, client_of(gateway) as wire, asyncio.timeout(20):
        async with (
            wire.listening("tools", toolsListChanged=True) as tools,
            wire.listening("note", resourceSubscriptions=["note://1"]) as note,
        ):
            assert await acknowledged(tools) == {"toolsListChanged": True}
            assert await acknowledged(note) == {"resourceSubscriptions": ["note://1"]}
            await heard_by(gateway, stub)
            say_updated(stub, "note://2")
            say_updated(stub, "note://1")
            stub.do({"notify": {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": 1}}})
            stub.do({"notify": {"jsonrpc": "2.0", "method": "notifications/resources/list_changed"}})
            stub.do({"notify": {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}})
            assert (await anext(tools))["method"] == "notifications/tools/list_changed"
            assert (await anext(note))["params"]["uri"] == "note://1"
            say_updated(stub, "note://1")
            assert (await anext(note))["params"]["uri"] == "note://1"


async def test_a_stream_hears_of_parts_of_what_it_asked_for(stub: AskingStub) -> None:
    async with serving(one(stub.url)) as gateway, client_of(gateway) as wire, asyncio.timeout(20):
        async with (
            wire.listening("whole", resourceSubscriptions=["note://1"]) as whole,
            wire.listening("part", resourceSubscriptions=["note://1/a"]) as part,
        ):
            await acknowledged(whole)
            await acknowledged(part)
            await heard_by(gateway, stub)
            for uri in ("note://1/b", "note://1/a", "note://1"):
                say_updated(stub, uri)
            assert [(await anext(whole))["params"]["uri"] for _ in range(3)] == ["note://1/b", "note://1/a", "note://1"]
            say_updated(stub, "note://1/a/x")
            assert [(await anext(part))["params"]["uri"] for _ in range(2)] == ["note://1/a", "note://1/a/x"]


async def test_i11_an_update_reaches_the_principal_whose_session_said_it(stub: AskingStub) -> None:
    async with serving(one(stub.url, AUTH)) as gateway, asyncio.timeout(20):
        async with client_of(gateway, "alice") as alice, client_of(gateway, "bob") as bob:
            wanted = {"resourceSubscriptions": ["note://1"]}
            async with alice.listening(**wanted) as of_alice, bob.listening(**wanted) as of_bob:
                await acknowledged(of_alice)
                await acknowledged(of_bob)
                await gateway.until(lambda: stub.seen.open_streams >= 3)
                (hers, _), (his, _) = subscribed(stub)
                assert hers != his
                update = {"jsonrpc": "2.0", "method": UPDATED, "params": {"uri": "note://1", "for": "bob"}}
                stub.do({"session": his, "notify": update})
                stub.do({"session": hers, "notify": update | {"params": {"uri": "note://1", "for": "alice"}}})
                assert (await anext(of_alice))["params"]["for"] == "alice"
                assert (await anext(of_bob))["params"]["for"] == "bob"


async def test_a_subscription_ends_with_the_last_stream_of_its_principal(stub: AskingStub) -> None:
    async with serving(one(stub.url)) as gateway, asyncio.timeout(20):
        async with (
            client_of(gateway) as one_client,
            client_of(gateway, url=gateway.url) as other,
            contextlib.AsyncExitStack() as held,
        ):
            last = await held.enter_async_context(other.listening("last", resourceSubscriptions=["note://1"]))
            await acknowledged(last)
            async with one_client.listening("first", resourceSubscriptions=["note://1"]) as first:
                await acknowledged(first)
                await heard_by(gateway, stub)
            listening = gateway.gateway._modern._listening
            await gateway.until(lambda: len(listening) == 1)
            say_updated(stub, "note://1")
            assert (await anext(last))["method"] == UPDATED
            assert subscribed(stub, "resources/unsubscribe") == []
            await held.aclose()
            await gateway.until(lambda: len(subscribed(stub, "resources/unsubscribe")) == 1)
            await gateway.until(lambda: stub.seen.open_streams == 1)  # the gateway's own


async def test_what_cannot_be_subscribed_to_is_not_acknowledged(stub: AskingStub) -> None:
    stub.orders.stateful = False
    async with serving(one(stub.url)) as gateway, client_of(gateway) as wire, asyncio.timeout(20):
        async with wire.listening(resourceSubscriptions=["note://1"]) as stream:
            assert await acknowledged(stream) == {}


async def test_a_session_that_was_lost_is_subscribed_in_again_and_the_client_told_to_look(stub: AskingStub) -> None:
    async with serving(one(stub.url)) as gateway, client_of(gateway) as wire, asyncio.timeout(20):
        async with wire.listening(toolsListChanged=True, resourceSubscriptions=["note://1"]) as stream:
            await acknowledged(stream)
            stub.do({"forget_sessions": "404"})
            with moved_time(gateway) as time:
                time.passes(BEAT_SECONDS)
                heard = {(await anext(stream))["method"] for _ in range(2)}
                assert heard == {UPDATED, "notifications/tools/list_changed"}
                assert len({session for session, _ in subscribed(stub)}) == 2
                before = len(stub.of("ping"))
                time.passes(BEAT_SECONDS)  # nothing was lost meanwhile, so nothing is said
                await gateway.until(lambda: len(stub.of("ping")) > before)
                await gateway.until(lambda: "look after subscriptions" not in runtime.running_tasks())
            await heard_by(gateway, stub)
            said = {"uri": "note://1", "by": "the server"}
            stub.do({"notify": {"jsonrpc": "2.0", "method": UPDATED, "params": said}})
            assert (await anext(stream))["params"]["by"] == "the server"


async def test_a_gateway_that_drains_ends_the_stream_with_its_result(stub: AskingStub) -> None:
    async with serving(one(stub.url)) as gateway, client_of(gateway) as wire, asyncio.timeout(20):
        async with wire.listening("mine", toolsListChanged=True) as stream:
            await acknowledged(stream)
            gateway.gateway.drain()
            *_, last = [message async for message in stream]
            assert last["id"] == "mine" and last["result"]["resultType"] == "complete"
            assert last["result"]["_meta"][SUBSCRIPTION] == "mine" and SERVER_INFO in last["result"]["_meta"]


async def test_nothing_is_left_of_a_client_that_leaves(stub: AskingStub) -> None:
    async with serving(one(stub.url)) as gateway, client_of(gateway) as wire, asyncio.timeout(20):
        async with wire.listening(toolsListChanged=True, resourceSubscriptions=["note://1"]) as stream:
            await acknowledged(stream)
        await gateway.until(lambda: len(gateway.gateway._modern._listening) == 0)
        assert not gateway.gateway.announcer.conversations
        await gateway.until(lambda: len(subscribed(stub, "resources/unsubscribe")) == 1)


async def test_what_is_listened_to_must_have_its_form(stub: AskingStub) -> None:
    async with serving(one(stub.url)) as gateway, client_of(gateway) as wire, asyncio.timeout(20):
        for wanted in (None, [], {"toolsListChanged": 1}, {"resourceSubscriptions": "note://1"}):
            reply = await wire.post(wire.request_message("subscriptions/listen", {"notifications": wanted}))
            assert (reply.status, reply.message["error"]["code"]) == (400, -32602)


async def test_a_server_that_is_down_is_said_before_the_stream_begins(stub: AskingStub) -> None:
    async with serving(one(stub.url)) as gateway, client_of(gateway) as wire, asyncio.timeout(20):
        await stub.aclose()
        response = await wire.request("subscriptions/listen", {"notifications": {"toolsListChanged": True}})
        assert response["error"]["data"]["upstream"] == "up"


async def test_one_principal_cannot_open_streams_without_end(stub: AskingStub) -> None:
    async with serving(one(stub.url)) as gateway, client_of(gateway) as wire, asyncio.timeout(20):
        gateway.gateway._modern._listening.per_user = 1
        async with wire.listening(toolsListChanged=True) as stream:
            await acknowledged(stream)
            reply = await wire.post(wire.request_message("subscriptions/listen", {"notifications": {}}))
            assert reply.status == 429


async def test_c6_a_tool_that_is_added_while_running_is_announced(stateful_1x: Server) -> None:
    async with serving(one(stateful_1x.url)) as gateway, client_of(gateway) as wire, asyncio.timeout(20):
        async with wire.listening(toolsListChanged=True) as stream:
            await acknowledged(stream)
            heard = asyncio.create_task(anext(stream))  # type: ignore[arg-type]
            number = 0
            # The server speaks to a stream that it cannot tell us is open: so it is made to say it again.
            while not heard.done():
                number += 1
                await wire.call("add_tool_live", {"name": f"live_{id(stream)}_{number}"})
            assert heard.result()["method"] == "notifications/tools/list_changed"


async def test_a_resource_that_changes_is_announced(stateful_1x: Server) -> None:
    async with serving(one(stateful_1x.url)) as gateway, client_of(gateway, url=gateway.url) as wire, asyncio.timeout(20):
        async with wire.listening(resourceSubscriptions=[TOUCHABLE, "demo://text"]) as stream:
            assert (await acknowledged(stream))["resourceSubscriptions"] == [TOUCHABLE, "demo://text"]
            heard = asyncio.create_task(anext(stream))  # type: ignore[arg-type]
            while not heard.done():
                await wire.call("up__touch")
            assert heard.result()["params"]["uri"] == TOUCHABLE


async def test_legacy_and_modern_clients_of_one_principal_do_not_end_each_others_subscriptions(stub: AskingStub) -> None:
    async with serving(one(stub.url)) as gateway, client_of(gateway) as modern, Wire(gateway.server("up")) as legacy:
        async with asyncio.timeout(20):
            await legacy.initialize()
            await legacy.request("resources/subscribe", {"uri": "note://1"})
            async with modern.listening(resourceSubscriptions=["note://1"]) as stream:
                await acknowledged(stream)
                await legacy.request("resources/unsubscribe", {"uri": "note://1"})
                (first, _), (second, _) = subscribed(stub)
                assert first != second and subscribed(stub, "resources/unsubscribe") == [(first, "note://1")]
