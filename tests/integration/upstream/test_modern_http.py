"""The SDK's 2.x server as a real process, spoken to without a handshake."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from mcpgateway.errors import BadAnswer, ConnectFailed, ConnectionLost, RpcError
from mcpgateway.protocol.call import Call
from mcpgateway.runtime import Sweep
from mcpgateway.upstream.base import Hello, Target, UpstreamSession
from tests.fakes.peers import Ear, Person, call, tool_call
from tests.fakes.process import Server
from tests.fakes.programs import modern_2x_command
from tests.integration.upstream.opened import Sessions, result_of

MODERN, LEGACY = "2026-07-28", "2025-11-25"
CAPABILITIES = b'{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{}}'
HELLO = Hello(CAPABILITIES, modern=True)


def server_of(mode: str) -> Server:
    return Server(modern_2x_command(mode))


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    """A server of both generations for tests that leave nothing in it."""
    with server_of("dual") as server:
        yield server


@pytest.fixture
def own() -> Iterator[Server]:
    """A modern server for one test alone."""
    with server_of("modern") as server:
        yield server


class Client(Person):
    capabilities = CAPABILITIES


class World(Sessions):
    def __init__(self) -> None:
        super().__init__(Sweep(tick_seconds=0.02))

    async def open(self, server: Server, hello: Hello = HELLO, headers: bytes = b"") -> UpstreamSession:
        return await self.open_at(Target(name="up", url=server.url), hello, headers)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.close()


async def ask(session: UpstreamSession, asked: Call, channel: Ear | None = None) -> Any:
    asked.client = Client()
    return await result_of(session, asked, channel)


async def text(session: UpstreamSession, asked: Call, channel: Ear | None = None) -> str:
    return str((await ask(session, asked, channel))["content"][0]["text"])


async def seen(session: UpstreamSession) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await text(session, tool_call("seen")))
    return found


async def test_each_client_meets_its_own_generation_in_a_server_of_both(shared: Server, world: World) -> None:
    assert (await world.open(shared, HELLO)).welcome.protocol_version == MODERN
    assert (await world.open(shared, Hello(CAPABILITIES))).welcome.protocol_version == LEGACY
    assert (await world.open(shared, HELLO)).welcome.protocol_version == MODERN


async def test_a_legacy_client_meets_a_server_that_refuses_handshakes(own: Server, world: World) -> None:
    for _ in range(2):
        session = await world.open(own, Hello(CAPABILITIES))
        assert session.welcome.protocol_version == MODERN
    requests = (await seen(session))["requests"]
    # The refused handshake and the discovery, once; the look-up of the tool; the call.
    assert [request["rpc"] for request in requests] == ["", "server/discover", "tools/list", "tools/call"]
    assert {request["method"] for request in requests} == {"POST"}


async def test_what_a_server_knows_of_the_client_is_what_the_call_says(shared: Server, world: World) -> None:
    session = await world.open(shared)
    asked = tool_call("whoami", token="t")
    asked.log_level = "info"
    meta = json.loads(await text(session, asked))
    assert {key: value for key, value in meta.items() if key.startswith("io.")} == {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": json.loads(CAPABILITIES),
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/logLevel": "info",
    }


async def test_c5_progress_and_the_log_messages_asked_for_reach_the_caller(shared: Server, world: World) -> None:
    session = await world.open(shared)
    ear = Ear()
    assert await text(session, tool_call("work", token="t"), ear) == "done"
    assert [(await ear.next())[1]["progress"] for _ in range(3)] == [0, 1, 2]
    for level, count in (("debug", 2), ("warning", 1), (None, 0)):
        ear, asked = Ear(), tool_call("log")
        asked.log_level = level
        await text(session, asked, ear)
        assert ear.heard.qsize() == count


async def test_questions_of_all_kinds_reach_the_caller_and_their_answers_the_server(shared: Server, world: World) -> None:
    session = await world.open(shared)
    ear = Ear()
    kinds = ["name", "visit", "poem", "roots"]
    answering = asyncio.create_task(text(session, tool_call("ask", questions=kinds), ear))
    asked = [await ear.next_question() for _ in kinds]
    assert sorted(method for method, _ in asked) == sorted(
        ["elicitation/create", "elicitation/create", "sampling/createMessage", "roots/list"]
    )
    ear.answer.set_result(b'{"action":"decline","role":"user","model":"m","content":{"type":"text","text":"x"},"roots":[]}')
    answers = json.loads(await answering)
    assert sorted(answers["answers"]) == sorted(kinds)
    assert answers["exact"]


async def test_a_server_that_only_wants_to_be_asked_again_is(shared: Server, world: World) -> None:
    session = await world.open(shared)
    assert await text(session, tool_call("patient")) == "at last"
    ear = Ear()
    ear.answer.set_result(b'{"action":"accept"}')
    with pytest.raises(BadAnswer, match="10 rounds"):
        await ask(session, tool_call("again"), ear)


async def test_a_modern_clients_questions_are_its_own_affair(shared: Server, world: World) -> None:
    class Modern(Client):
        version = MODERN

    session = await world.open(shared)
    asked = tool_call("ask")
    asked.client = Modern()
    first = json.loads(await session.request(asked, Ear()))
    assert first["resultType"] == "input_required"
    again = call("tools/call", name="ask", inputResponses={"name": {"action": "cancel"}}, requestState=first["requestState"])
    again.client = Modern()
    result = json.loads(await session.request(again, Ear()))
    assert json.loads(result["content"][0]["text"]) == {"answers": {"name": {"action": "cancel"}}, "exact": True}


async def test_c1_a_cancelled_call_is_cancelled_by_its_connection_alone(shared: Server, world: World) -> None:
    session = await world.open(shared)
    ear = Ear()
    hanging = asyncio.create_task(ask(session, tool_call("hang", token=1, who="ada"), ear))
    await ear.next()
    hanging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hanging
    while "ada" not in (found := await seen(session))["cancelled"]:
        pass  # asking again takes a round trip
    assert "notifications/cancelled" not in {request["rpc"] for request in found["requests"]}


async def test_arguments_are_repeated_in_headers_and_looked_up_again_where_the_tool_has_changed(
    own: Server, world: World
) -> None:
    session = await world.open(own)
    for region in ("eu", "é "):
        assert json.loads(await text(session, tool_call("located", region=region))) == {"region": region}
    await text(session, tool_call("rename", to="Zone"))
    assert json.loads(await text(session, tool_call("located", region="us"))) == {"region": "us"}
    calls = [request for request in (await seen(session))["requests"] if request["headers"].get("mcp-name") == "located"]
    said = [(call["headers"].get("mcp-param-region"), call["headers"].get("mcp-param-zone")) for call in calls]
    assert said == [("eu", None), ("=?base64?w6kg?=", None), ("us", None), (None, "us")]


async def test_a_tool_that_may_not_be_used_over_http_is_not_listed(shared: Server, world: World) -> None:
    session = await world.open(shared)
    names = [tool["name"] for tool in (await ask(session, call("tools/list")))["tools"]]
    assert "located" in names and "broken" not in names


async def test_errors_come_as_the_server_says_them(shared: Server, world: World) -> None:
    session = await world.open(shared)
    for asked, code in ((call("prompts/list"), -32601), (call("resources/read", uri="demo://none"), -32602)):
        with pytest.raises(RpcError) as caught:
            await ask(session, asked)
        assert caught.value.code == code


async def test_c5_one_stream_tells_each_session_what_it_subscribed_to(shared: Server, world: World) -> None:
    one, other = await world.open(shared), await world.open(shared)
    ears = []
    for session, uri in ((one, "demo://one"), (other, "demo://other")):
        session.listener = ear = Ear()
        ears.append(ear)
        session.listen()
        assert await ask(session, call("resources/subscribe", uri=uri)) == {}
    await text(one, tool_call("publish", uri="demo://other"))
    await text(one, tool_call("publish", uri="demo://one", lists=True))
    updated = "notifications/resources/updated"
    assert await ears[0].next() == (updated, {"uri": "demo://one"})
    assert await ears[1].next() == (updated, {"uri": "demo://other"})
    for ear in ears:
        assert [(await ear.next())[0] for _ in range(2)] == [
            "notifications/tools/list_changed",
            "notifications/resources/list_changed",
        ]


async def test_a_stream_that_the_server_ends_is_opened_again(own: Server, world: World) -> None:
    session = await world.open(own)
    session.listener = ear = Ear()
    assert await ask(session, call("resources/subscribe", uri="demo://one")) == {}
    await text(session, tool_call("publish", end=True))
    # That it may have changed is said when the stream is back.
    assert await ear.next() == ("notifications/resources/updated", {"uri": "demo://one"})
    await text(session, tool_call("publish", uri="demo://one"))
    assert (await ear.next())[1] == {"uri": "demo://one"}


async def test_u1_a_restarted_server_costs_no_session(own: Server, world: World) -> None:
    session = await world.open(own)
    assert await text(session, tool_call("echo", a=1)) == '{"a": 1}'
    own.kill()
    with pytest.raises((ConnectFailed, ConnectionLost)):
        await text(session, tool_call("echo", a=1))
    own.start()
    assert await text(session, tool_call("echo", a=2)) == '{"a": 2}'
