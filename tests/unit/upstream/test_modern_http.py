"""The modern HTTP leg: what goes over the wire, and what becomes of every way of answering."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from mcpgateway import runtime
from mcpgateway.errors import (
    AuthRefused,
    BadAnswer,
    ConnectFailed,
    ConnectionLost,
    GatewayError,
    HttpRefused,
    Incompatible,
    RpcError,
    SessionLost,
    UpstreamError,
    UpstreamTimeout,
)
from mcpgateway.protocol.modern import TASKS
from mcpgateway.runtime import Sweep
from mcpgateway.upstream.base import Hello, Target
from mcpgateway.upstream.modern import ModernSession
from mcpgateway.upstream.modern_http import Found, ModernHTTPServer
from tests.fakes.clock import FakeClock
from tests.fakes.http import FakeHttp, FakeResponse, Sent, result
from tests.fakes.peers import Ear, Person, call, tool_call
from tests.fakes.until import until
from tests.fakes.upstream_session import quiet

Json = dict[str, Any]
TARGET = Target(name="up", url="http://up.test/a b?k=1")
INFO = {"name": "fake", "version": "1"}
DISCOVERED: Json = {
    "resultType": "complete",
    "supportedVersions": ["2027-01-01", "2026-07-28"],
    "capabilities": {"tools": {"listChanged": True}, "extensions": {"a/b": {}}},
    "instructions": "Be brief.",
    "ttlMs": 300_000,
    "cacheScope": "public",
    "_meta": {"io.modelcontextprotocol/serverInfo": INFO},
}
TOOLS: Json = {
    "tools": [
        {"name": "echo", "inputSchema": {"type": "object"}},
        {"name": "located", "inputSchema": {"properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}},
    ]
}
FOREIGN = FakeResponse(200, b'{"jsonrpc":"2.0","id":-1,"result":{}}')
DONE = {"content": [], "resultType": "complete"}


def error(
    sent: Sent, code: int, status: int = 400, message: str = "no", id: object = "same", data: object = None
) -> FakeResponse:
    fault = {"code": code, "message": message} | ({} if data is None else {"data": data})
    body = {"jsonrpc": "2.0", "id": sent.message["id"] if id == "same" else id, "error": fault}
    return FakeResponse(status, json.dumps(body).encode(), {"Content-Type": "application/json"})


Answer = Callable[[Sent], FakeResponse | UpstreamError | None]


class World:
    """A server that answers discovery and lists; the rest is the test's affair."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.sweep = Sweep(clock, tick_seconds=3600)
        self.take: Answer = lambda sent: result(sent, DONE)
        self.discovered: Answer = lambda sent: result(sent, DISCOVERED)
        self.tools: Answer = lambda sent: result(sent, TOOLS)
        self.http = FakeHttp(self._answer)
        self.found = Found("up")
        self.server = self.server_for(Hello())
        self.contradictions = 0

    def server_for(self, hello: Hello) -> ModernHTTPServer:
        server = ModernHTTPServer(TARGET, self.http, hello, self.found, self.sweep)
        server.on_contradiction = self._contradicted
        return server

    def _contradicted(self) -> None:
        self.contradictions += 1

    def _answer(self, sent: Sent) -> FakeResponse | UpstreamError | None:
        if sent.rpc == "server/discover":
            return self.discovered(sent)
        return self.tools(sent) if sent.rpc == "tools/list" else self.take(sent)

    async def open(self, headers: bytes = b"X-Key: 1\r\n") -> ModernSession:
        async with asyncio.timeout(10):
            return await self.server.session(headers)

    def rpcs(self) -> list[str]:
        return [sent.rpc for sent in self.http.sent]


@pytest.fixture
async def world(clock: FakeClock) -> AsyncIterator[World]:
    world = World(clock)
    yield world
    await until(lambda: not runtime.running_tasks())
    world.sweep.close()


async def ask(session: ModernSession, asked: Any, channel: Ear | None = None) -> Json:
    async with asyncio.timeout(10):
        answered: Json = json.loads(await session.request(asked, channel or Ear()))
    return answered


async def test_a_session_is_what_the_server_said_of_itself(world: World) -> None:
    session = await world.open()
    welcome = session.welcome
    assert (welcome.protocol_version, welcome.instructions) == ("2026-07-28", "Be brief.")
    assert json.loads(welcome.discovered) == DISCOVERED
    assert json.loads(welcome.raw) == {
        "protocolVersion": "2026-07-28",
        "capabilities": {"tools": {"listChanged": True}},
        "serverInfo": INFO,
        "instructions": "Be brief.",
    }
    assert list(welcome.capabilities) == ["tools"]
    assert json.loads(bytes(welcome.server_info)) == INFO
    assert (session.stateful, session.closed, session.own_headers) == (False, False, b"X-Key: 1\r\n")


async def test_discovery_carries_the_envelope_and_the_credential(world: World) -> None:
    world.server = world.server_for(Hello(b'{"roots":{}}', b'{"name":"c","version":"2"}'))
    await world.open()
    (sent,) = world.http.sent
    assert (sent.method, sent.path) == ("POST", "/a%20b?k=1")
    assert sent.headers == {
        "accept": "application/json, text/event-stream",
        "content-type": "application/json",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "server/discover",
        "x-key": "1",
    }
    assert sent.message["params"]["_meta"] == {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {"roots": {}},
        "io.modelcontextprotocol/clientInfo": {"name": "c", "version": "2"},
    }


async def test_further_sessions_cost_no_request_while_what_was_said_holds(world: World) -> None:
    await world.open()
    world.clock.advance(299)
    await world.open()
    await world.server_for(Hello(b'{"roots":{}}')).session(b"")
    assert world.rpcs() == ["server/discover"]
    world.clock.advance(2)
    await world.open()
    assert world.rpcs() == ["server/discover"] * 2


@pytest.mark.parametrize("ttl", [0, -5, None])
async def test_a_server_that_wants_to_be_asked_each_time_is_asked_each_minute(ttl: int | None, world: World) -> None:
    said = DISCOVERED | {"ttlMs": ttl} if ttl is not None else {k: v for k, v in DISCOVERED.items() if k != "ttlMs"}
    world.discovered = lambda sent: result(sent, said)
    await world.open()
    world.clock.advance(59)
    await world.open()
    assert len(world.http.sent) == 1
    world.clock.advance(2)
    await world.open()
    assert len(world.http.sent) == 2


def say_result(response: FakeResponse, sent: Sent, value: object) -> None:
    response.say({"jsonrpc": "2.0", "id": sent.message["id"], "result": value})


async def test_sessions_that_are_opened_at_once_share_the_discovery(world: World) -> None:
    response = FakeResponse(streaming=True)
    world.discovered = lambda sent: response
    opening = [asyncio.create_task(world.open()) for _ in range(20)]
    sent = await world.http.next("server/discover")
    await quiet()
    say_result(response, sent, DISCOVERED)
    sessions = await asyncio.gather(*opening)
    assert len({id(session) for session in sessions}) == 20
    assert world.rpcs() == ["server/discover"]


async def test_a_discovery_that_fails_for_one_is_not_the_answer_to_the_others(world: World) -> None:
    answers = iter([ConnectFailed("up", "down")])
    world.discovered = lambda sent: next(answers, None) or result(sent, DISCOVERED)
    outcomes = await asyncio.gather(*(world.open() for _ in range(3)), return_exceptions=True)
    assert [isinstance(outcome, ModernSession) for outcome in outcomes] == [False, True, True]


def saying(changes: Json) -> Answer:
    """A DiscoverResult that says something else in parts."""
    return lambda sent: result(sent, DISCOVERED | changes)


def unsupported(*versions: str) -> Answer:
    return lambda sent: error(sent, -32022, data={"supported": versions})


DISCOVERIES: dict[str, tuple[Answer, type[UpstreamError], str]] = {
    "unknown method": (lambda sent: error(sent, -32601, 404), HttpRefused, "-32601"),
    "unknown method in peace": (lambda sent: error(sent, -32601, 200), HttpRefused, "-32601"),
    "asks for a session": (lambda sent: error(sent, -32600, id="server-error"), HttpRefused, "-32600"),
    "legacy versions": (saying({"supportedVersions": ["2025-06-18"]}), HttpRefused, "2025-06-18"),
    "legacy versions refused": (unsupported("2025-11-25"), HttpRefused, "2025-11-25"),
    "no versions": (saying({"supportedVersions": []}), HttpRefused, "nothing"),
    "later versions": (saying({"supportedVersions": ["2027-01-01"]}), Incompatible, "2027-01-01"),
    "later versions refused": (unsupported("2027-01-01"), Incompatible, "2027-01-01"),
    "a refusal without versions": (lambda sent: error(sent, -32022), HttpRefused, "-32022"),
    "versions of no kind": (saying({"supportedVersions": {"a": 1}}), BadAnswer, "DiscoverResult"),
    "no DiscoverResult": (lambda sent: result(sent, {}), BadAnswer, "DiscoverResult"),
    "capabilities of no kind": (saying({"capabilities": []}), BadAnswer, "DiscoverResult"),
    "text": (lambda sent: FakeResponse(200, b"Welcome"), BadAnswer, "no JSON-RPC message"),
    "404": (lambda sent: FakeResponse(404, b"Not Found"), HttpRefused, "404"),
    "500": (lambda sent: FakeResponse(500), HttpRefused, "500"),
    "401": (lambda sent: FakeResponse(401), AuthRefused, "401"),
    "outage": (lambda sent: ConnectFailed("up", "refused"), ConnectFailed, "refused"),
    "another's answer": (lambda sent: FOREIGN, BadAnswer, "another request"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DISCOVERIES)
async def test_u9_every_answer_that_is_no_discovery_says_what_it_is(kind: str, world: World) -> None:
    answer, expected, words = DISCOVERIES[kind]
    world.discovered = answer
    with pytest.raises(UpstreamError, match=words) as caught:
        await world.open()
    assert type(caught.value) is expected
    assert "'up'" in str(caught.value)


async def test_a_server_that_refuses_and_names_our_revision_is_asked_again_once(world: World) -> None:
    refusals = iter([unsupported("2026-07-28")])
    world.discovered = lambda sent: (next(refusals, None) or saying({}))(sent)
    assert (await world.open()).welcome.protocol_version == "2026-07-28"
    world.discovered = unsupported("2026-07-28")
    world.found.until = 0
    with pytest.raises(HttpRefused, match="2026-07-28"):
        await world.open()
    assert len(world.http.sent) == 4


async def test_discovery_follows_a_redirect_on_the_same_origin_once_and_remembers_it(world: World) -> None:
    def moved(sent: Sent) -> FakeResponse:
        if sent.path == "/a%20b/":
            return result(sent, DISCOVERED)
        return FakeResponse(307, headers={"Location": "/a%20b/"})

    world.discovered = moved
    session = await world.open()
    await ask(session, call("resources/list"))
    assert [sent.path for sent in world.http.sent] == ["/a%20b?k=1", "/a%20b/", "/a%20b/"]


async def test_a_redirect_to_another_origin_is_not_followed(world: World) -> None:
    world.discovered = lambda sent: FakeResponse(307, headers={"Location": "http://elsewhere.test/a"})
    with pytest.raises(HttpRefused, match="redirects"):
        await world.open()
    assert len(world.http.sent) == 1


async def test_a_request_stands_for_itself(world: World) -> None:
    session = await world.open()
    asked = call("resources/read", headers=b"X-Key: 2\r\n", uri="demo://a b", _meta={"com.example/x": 1})
    assert await ask(session, asked) == DONE
    sent = world.http.sent[-1]
    assert {name: value for name, value in sent.headers.items() if name.startswith(("mcp-", "x-"))} == {
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "resources/read",
        "mcp-name": "demo://a b",
        "x-key": "2",
    }
    assert sent.message["params"]["uri"] == "demo://a b"
    assert sent.message["params"]["_meta"]["com.example/x"] == 1
    assert sent.message["params"]["_meta"]["io.modelcontextprotocol/clientInfo"] == {"name": "test", "version": "1"}


async def test_c4_a_result_arrives_byte_for_byte(world: World) -> None:
    raw = b'{ "a":1e999, "a":12345678901234567890123,"resultType":"complete", "ttlMs" : 5 }'
    world.take = lambda sent: FakeResponse(200, b'{"result":%b,"id":%d,"jsonrpc":"2.0"}' % (raw, sent.message["id"]))
    session = await world.open()
    assert await session.request(call("resources/list"), Ear()) == raw


async def test_what_comes_on_the_stream_of_a_call_reaches_its_caller(world: World) -> None:
    response = FakeResponse(streaming=True)
    world.take = lambda sent: response
    session = await world.open()
    session.listener = listener = Ear()
    ear = Ear()
    task = asyncio.create_task(ask(session, call("resources/list", token="t"), ear))
    id = (await world.http.next("resources/list")).message["id"]
    response.say_raw(b": ping\r\n\r\n")
    for token in (id, id + 1, "t"):
        response.say({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": token, "progress": 1}})
    response.say({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x"}})
    response.say({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
    response.say({"jsonrpc": "2.0", "id": 1, "method": "roots/list"})
    response.say({"jsonrpc": "2.0", "id": -1, "result": {}})
    response.say({"jsonrpc": "2.0", "id": id, "result": DONE})
    assert await task == DONE
    assert response.fate == "released"
    assert await ear.next() == ("notifications/progress", {"progressToken": "t", "progress": 1})
    assert await ear.next() == ("notifications/message", {"level": "info", "data": "x"})
    assert ear.heard.empty()
    assert await listener.next() == ("notifications/tools/list_changed", {})


async def test_c1_cancelling_a_call_closes_its_stream_and_says_nothing_more(world: World) -> None:
    response = FakeResponse(streaming=True)
    world.take = lambda sent: response
    session = await world.open()
    ear = Ear()
    task = asyncio.create_task(session.request(call("resources/list"), ear))
    await world.http.next("resources/list")
    response.say({"jsonrpc": "2.0", "method": "notifications/message", "params": {}})
    await ear.next()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert response.fate == "closed"
    assert world.rpcs() == ["server/discover", "resources/list"]
    assert not session.closed


async def test_a_broken_stream_is_a_lost_call(world: World) -> None:
    for end in (None, ConnectionLost("up", "gone")):
        response = FakeResponse(streaming=True)
        response.end(end)
        world.take = lambda sent, response=response: response  # type: ignore[misc]
        with pytest.raises(ConnectionLost):
            await ask(await world.open(), call("resources/list"))


def nameless(sent: Sent) -> FakeResponse:
    return FakeResponse(200, b'{"jsonrpc":"2.0","error":{"code":-32602,"message":"no"}}')


ANSWERS: dict[str, tuple[Answer, type[GatewayError], int]] = {
    "an error without an id": (nameless, RpcError, -32602),
    "not found": (lambda sent: error(sent, -32601, 404), RpcError, -32601),
    "bad params": (lambda sent: error(sent, -32602, 400), RpcError, -32602),
    "session words of its own": (lambda sent: error(sent, -32602, 400, "no such session"), RpcError, -32602),
    "missing capability": (lambda sent: error(sent, -32021, 400), RpcError, -32021),
    "error in peace": (lambda sent: error(sent, -5, 200), RpcError, -5),
    "500": (lambda sent: FakeResponse(500), HttpRefused, 0),
    "401": (lambda sent: FakeResponse(401), AuthRefused, 0),
    "403": (lambda sent: error(sent, -32600, 403, "no session"), AuthRefused, 0),
    "302": (lambda sent: FakeResponse(302), HttpRefused, 0),
    "202": (lambda sent: FakeResponse(202), BadAnswer, 0),
    "another's answer": (lambda sent: FOREIGN, BadAnswer, 0),
    "neither": (lambda sent: FakeResponse(200, b'{"jsonrpc":"2.0","id":%d}' % sent.message["id"]), BadAnswer, 0),
    "silence": (lambda sent: UpstreamTimeout("up", "silent"), UpstreamTimeout, 0),
}


@pytest.mark.parametrize("kind", ANSWERS)
async def test_u9_every_refusal_is_a_clear_error_and_none_ends_the_session(kind: str, world: World) -> None:
    answer, expected, code = ANSWERS[kind]
    session = await world.open()
    world.take = answer
    with pytest.raises(expected) as caught:
        await ask(session, call("resources/list"))
    assert type(caught.value) is expected
    if isinstance(caught.value, RpcError):
        assert caught.value.code == code
    assert world.contradictions == 0
    assert await world.open() is not session
    assert world.rpcs() == ["server/discover", "resources/list"]


CONTRADICTIONS: dict[str, Answer] = {
    "its revision is refused": lambda sent: error(sent, -32022, data={"supported": ["2025-11-25"]}),
    "it asks for a session": lambda sent: error(sent, -32600, 400, "Bad Request: Missing session ID", id="server-error"),
    "it is not initialized": lambda sent: error(sent, -32000, 400, "Bad Request: Server not initialized", id=None),
    "it has no such URL": lambda sent: FakeResponse(404, b"Not Found"),
    "it takes no POST": lambda sent: FakeResponse(405),
}


@pytest.mark.parametrize("kind", CONTRADICTIONS)
async def test_u3_a_server_that_became_another_is_found_out_anew(kind: str, world: World) -> None:
    session = await world.open()
    world.take = CONTRADICTIONS[kind]
    with pytest.raises(SessionLost, match=r"'up'.*any more"):
        await ask(session, call("resources/list"))
    assert world.contradictions == 1
    await world.open()
    assert world.rpcs() == ["server/discover", "resources/list", "server/discover"]


async def test_a_ping_touches_the_server_and_renews_what_is_known_of_it(world: World) -> None:
    session = await world.open()
    world.clock.advance(299)
    assert await ask(session, call("ping", headers=b"X-Key: 9\r\n")) == {}
    assert world.http.sent[-1].headers["x-key"] == "9"
    world.clock.advance(200)
    await world.open()
    assert world.rpcs() == ["server/discover"] * 2
    world.discovered = lambda sent: FakeResponse(503)
    with pytest.raises(HttpRefused):
        await ask(session, call("ping"))
    world.discovered = lambda sent: error(sent, -32601, 404)
    with pytest.raises(SessionLost):
        await ask(session, call("ping"))
    assert world.contradictions == 1


async def test_what_only_legacy_servers_have_is_answered_here(world: World) -> None:
    session = await world.open()
    assert await ask(session, call("logging/setLevel", level="debug")) == {}
    await session.notify("notifications/roots/list_changed")
    for method in ("tasks/list", "tasks/get", "tasks/cancel"):
        with pytest.raises(RpcError) as caught:
            await ask(session, call(method, taskId="t"))
        assert caught.value.code == -32601
    assert world.rpcs() == ["server/discover"]


class Modern(Person):
    version = "2026-07-28"
    capabilities = json.dumps({"extensions": {TASKS: {}}}).encode()


async def test_a_modern_clients_tasks_are_the_servers_affair(world: World) -> None:
    session = await world.open()
    asked = call("tasks/get", taskId="t-1")
    asked.client = Modern()
    world.take = lambda sent: result(sent, {"resultType": "complete", "status": "working"})
    assert (await ask(session, asked))["status"] == "working"
    assert world.http.sent[-1].headers["mcp-name"] == "t-1"


async def test_arguments_that_the_tool_declares_are_repeated_and_its_schema_is_asked_for_once(world: World) -> None:
    session = await world.open()
    for region in ("eu", "é"):
        await ask(session, tool_call("located", region=region))
    await ask(session, tool_call("echo", region="eu"))
    assert world.rpcs() == ["server/discover", "tools/list", *["tools/call"] * 3]
    assert [sent.headers.get("mcp-param-region") for sent in world.http.of("tools/call")] == ["eu", "=?base64?w6k=?=", None]


async def test_a_list_that_passes_by_teaches_the_headers(world: World) -> None:
    session = await world.open()
    assert json.loads(await session.request(call("tools/list"), Ear())) == TOOLS
    await ask(session, tool_call("located", region="eu"))
    assert world.rpcs() == ["server/discover", "tools/list", "tools/call"]
    other = await world.server_for(Hello(b'{"roots":{}}')).session(b"")
    await ask(other, tool_call("located", region="eu"))
    assert len(world.http.sent) == 4


async def test_calls_that_need_the_list_at_once_share_it(world: World) -> None:
    response = FakeResponse(streaming=True)
    world.tools = lambda sent: response
    session = await world.open()
    calls = [asyncio.create_task(ask(session, tool_call("located", region="eu"))) for _ in range(10)]
    sent = await world.http.next("tools/list")
    await quiet()
    say_result(response, sent, TOOLS)
    await asyncio.gather(*calls)
    assert world.rpcs().count("tools/list") == 1
    assert [sent.headers["mcp-param-region"] for sent in world.http.of("tools/call")] == ["eu"] * 10


async def test_a_tool_that_is_not_listed_is_looked_for_once_through_all_pages(world: World) -> None:
    def pages(sent: Sent) -> FakeResponse:
        cursor = sent.message["params"].get("cursor")
        return result(sent, {"tools": []} | ({} if cursor == "2" else {"nextCursor": "2" if cursor == "1" else "1"}))

    world.tools = pages
    session = await world.open()
    for _ in range(2):
        await ask(session, tool_call("hidden", region="eu"))
    assert world.rpcs() == ["server/discover", *["tools/list"] * 3, *["tools/call"] * 2]


@pytest.mark.parametrize(
    "trouble", [HttpRefused("up", "no", status=500), ConnectionLost("up", "gone"), UpstreamTimeout("up", "no")]
)
async def test_a_list_that_fails_does_not_keep_the_call_from_running(trouble: UpstreamError, world: World) -> None:
    world.tools = lambda sent: trouble
    assert await ask(await world.open(), tool_call("located", region="eu")) == DONE


async def test_headers_that_do_not_fit_are_looked_up_again_and_the_call_is_repeated_once(world: World) -> None:
    session = await world.open()
    await ask(session, tool_call("located", region="eu"))
    world.tools = lambda sent: result(sent, json.loads(json.dumps(TOOLS).replace('"Region"', '"Zone"')))
    world.take = lambda sent: result(sent, DONE) if "mcp-param-zone" in sent.headers else error(sent, -32020)
    assert await ask(session, tool_call("located", region="eu")) == DONE
    assert world.rpcs()[3:] == ["tools/call", "tools/list", "tools/call"]
    first, second = world.http.of("tools/call")[-2:]
    assert first.message["id"] != second.message["id"]


async def test_headers_that_never_fit_are_the_servers_answer(world: World) -> None:
    session = await world.open()
    world.take = lambda sent: error(sent, -32020)
    with pytest.raises(RpcError) as caught:
        await ask(session, tool_call("located", region="eu"))
    assert caught.value.code == -32020
    assert world.rpcs().count("tools/call") == 2
    with pytest.raises(RpcError):
        await ask(session, call("prompts/get", name="x"))
    assert world.rpcs()[-1] == "prompts/get"


async def test_tools_whose_headers_nobody_can_send_are_left_out_and_nothing_else_is_altered(world: World) -> None:
    bad = {"name": "bad", "inputSchema": {"properties": {"a": {"type": "array", "x-mcp-header": "A"}}}}
    odd = {"name": 5, "x": 1}
    listed = {"x-new": [1], "tools": [odd, bad, *TOOLS["tools"]], "nextCursor": "n"}
    world.tools = lambda sent: result(sent, listed)
    session = await world.open()
    assert await ask(session, call("tools/list")) == listed | {"tools": [odd, *TOOLS["tools"]]}


async def test_listening_is_one_post_and_ends_with_its_connection(world: World) -> None:
    response = FakeResponse(streaming=True)
    world.take = lambda sent: response
    session = await world.open()
    session.listener = ear = Ear()
    session.listen()
    sent = await world.http.next("subscriptions/listen")
    assert sent.method == "POST"
    assert (sent.headers["mcp-method"], sent.headers["x-key"]) == ("subscriptions/listen", "1")
    assert sent.message["params"]["notifications"] == {"toolsListChanged": True}
    meta = {"io.modelcontextprotocol/subscriptionId": sent.message["id"]}
    for method in ("subscriptions/acknowledged", "tools/list_changed"):
        params = {"_meta": meta, "notifications": {"toolsListChanged": True}}
        response.say({"jsonrpc": "2.0", "method": f"notifications/{method}", "params": params})
    assert (await ear.next())[0] == "notifications/tools/list_changed"
    assert response.timeouts == [math.inf]
    session.stop_listening()
    await until(lambda: response.fate == "closed")
    await session.aclose()


async def test_subscribing_waits_for_the_acknowledgement(world: World) -> None:
    response = FakeResponse(streaming=True)
    world.take = lambda sent: response
    session = await world.open()
    subscribing = asyncio.create_task(ask(session, call("resources/subscribe", uri="demo://one")))
    sent = await world.http.next("subscriptions/listen")
    assert sent.message["params"]["notifications"] == {"resourceSubscriptions": ["demo://one"]}
    assert not subscribing.done()
    acknowledged = {"notifications": {"resourceSubscriptions": ["demo://one"]}}
    response.say({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": acknowledged})
    assert await subscribing == {}
    assert await ask(session, call("resources/unsubscribe", uri="demo://one")) == {}
    await until(lambda: response.fate == "closed")


async def test_a_server_without_listen_streams_refuses_subscriptions_in_its_own_words(world: World) -> None:
    world.take = lambda sent: error(sent, -32601, 404)
    with pytest.raises(RpcError) as caught:
        await ask(await world.open(), call("resources/subscribe", uri="demo://one"))
    assert caught.value.code == -32601


async def test_i10_a_listen_stream_that_was_refused_is_opened_with_another_credential_and_no_others_trace(world: World) -> None:
    world.take = lambda sent: FakeResponse(401) if sent.headers["x-key"] == "1" else FakeResponse(streaming=True)
    session = await world.open()
    session.listen()
    await world.http.next("subscriptions/listen")
    await until(lambda: not runtime.running_tasks())
    trace = b"TraceParent: 00-1\r\ntracestate: a=b\r\n"
    await ask(session, call("tools/list", headers=b"X-Key: 1\r\n" + trace))
    await until(lambda: not runtime.running_tasks())
    assert len(world.http.of("subscriptions/listen")) == 1
    await ask(session, call("tools/list", headers=b"X-Key: 2\r\n" + trace))
    sent = await world.http.next("subscriptions/listen", 2)
    assert sent.headers["x-key"] == "2"
    assert not {"traceparent", "tracestate"} & set(sent.headers)
    await session.aclose()


async def test_a_closed_session_refuses_and_hears_nothing(world: World) -> None:
    session = await world.open()
    await session.aclose()
    await session.aclose()
    session.listen()
    assert session.closed
    with pytest.raises(SessionLost):
        await ask(session, call("ping"))
    assert world.rpcs() == ["server/discover"]
