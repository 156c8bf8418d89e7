"""What MCP clients meet: sessions, streams, questions, cancellation, and the way a modern client finds in."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import httpx2
import pytest
from mcp import Client, types
from mcp.client.streamable_http import streamable_http_client

from mcpgateway import runtime
from mcpgateway.services.upstream import State
from tests.clients.messages import text_of, tool
from tests.clients.wire import Message, Wire
from tests.fakes.gateway import RunningGateway, one, serving
from tests.fakes.process import Server
from tests.servers.waiting_stub import WaitingStub

ELICITATION: Message = {"elicitation": {}}


@pytest.fixture
async def stub() -> AsyncIterator[WaitingStub]:
    async with WaitingStub() as server:
        yield server


@contextlib.asynccontextmanager
async def client_of(
    url: str, capabilities: Message | None = None, headers: dict[str, str] | None = None
) -> AsyncIterator[Wire]:
    async with Wire(url, headers) as wire:
        await wire.initialize(capabilities)
        yield wire


@contextlib.asynccontextmanager
async def sdk_client(url: str, mode: str) -> AsyncIterator[Client]:
    """The SDK's own client; in the mode 'auto' it finds out for itself what a server speaks."""
    async with httpx2.AsyncClient(trust_env=False) as http:
        transport = streamable_http_client(url, http_client=http)
        async with Client(transport, mode=mode) as client:
            yield client


@contextlib.asynccontextmanager
async def two_of(gateway: RunningGateway, capabilities: Message | None = None) -> AsyncIterator[tuple[Wire, Wire]]:
    """Two clients, each with a session of its own."""
    async with client_of(gateway.url, capabilities) as one_wire, client_of(gateway.url, capabilities) as other:
        yield one_wire, other


@pytest.mark.parametrize(("mode", "revision"), [("auto", "2026-07-28"), ("legacy", "2025-11-25"), ("2026-07-28", "2026-07-28")])
async def test_the_sdks_own_client_works_in_each_of_its_modes(mode: str, revision: str, stateful_1x: Server) -> None:
    async with serving(one(stateful_1x.url)) as gateway, asyncio.timeout(20):
        for url, name in ((gateway.url, "up__add"), (gateway.server("up"), "add")):
            async with sdk_client(url, mode) as client:
                assert client.protocol_version == revision
                assert name in {each.name for each in (await client.list_tools()).tools}
                result = await client.call_tool(name, {"a": 2, "b": 3})
                assert result.structured_content == {"sum": 5}


@pytest.mark.parametrize("version", [None, "2025-11-25"])
async def test_a_legacy_probe_is_told_that_its_revision_has_no_discovery(version: str | None, stub: WaitingStub) -> None:
    async with serving(one(stub.url)) as gateway, Wire(gateway.url) as wire:
        probe = {"jsonrpc": "2.0", "id": 1, "method": "server/discover", "params": {}}
        reply = await wire.post(probe, {"mcp-protocol-version": version})
        assert reply.status == 400 and "mcp-session-id" not in reply.headers
        assert reply.message["error"]["code"] == -32601


@pytest.mark.parametrize("asked", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28", "1"])
async def test_initialize_agrees_on_a_revision(asked: str, stub: WaitingStub) -> None:
    async with serving(one(stub.url)) as gateway, Wire(gateway.url) as wire:
        reply = await wire.initialize(revision=asked)
        assert reply.message["result"]["protocolVersion"] == (asked if asked.startswith(("2024", "2025")) else "2025-11-25")
        assert "result" in await wire.request("ping")


async def test_initialize_of_one_server_is_that_servers_own_and_of_all_lists_them(stub: WaitingStub) -> None:
    async with serving(one(stub.url)) as gateway, asyncio.timeout(20):
        async with client_of(gateway.server("up")) as wire:
            assert wire.welcome["serverInfo"] == {"name": "raw-stub", "version": "1"}
        async with client_of(gateway.url) as wire:
            assert wire.welcome["serverInfo"]["name"] == "mcpgateway" and "up" in wire.welcome["instructions"]


async def test_initialize_of_a_server_that_is_down_says_so_and_opens_nothing(stub: WaitingStub) -> None:
    await stub.aclose()
    async with serving(one(stub.url)) as gateway, Wire(gateway.server("up")) as wire, asyncio.timeout(20):
        reply = await wire.initialize()
        assert "'up'" in reply.message["error"]["message"] and "mcp-session-id" not in reply.headers
        assert len(gateway.gateway.sessions) == 0
        assert gateway.gateway.upstreams["up"].state is State.UNREACHABLE


@pytest.mark.parametrize("policy", ["auto", "bound"])
async def test_when_no_session_can_be_added_nothing_is_left_upstream(policy: str, stub: WaitingStub) -> None:
    document = one(stub.url, sessions=policy) | {"gateway": {"limits": {"client_sessions": 1}}}
    async with serving(document) as gateway, client_of(gateway.server("up")) as first, asyncio.timeout(20):
        waiting = asyncio.create_task(first.call("wait"))
        await gateway.until(lambda: stub.seen.running == 1)
        gateway.gateway.upstreams["up"]._welcomes.clear()
        async with Wire(gateway.server("up")) as second:
            reply = await second.initialize()
            assert reply.status == 429 and reply.headers["retry-after"]
        await gateway.until(lambda: gateway.gateway.pool.get_metrics()["open"] <= 2 and len(stub.seen.deletes) == 1)
        stub.release.set()
        assert text_of(await waiting) == "released"


async def test_c1_a_client_that_disconnects_cancels_nothing(stub: WaitingStub) -> None:
    async with serving(one(stub.url)) as gateway, client_of(gateway.url) as wire, asyncio.timeout(20):
        async with Wire(gateway.url) as leaving:
            leaving.session = wire.session
            call = asyncio.create_task(leaving.post(tool("up__wait")))
            await gateway.until(lambda: stub.seen.running == 1)
            call.cancel()
            await asyncio.wait([call])
        assert text_of(await wire.call("up__echo", {"text": "x"})) == "x"
        session = gateway.gateway.sessions.all()[0]
        assert list(session.in_flight) == [1] and stub.told("notifications/cancelled") == []
        stub.release.set()
        await gateway.until(lambda: not session.in_flight and stub.seen.running == 0)
        assert stub.told("notifications/cancelled") == []
        assert gateway.gateway.figures.of("up").errors.total() == 0


async def test_c2_the_idle_time_begins_when_a_call_or_a_stream_ends(stub: WaitingStub) -> None:
    async with serving(one(stub.url)) as gateway, client_of(gateway.url) as wire, asyncio.timeout(20):
        session, now = gateway.gateway.sessions.all()[0], gateway.gateway.sweep.now
        call = asyncio.create_task(wire.call("up__wait"))
        await gateway.until(lambda: stub.seen.running == 1)
        ending = now()
        stub.release.set()
        await call
        assert session.last_used_at >= ending
        async with wire.listen():
            await gateway.until(lambda: session.stream is not None)
            leaving = now()
        await gateway.until(lambda: session.stream is None)
        assert session.last_used_at >= leaving


async def test_a_cancelled_call_is_cancelled_upstream_and_no_other(stub: WaitingStub) -> None:
    async with serving(one(stub.url)) as gateway, client_of(gateway.url) as wire, client_of(gateway.url) as other:
        async with asyncio.timeout(20):
            calls = [asyncio.create_task(wire.post(tool("up__wait", id))) for id in (1, "1")]
            others = asyncio.create_task(other.post(tool("up__wait", 1)))
            await gateway.until(lambda: stub.seen.running == 3)
            await wire.notify("notifications/cancelled", {"requestId": "1", "reason": "enough"})
            cancelled = (await calls[1]).message
            assert (cancelled["id"], cancelled["error"]["code"]) == ("1", -32800)
            await gateway.until(lambda: len(stub.told("notifications/cancelled")) == 1)
            stub.release.set()
            assert text_of((await calls[0]).message) == text_of((await others).message) == "released"
        told = stub.of("notifications/cancelled")
        sent = stub.of("tools/call")
        assert [entry["message"]["id"] for entry in sent if entry["session"] == told[0]["session"]].count(
            told[0]["message"]["params"]["requestId"]
        ) == 1


async def test_c3_thirty_two_calls_of_one_conversation_run_at_once(stub: WaitingStub) -> None:
    async with serving(one(stub.url)) as gateway, client_of(gateway.url) as wire, asyncio.timeout(20):
        await wire.call("up__echo", {"text": "warm"})
        waiting = asyncio.gather(*(wire.post(tool("up__wait", number)) for number in range(32)))
        await gateway.until(lambda: stub.seen.running == 32)
        stub.release.set()
        assert [answer.message["id"] for answer in await waiting] == list(range(32))
        began = time.monotonic()
        answers = await asyncio.gather(*(wire.post(tool("up__slow", number, ms=50)) for number in range(32)))
        assert time.monotonic() - began < 32 * 0.05
        assert {text_of(answer.message) for answer in answers} == {"slept 50 ms"}
        assert len({entry["session"] for entry in stub.of("tools/call")}) == 1


async def answer_questions(wire: Wire, stream: AsyncIterator[Message], name: str) -> tuple[list[Message], Message]:
    """Answer whatever is asked on a call's stream with `name`; the questions, and the call's response."""
    asked = []
    async for message in stream:
        if message.get("method") == "elicitation/create":
            asked.append(message)
            answer = {"action": "accept", "content": {"name": name}}
            await wire.post({"jsonrpc": "2.0", "id": message["id"], "result": answer})
        elif "method" not in message:
            return asked, message
    raise AssertionError("the stream ended without a response")


async def elicit(wire: Wire, tool_name: str, name: str) -> tuple[list[Message], Message]:
    async with wire.exchange(tool(tool_name, f"of {name}", question=f"who, {name}?")) as stream:
        return await answer_questions(wire, stream, name)


async def test_c5_questions_reach_the_caller_whose_call_it_is_and_nobody_else(stateful_1x: Server) -> None:
    async with serving(one(stateful_1x.url)) as gateway, asyncio.timeout(20), contextlib.AsyncExitStack() as stack:
        names = ["ada", "bob", "eve"]
        wires = [await stack.enter_async_context(client_of(gateway.url, ELICITATION)) for _ in names]
        for _ in range(3):
            answered = await asyncio.gather(
                *(elicit(wire, "up__elicit", name) for wire, name in zip(wires, names, strict=True))
            )
            for (asked, response), name in zip(answered, names, strict=True):
                assert [question["params"]["message"] for question in asked] == [f"who, {name}?"]
                assert text_of(response) == f"accept {name}"


async def test_c5_an_answer_of_somebody_else_is_not_taken(stateful_1x: Server) -> None:
    async with serving(one(stateful_1x.url)) as gateway, two_of(gateway, ELICITATION) as (ada, eve):
        assert ada.session != eve.session
        async with ada.exchange(tool("up__elicit", question="who?")) as stream, asyncio.timeout(20):
            question = await anext(stream)
            forged = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept", "content": {"name": "eve"}}}
            assert (await eve.post(forged)).status == 202
            answer = {"action": "accept", "content": {"name": "ada"}}
            await ada.post({"jsonrpc": "2.0", "id": question["id"], "result": answer})
            assert text_of([message async for message in stream][-1]) == "accept ada"


async def test_c5_a_client_that_is_gone_when_it_is_asked_ends_its_call_cleanly(stateful_1x: Server) -> None:
    async with serving(one(stateful_1x.url)) as gateway, Wire(gateway.url) as wire, asyncio.timeout(20):
        await wire.initialize(ELICITATION, "2025-06-18")  # later ones may come back, and are waited for
        before = runtime.running_tasks()
        async with wire.exchange(tool("up__elicit", question="who?")) as stream:
            await anext(stream)
        session = gateway.gateway.sessions.all()[0]
        await gateway.until(lambda: not session.in_flight and gateway.gateway.pool.get_metrics()["leased"] == 0)
        assert text_of(await wire.call("up__echo", {"text": "alive"})) == "alive"
        await gateway.until(lambda: set(runtime.running_tasks()) <= {*before, "listen to up"})


async def test_a_client_that_cannot_be_asked_is_not(stateful_1x: Server) -> None:
    async with serving(one(stateful_1x.url)) as gateway, client_of(gateway.url) as wire, asyncio.timeout(20):
        asked, response = await elicit(wire, "up__elicit", "ada")
        assert asked == [] and response["result"]["isError"] is True


async def test_progress_carries_the_clients_own_token_on_its_own_stream(stateful_1x: Server) -> None:
    async with serving(one(stateful_1x.url)) as gateway, two_of(gateway) as (ada, bob):
        async with asyncio.timeout(20):
            calls = [tool("up__progress", 1, n=3) for _ in range(3)]
            tokens: list[object] = ["same", "same", 7]
            for call, token in zip(calls, tokens, strict=True):
                call["params"]["_meta"] = {"progressToken": token}
            replies = await asyncio.gather(ada.post(calls[0]), bob.post(calls[1]), bob.post(calls[2] | {"id": 2}))
            for reply, token in zip(replies, tokens, strict=True):
                said = [each["params"] for each in reply.messages if each.get("method") == "notifications/progress"]
                assert [(each["progressToken"], each["progress"]) for each in said] == [(token, n) for n in (1, 2, 3)]


async def test_a_newer_stream_takes_the_place_of_an_older_one(stub: WaitingStub) -> None:
    async with serving(one(stub.url)) as gateway, client_of(gateway.url) as wire, asyncio.timeout(20):
        session = gateway.gateway.sessions.all()[0]
        async with wire.listen() as older:
            await gateway.until(lambda: session.stream is not None)
            async with wire.listen() as newer:
                assert [message async for message in older] == []
                session.push("notifications/message", b'{"level":"info","data":1}')
                assert (await anext(newer))["params"] == {"level": "info", "data": 1}
        await gateway.until(lambda: session.stream is None)


async def test_what_a_server_says_outside_calls_reaches_its_client_now_or_when_it_listens(stub: WaitingStub) -> None:
    async with serving(one(stub.url)) as gateway, client_of(gateway.url) as wire, asyncio.timeout(20):
        await wire.call("up__counter")
        own = stub.of("tools/call")[0]["session"]
        session = gateway.gateway.sessions.all()[0]
        session.push("notifications/message", b'{"level":"info","data":"early"}')
        async with wire.listen() as stream:
            assert (await anext(stream))["params"]["data"] == "early"
            await gateway.until(lambda: own in stub._streams.values())
            said = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "late", "x": [1]}}
            stub.do({"notify": said, "session": own})
            assert (await anext(stream)) == said
            stub.do({"notify": {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}, "session": own})
            assert (await anext(stream))["method"] == "notifications/tools/list_changed"


async def test_a_stream_ends_with_its_session(stub: WaitingStub) -> None:
    async with serving(one(stub.url)) as gateway, client_of(gateway.url) as wire, asyncio.timeout(20):
        await wire.call("up__counter")
        async with wire.listen() as stream:
            assert await wire.delete() == 204
            assert [message async for message in stream] == []
        await gateway.until(lambda: len(stub.seen.deletes) == 1)
        assert gateway.gateway.announcer.conversations == set()


async def test_a_session_that_is_ended_ends_its_calls(stub: WaitingStub) -> None:
    async with serving(one(stub.url)) as gateway, client_of(gateway.url) as wire, asyncio.timeout(20):
        call = asyncio.create_task(wire.post(tool("up__wait")))
        await gateway.until(lambda: stub.seen.running == 1)
        assert await wire.delete() == 204
        assert (await call).message["error"]["code"] == -32800
        await gateway.until(lambda: len(stub.told("notifications/cancelled")) == 1 and len(stub.seen.deletes) == 1)


async def test_u8_clients_that_are_cut_off_leave_nothing_behind(stub: WaitingStub) -> None:
    async with serving(one(stub.url)) as gateway, asyncio.timeout(20):
        before = runtime.running_tasks()
        await asyncio.gather(*(come_and_vanish(gateway) for _ in range(50)))
        sessions = gateway.gateway.sessions
        await gateway.until(lambda: all(session.stream is None for session in sessions.all()))
        await gateway.until(lambda: set(runtime.running_tasks()) == set(before))
        for session in sessions.all():
            sessions.end(session)
        await gateway.until(lambda: runtime.running_tasks() == before and gateway.gateway.pool.get_metrics()["open"] == 1)


async def come_and_vanish(gateway: RunningGateway) -> None:
    async with client_of(gateway.url) as wire:
        await wire.call("up__counter")
        async with wire.listen():
            pass


async def test_c6_the_sdks_own_client_hears_that_a_tool_was_added(stateful_1x: Server) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def note(message: object) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            heard.put_nowait(message.method)

    async with serving(one(stateful_1x.url)) as gateway, httpx2.AsyncClient(trust_env=False) as http, asyncio.timeout(20):
        transport = streamable_http_client(gateway.url, http_client=http)
        async with Client(transport, mode="legacy", message_handler=note) as client:
            name = f"live_{time.monotonic_ns()}"
            await client.call_tool("up__add_tool_live", {"name": name})
            assert await heard.get() == "notifications/tools/list_changed"
            assert f"up__{name}" in {each.name for each in (await client.list_tools()).tools}
