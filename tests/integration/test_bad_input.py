"""Whatever a client sends: it is told what was wrong, and nothing of it stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any, NamedTuple, Self

import pytest

from mcpgateway import runtime
from mcpgateway.downstream.guard import LINGER_SECONDS
from tests.clients.wire import ACCEPT, Reply, Wire
from tests.fakes.gateway import RunningGateway, serving
from tests.fakes.moved_time import moved_time
from tests.servers.raw_stub import Stub

BODY_BYTES = 20_000
HEADER_BYTES = 8_000
DEPTH = 20


class Upstream(Stub):
    """The recording stub, and which HTTP protocol class the gateway in front of it has."""

    http_protocol = ""


@pytest.fixture(params=["own", "uvicorn"])
async def stub(request: pytest.FixtureRequest) -> AsyncIterator[Upstream]:
    """The stub, in the loop of the test: all that is said here holds for both classes."""
    async with Upstream() as server:
        server.http_protocol = request.param
        yield server


def one(stub: Upstream, **limits: object) -> dict[str, Any]:
    small = {"body_bytes": BODY_BYTES, "header_bytes": HEADER_BYTES, "json_depth": DEPTH}
    settings = {"limits": small | limits, "http_protocol": stub.http_protocol}
    return {"mcpServers": {"up": {"url": stub.url}}, "gateway": settings}


@contextlib.asynccontextmanager
async def leaving_nothing(stub: Upstream, **limits: object) -> AsyncIterator[tuple[RunningGateway, Wire]]:
    """A gateway and a client with a session. In the end no call, task, lease or deadline is left of what a test did."""
    async with serving(one(stub, **limits)) as gateway, Wire(gateway.url) as wire:
        await wire.initialize()
        await wire.call("up__echo", {"text": "warm"})
        tasks = runtime.running_tasks()
        yield gateway, wire
        assert (await wire.call("up__echo", {"text": "alive"}))["result"]["content"][0]["text"] == "alive"
        await gateway.until(lambda: leftovers(gateway) == [] and runtime.running_tasks() == tasks)


def leftovers(gateway: RunningGateway) -> list[str]:
    inner = gateway.gateway
    calls = [f"{id} in flight" for session in inner.sessions.all() for id in session.in_flight]
    watched = [repr(entry) for entry in inner.sweep._watched if type(entry).__name__ in ("Reply", "EventStream")]
    return calls + watched + ["a lease"] * inner.pool.get_metrics()["leased"]


class Line:
    """One TCP connection to a gateway, on which a test says exactly what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    @contextlib.asynccontextmanager
    async def to(cls, gateway: RunningGateway) -> AsyncIterator[Self]:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        try:
            yield cls(reader, writer)
        finally:
            writer.close()

    async def say(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self) -> Answer:
        """The next response, or the end of the connection as status 0."""
        async with asyncio.timeout(10):
            line = await self._reader.readline()
            if not line:
                return Answer(0, {}, b"")
            headers = {}
            while field := (await self._reader.readline()).strip():
                name, _, value = field.decode().partition(":")
                headers[name.lower()] = value.strip()
            body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        return Answer(int(line.split()[1]), headers, body)

    async def rest(self) -> bytes:
        """All that comes until the gateway ends the connection."""
        async with asyncio.timeout(10):
            return await self._reader.read()


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> int:
        return int(json.loads(self.body)["error"]["code"])


def post(wire: Wire | None, body: bytes | None, *extra: str, version: str = "1.1", length: int | None = None) -> bytes:
    """A POST as bytes. Without a body only its head, which declares `length`."""
    size = length if length is not None else len(body or b"")
    lines = [f"POST /mcp HTTP/{version}", "Host: 127.0.0.1", "Content-Type: application/json", f"Accept: {ACCEPT}"]
    lines += [f"Mcp-Session-Id: {wire.session}"] if wire is not None else []
    if not any(line.lower().startswith("transfer-encoding") for line in extra):
        lines.append(f"Content-Length: {size}")
    return "\r\n".join([*lines, *extra, "", ""]).encode() + (body or b"")


PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'


def asks(method: str = "ping", id: object = 7, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


def code_of(reply: Reply) -> int:
    return int(reply.message["error"]["code"])


# What is wrong with a body, and the status and code that say so.
BODIES: list[tuple[str, object, int, int]] = [
    ("nothing", b"", 400, -32700),
    ("no JSON", b"{", 400, -32700),
    ("half a message", b'{"jsonrpc":"2.0","id":1,"met', 400, -32700),
    ("something after the message", PING + b"x", 400, -32700),
    ("no UTF-8", b'{"jsonrpc":"2.0","id":1,"method":"\xff"}', 400, -32700),
    ("no UTF-8 in what is passed on", b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":"\xc3\x28"}}', 400, -32700),
    ("half a surrogate pair as id", rb'{"jsonrpc":"2.0","id":"\ud800","method":"ping"}', 400, -32700),
    ("a string", b'"ping"', 400, -32600),
    ("a number", b"3", 400, -32600),
    ("null", b"null", 400, -32600),
    ("an empty object", b"{}", 400, -32600),
    ("no jsonrpc", b'{"id":1,"method":"ping"}', 400, -32600),
    ("JSON-RPC 1", b'{"jsonrpc":"1.0","id":1,"method":"ping"}', 400, -32600),
    ("neither method nor result", b'{"jsonrpc":"2.0","id":1}', 400, -32600),
    ("method a number", b'{"jsonrpc":"2.0","id":1,"method":5}', 400, -32600),
    ("method null", b'{"jsonrpc":"2.0","id":1,"method":null}', 400, -32600),
    ("id null", b'{"jsonrpc":"2.0","id":null,"method":"ping"}', 400, -32600),
    ("id true", b'{"jsonrpc":"2.0","id":true,"method":"ping"}', 400, -32600),
    ("id a fraction", b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', 400, -32600),
    ("id an object", b'{"jsonrpc":"2.0","id":{},"method":"ping"}', 400, -32600),
    ("id of 5000 digits", b'{"jsonrpc":"2.0","id":%b,"method":"ping"}' % (b"9" * 5000), 400, -32600),
    ("params an array", b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}', 400, -32602),
    ("params null", b'{"jsonrpc":"2.0","id":1,"method":"ping","params":null}', 400, -32602),
    ("too deep", b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":%b}}' % (b"[" * DEPTH + b"]" * DEPTH), 400, -32600),
    ("a depth bomb", b"[" * (BODY_BYTES - 1), 400, -32700),
    ("a whole depth bomb", b'{"a":' * 3000 + b"1" + b"}" * 3000, 400, -32700),
    ("a depth bomb in params", b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":' + b"[" * 9000, 400, -32700),
    ("a batch where the revision has none", [asks()], 400, -32600),
    ("an empty batch", b"[]", 400, -32600),
    ("too large", b'"' + b"x" * BODY_BYTES + b'"', 413, -32600),
    ("unknown method", asks("no/such"), 200, -32601),
    ("a method of another revision", asks("server/discover"), 400, -32601),
    ("unknown tool", asks("tools/call", name="nobody__nothing"), 200, -32602),
    ("unknown tool without a prefix", asks("tools/call", name="echo"), 200, -32602),
    ("no tool", asks("tools/call"), 200, -32602),
    ("tool name a number", asks("tools/call", name=5), 200, -32602),
    ("tool name half a pair", rb'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"\ud800"}}', 400, -32700),
    ("_meta a list", asks("tools/call", name="up__echo", _meta=["progressToken"]), 200, -32602),
    ("cursor a number", asks("tools/list", cursor=3), 200, -32602),
    ("cursor garbage", asks("tools/list", cursor="garbage"), 200, -32602),
    ("cursor that is no base64", asks("tools/list", cursor="\u2028=?="), 200, -32602),
    ("cursor of nobody's", asks("tools/list", cursor="bzk5OTk5OTk5OXh4"), 200, -32602),
    ("cursor empty", asks("tools/list", cursor=""), 200, -32602),
    ("unknown prompt", asks("prompts/get", name="nobody__nothing"), 200, -32602),
    ("uri a number", asks("resources/read", uri=1), 200, -32602),
    ("unknown resource", asks("resources/subscribe", uri="x://nothing"), 200, -32002),
    ("unknown level", asks("logging/setLevel", level="loud"), 200, -32602),
    ("completion of nothing", asks("completion/complete"), 200, -32602),
    ("completion of a number", asks("completion/complete", ref={"type": "ref/tool", "name": 1}), 200, -32602),
    ("initialize without a revision", asks("initialize"), 200, -32602),
    ("initialize with capabilities of a wrong kind", asks("initialize", protocolVersion="1", capabilities=[]), 200, -32602),
    ("initialize with clientInfo of a wrong kind", asks("initialize", protocolVersion="1", clientInfo="me"), 200, -32602),
    ("initialize without an id", b'{"jsonrpc":"2.0","id":null,"method":"initialize"}', 400, -32600),
]


async def test_each_bad_body_gets_its_own_status_and_code(stub: Upstream) -> None:
    async with leaving_nothing(stub) as (gateway, wire):
        sessions = len(gateway.gateway.sessions)
        for what, body, status, code in BODIES:
            reply = await wire.post(body)
            assert (what, reply.status, code_of(reply)) == (what, status, code)
            assert reply.message["error"]["message"], what
            if status == 200:
                assert reply.message["id"] in (1, 7), what
        assert len(gateway.gateway.sessions) == sessions
        assert {entry["rpc"] for entry in stub.seen.requests if entry["rpc"] == "resources/subscribe"} == set()


async def test_a_body_that_is_no_json_takes_no_longer_than_one_that_is(stub: Upstream) -> None:
    # Looked through for brackets by a pattern that begins anew at each quote, this takes minutes.
    quotes = 80_000
    async with leaving_nothing(stub, body_bytes=4 * 1024 * 1024) as (_, wire), asyncio.timeout(20):
        for body in (b"[" * 101 + b'"' + rb"\"" * quotes, b'{"a":"' + rb"\"" * quotes + b"[" * 101):
            assert code_of(await wire.post(body)) == -32700


async def test_a_big_string_before_brackets_is_no_trouble(stub: Upstream) -> None:
    async with leaving_nothing(stub, body_bytes=4 * 1024 * 1024) as (_, wire):
        arguments = {"text": '"[' * 1_000_000, "more": [[] for _ in range(200)]}
        assert len((await wire.call("up__echo", arguments))["result"]["content"][0]["text"]) == 2_000_000


async def test_an_id_comes_back_as_it_was(stub: Upstream) -> None:
    async with leaving_nothing(stub) as (_, wire):
        for id in ("a", "", 0, -5, 2**53, 10**30, "\u2028😀"):
            assert (await wire.post(asks("ping", id))).message == {"jsonrpc": "2.0", "id": id, "result": {}}


async def test_an_id_that_is_in_flight_is_refused_and_the_first_call_goes_on(stub: Upstream) -> None:
    async with leaving_nothing(stub) as (gateway, wire):
        slow = asks("tools/call", name="up__slow", arguments={"ms": 300})
        first = asyncio.create_task(wire.post(slow))
        await gateway.until(lambda: stub.seen.running == 1)
        again = await wire.post(slow)
        assert (again.status, code_of(again)) == (400, -32600)
        assert "result" in (await first).message
        assert "result" in (await wire.post(slow)).message


async def test_a_cancellation_of_anything_at_all_is_taken(stub: Upstream) -> None:
    async with leaving_nothing(stub) as (_, wire):
        for id in (b"null", b"5", b'"x"', b"{}", b"[1]", b"1.5", rb'"\ud800"', b"1e999", b"true"):
            said = b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%b}}' % id
            assert (await wire.post(said)).status in (202, 400)
        assert (await wire.post({"jsonrpc": "2.0", "method": "notifications/cancelled"})).status == 202
        assert (await wire.post({"jsonrpc": "2.0", "method": "notifications/whatever", "params": {}})).status == 202
        assert (await wire.post({"jsonrpc": "2.0", "id": "nobody asked", "result": {}})).status == 202


# Headers that are wrong, and what is answered. None leaves one out.
HEADERS: list[tuple[str, dict[str, str | None], int, int]] = [
    ("no Accept", {"accept": ""}, 406, -32600),
    ("half an Accept", {"accept": "application/json"}, 406, -32600),
    ("another Accept", {"accept": "text/html"}, 406, -32600),
    ("no Content-Type", {"content-type": None}, 415, -32600),
    ("another Content-Type", {"content-type": "text/plain"}, 415, -32600),
    ("no session", {"mcp-session-id": None}, 400, -32600),
    ("an unknown session", {"mcp-session-id": "0" * 32}, 404, -32600),
    ("an empty session", {"mcp-session-id": ""}, 404, -32600),
    ("an unspoken revision", {"mcp-protocol-version": "1999-01-01"}, 400, -32022),
    ("a foreign Origin", {"origin": "https://evil.example"}, 403, -32600),
    ("an Origin that is no URL", {"origin": "http://["}, 403, -32600),
    ("no Origin at all", {"origin": "null"}, 403, -32600),
    ("a foreign Host", {"host": "evil.example"}, 403, -32600),
]


async def test_each_bad_header_gets_its_own_status_and_code(stub: Upstream) -> None:
    async with leaving_nothing(stub) as (_, wire):
        for what, headers, status, code in HEADERS:
            reply = await wire.post(asks(), headers)
            assert (what, reply.status, code_of(reply)) == (what, status, code)
        unspoken = await wire.post(asks(), {"mcp-protocol-version": "1999-01-01"})
        assert "2025-11-25" in unspoken.message["error"]["data"]["supported"]


async def test_accept_may_say_it_in_other_words(stub: Upstream) -> None:
    async with leaving_nothing(stub) as (_, wire):
        for accept in ("*/*", "application/*, text/*", "text/event-stream;q=1, application/json;q=0.1"):
            headers = {"accept": accept, "content-type": "Application/JSON; charset=utf-8"}
            assert (await wire.post(asks(), headers)).message["result"] == {}


async def test_a_session_that_was_ended_is_unknown(stub: Upstream) -> None:
    async with serving(one(stub)) as gateway, Wire(gateway.url) as wire:
        await wire.initialize()
        assert await wire.delete({"mcp-session-id": "0" * 32}) == 404
        assert await wire.delete() == 204
        assert await wire.delete() == 404
        reply = await wire.post(asks())
        assert (reply.status, code_of(reply)) == (404, -32600)
        assert len(gateway.gateway.sessions) == 0


async def test_a_session_of_another_endpoint_is_unknown(stub: Upstream) -> None:
    async with serving(one(stub)) as gateway, Wire(gateway.url) as wire, Wire(gateway.server("up")) as other:
        await wire.initialize()
        other.session = wire.session
        assert (await other.post(asks())).status == 404


async def test_batches_work_in_the_one_revision_that_has_them(stub: Upstream) -> None:
    async with leaving_nothing(stub, body_bytes=100_000) as (gateway, _), Wire(gateway.url) as wire:
        await wire.initialize(revision="2025-03-26")
        said = {"jsonrpc": "2.0", "method": "notifications/whatever"}
        mixed = [asks("ping", 1), said, asks("tools/call", 2, name="up__echo", arguments={"text": "x"}), asks("no/such", 3)]
        twice = asks("tools/call", 4, name="up__slow", arguments={"ms": 50})
        reply = await wire.post([*mixed, twice, twice])
        assert reply.headers["content-type"] == "application/json" and reply.body.startswith(b"[")
        assert [message["id"] for message in reply.messages] == [1, 2, 3, 4, 4]
        assert reply.messages[1]["result"]["content"][0]["text"] == "x"
        assert [message.get("error", {}).get("code") for message in reply.messages] == [None, None, -32601, None, -32600]
        silent = await wire.post([said, said])
        assert (silent.status, silent.body) == (202, b"")
        for bad in (b"[]", b"[1]", [asks("initialize", protocolVersion="2025-03-26")], [asks("ping", i) for i in range(1001)]):
            assert (await wire.post(bad)).status == 400
        assert code_of(await wire.post([asks()], {"mcp-protocol-version": "1999-01-01"})) == -32022
        await wire.delete()


async def test_a_request_without_a_session_is_told_so_even_in_a_batch(stub: Upstream) -> None:
    async with leaving_nothing(stub) as (gateway, _), Wire(gateway.url) as wire:
        assert (await wire.post([asks()])).status == 400
        wire.session = "unknown"
        assert (await wire.post([asks()])).status == 404


async def test_other_methods_are_not_allowed(stub: Upstream) -> None:
    async with leaving_nothing(stub) as (gateway, _), Line.to(gateway) as line:
        for method in ("PUT", "PATCH", "OPTIONS", "HEAD", "TRACE"):
            await line.say(f"{method} /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            answer = await line.answer()
            assert (answer.status, answer.headers["allow"], answer.body) == (405, "POST, GET, DELETE", b""), method
        await line.say(b"PUT /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = await line.answer()
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_the_head_of_a_page_has_no_body(stub: Upstream) -> None:
    async with leaving_nothing(stub) as (gateway, _), Line.to(gateway) as line:
        await line.say(b"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await line.answer()).status == 200
        assert (await line.answer()).status == 404


async def test_a_stream_needs_an_accept_and_a_session(stub: Upstream) -> None:
    async with leaving_nothing(stub) as (gateway, wire), Line.to(gateway) as line:
        get = "GET /mcp HTTP/1.1\r\nHost: localhost\r\n"
        await line.say(f"{get}Accept: application/json\r\nMcp-Session-Id: {wire.session}\r\n\r\n".encode())
        assert (await line.answer()).status == 406
        await line.say(f"{get}Accept: text/event-stream\r\n\r\n".encode())
        assert (await line.answer()).status == 400
        await line.say(f"{get}Accept: text/event-stream\r\nMcp-Session-Id: x\r\n\r\n".encode())
        assert (await line.answer()).status == 404


async def test_a_body_that_declares_too_much_is_refused_and_the_answer_arrives(stub: Upstream) -> None:
    async with leaving_nothing(stub) as (gateway, wire):
        async with Line.to(gateway) as line:
            await line.say(post(wire, b"x" * 3_000_000))
            answer = await line.answer()
            assert (answer.status, answer.code, answer.headers["connection"]) == (413, -32600, "close")
        async with Line.to(gateway) as line:
            await line.say(post(wire, None, "Expect: 100-continue", length=10**15))
            assert (await line.answer()).status == 413
        async with Line.to(gateway) as line:
            await line.say(post(wire, None, length=10**30))
            assert (await line.answer()).status == 400


async def test_a_body_that_declares_nothing_is_refused_once_it_is_too_large(stub: Upstream) -> None:
    async with leaving_nothing(stub) as (gateway, wire), Line.to(gateway) as line:
        await line.say(post(wire, None, "Transfer-Encoding: chunked"))
        for _ in range(BODY_BYTES // 1000 + 5):
            await line.say(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
        await line.say(b"0\r\n\r\n")
        answer = await line.answer()
        assert (answer.status, answer.code) == (413, -32600)


async def test_a_client_that_leaves_in_the_middle_of_its_body_leaves_nothing(stub: Upstream) -> None:
    async with leaving_nothing(stub) as (gateway, wire):
        for body in (b"", PING[:10], b"x" * BODY_BYTES * 2):
            async with Line.to(gateway) as line:
                await line.say(post(wire, body, length=10 * BODY_BYTES))
        async with Line.to(gateway) as line:
            await line.say(post(wire, b"5\r\nhello\r\n", "Transfer-Encoding: chunked"))


async def test_expect_continue_is_answered_before_the_body(stub: Upstream) -> None:
    async with leaving_nothing(stub) as (gateway, wire), Line.to(gateway) as line:
        await line.say(post(wire, None, "Expect: 100-continue", length=len(PING)))
        assert (await line.answer()).status == 100
        await line.say(PING)
        assert json.loads((await line.answer()).body)["result"] == {}


async def test_pipelined_requests_are_answered_in_order(stub: Upstream) -> None:
    async with leaving_nothing(stub) as (gateway, wire), Line.to(gateway) as line:
        bodies = [json.dumps(asks("tools/call", id, name="up__echo", arguments={"text": str(id)})).encode() for id in range(5)]
        await line.say(b"".join(post(wire, body) for body in bodies))
        assert [json.loads((await line.answer()).body)["id"] for _ in bodies] == [0, 1, 2, 3, 4]


async def test_a_client_of_http_1_0_is_answered_and_its_connection_closed(stub: Upstream) -> None:
    async with leaving_nothing(stub) as (gateway, wire), Line.to(gateway) as line:
        await line.say(post(wire, PING, version="1.0"))
        answer = await line.answer()
        assert (answer.status, json.loads(answer.body)["result"], answer.headers["connection"]) == (200, {}, "close")
        assert await line.rest() == b""


async def test_a_client_that_offers_another_protocol_with_each_request_is_served(stub: Upstream) -> None:
    async with leaving_nothing(stub) as (gateway, wire), Line.to(gateway) as line:
        offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")
        for _ in range(3):
            await line.say(post(wire, PING, *offer))
            assert json.loads((await line.answer()).body)["result"] == {}


NO_HTTP = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"HELLO\r\n\r\n",
    b"GET\r\n\r\n",
    b"POST /mcp HTTP/9.9\r\n\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /mcp HTTP/1.1\r\nHost: localhost\r\nBad Header: x\r\n\r\n",
]


async def test_what_is_no_http_gets_a_400_and_a_closed_connection(stub: Upstream) -> None:
    async with leaving_nothing(stub) as (gateway, _):
        for said in NO_HTTP:
            async with Line.to(gateway) as line:
                await line.say(said)
                answer = await line.answer()
                assert (answer.status, answer.headers.get("connection")) == (400, "close"), said
                assert await line.rest() == b""


def many_headers(count: int) -> bytes:
    return b"GET /mcp HTTP/1.1\r\nHost: localhost\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(count))


BOMBS = [
    ("a header without an end", b"GET /mcp HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * HEADER_BYTES),
    ("one huge header", b"GET /mcp HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * HEADER_BYTES + b"\r\n\r\n"),
    ("headers without an end", many_headers(HEADER_BYTES // 6)),
    ("many small ones", many_headers(HEADER_BYTES // 6) + b"\r\n"),
    ("a huge URL", b"GET /" + b"y" * HEADER_BYTES + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ("a huge chunk extension", post(None, b"1;", "Transfer-Encoding: chunked") + b"y" * HEADER_BYTES * 2),
    ("huge trailers", post(None, b"0\r\nX: ", "Transfer-Encoding: chunked") + b"y" * HEADER_BYTES * 2),
]


async def test_header_bombs_are_refused(stub: Upstream) -> None:
    async with leaving_nothing(stub) as (gateway, _):
        for what, bomb in BOMBS:
            async with Line.to(gateway) as line:
                await line.say(bomb)
                answer = await line.answer()
                assert (what, answer.status, answer.headers["connection"]) == (what, 431, "close")
                assert await line.rest() == b""


async def test_a_header_bomb_with_a_body_behind_it_is_answered_once(stub: Upstream, caplog: pytest.LogCaptureFixture) -> None:
    async with leaving_nothing(stub) as (gateway, wire), Line.to(gateway) as line:
        await line.say(post(wire, PING, "X: " + "y" * HEADER_BYTES) + b"and then rubbish\r\n\r\n")
        assert (await line.answer()).status == 431
        assert await line.rest() == b""
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


async def test_what_stands_behind_a_header_bomb_is_not_answered(stub: Upstream, caplog: pytest.LogCaptureFixture) -> None:
    async with leaving_nothing(stub) as (gateway, wire), Line.to(gateway) as line:
        bomb = post(wire, PING, "X: " + "y" * HEADER_BYTES)
        await line.say(bomb + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" + post(wire, PING))
        assert (await line.answer()).status == 431
        assert await line.rest() == b""
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


async def test_trailers_are_no_headers(stub: Upstream) -> None:
    async with leaving_nothing(stub) as (gateway, wire), Line.to(gateway) as line:
        body = b"%x\r\n%b\r\n0\r\nMcp-Session-Id: %b\r\n\r\n" % (len(PING), PING, str(wire.session).encode())
        await line.say(post(None, body, "Transfer-Encoding: chunked"))
        assert (await line.answer()).status == 400


async def test_a_head_that_takes_too_long_is_refused(stub: Upstream) -> None:
    async with leaving_nothing(stub) as (gateway, _):
        with moved_time(gateway) as time:
            async with Line.to(gateway) as line:
                await line.say(b"POST /mcp")
                await served(gateway)
                for letter in b" HTTP/1.1":
                    time.passes(3)
                    await line.say(bytes([letter]))
                    await served(gateway)
                time.passes(10)
                assert (await line.answer()).status == 408
                assert await line.rest() == b""


async def test_a_body_that_takes_too_long_is_refused(stub: Upstream) -> None:
    async with leaving_nothing(stub) as (gateway, wire):
        with moved_time(gateway) as time:
            async with Line.to(gateway) as line:
                await line.say(post(wire, None, length=len(PING)))
                await served(gateway)
                for letter in PING[:9]:
                    time.passes(3)
                    await line.say(bytes([letter]))
                    await served(gateway)
                time.passes(10)
                assert (await line.answer()).status == 408
                assert await line.rest() == b""


async def test_a_connection_on_which_nothing_comes_is_closed(stub: Upstream) -> None:
    async with leaving_nothing(stub) as (gateway, _):
        with moved_time(gateway) as time:
            async with Line.to(gateway) as line:
                await served(gateway)
                time.passes(31)
                assert await line.rest() == b""


async def test_who_was_refused_and_stays_is_cut_off(stub: Upstream) -> None:
    async with leaving_nothing(stub) as (gateway, _):
        with moved_time(gateway) as time:
            async with Line.to(gateway) as line:
                await line.say(many_headers(HEADER_BYTES))
                assert (await line.answer()).status == 431
                time.passes(LINGER_SECONDS + 0.1)
                with contextlib.suppress(ConnectionError):
                    assert await line.rest() == b""
                await gateway.until(lambda: not any("refused" in repr(entry) for entry in gateway.gateway.sweep._watched))


async def test_what_waits_behind_a_long_call_is_not_late(stub: Upstream) -> None:
    async with leaving_nothing(stub, request_read_seconds=5) as (gateway, wire):
        with moved_time(gateway) as time:
            async with Line.to(gateway) as line:
                slow = json.dumps(asks("tools/call", name="up__slow", arguments={"ms": 300})).encode()
                await line.say(post(wire, slow) + post(wire, PING)[:-5])
                await gateway.until(lambda: stub.seen.running == 1)
                time.passes(6)
                assert "result" in json.loads((await line.answer()).body)
                await line.say(PING[-5:])
                assert json.loads((await line.answer()).body)["result"] == {}


async def served(gateway: RunningGateway) -> None:
    """What was sent to the gateway before has arrived there: it was sent earlier than this, to the same loop."""
    async with Line.to(gateway) as line:
        await line.say(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await line.answer()).status == 200


def deaf(gateway: RunningGateway) -> socket.socket:
    """A connection whose client takes in almost nothing."""
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.connect(("127.0.0.1", gateway.port))
    return line


async def test_a_client_that_does_not_read_its_big_result_is_cut_off(stub: Upstream) -> None:
    stub.orders.raw_result = json.dumps({"content": [], "x": "y" * 20_000_000})
    async with leaving_nothing(stub) as (gateway, wire):
        with moved_time(gateway) as time, contextlib.closing(deaf(gateway)) as line:
            line.sendall(post(wire, json.dumps(asks("tools/call", name="up__echo")).encode()))
            await gateway.until(lambda: stalled(gateway) == 1)
            time.passes(59)
            assert stalled(gateway) == 1
            time.passes(2)
            assert await taken_from(line) < 20_000_000
        stub.orders.raw_result = None


async def test_a_client_that_does_not_read_its_stream_is_cut_off_and_holds_up_nobody(stub: Upstream) -> None:
    async with leaving_nothing(stub) as (gateway, wire):
        session = gateway.gateway.sessions.all()[0]
        with moved_time(gateway) as time, contextlib.closing(deaf(gateway)) as line:
            line.sendall(listen(wire))
            await gateway.until(lambda: session.stream is not None)
            stream = session.stream
            assert stream is not None
            for _ in range(200):
                session.push("notifications/message", b'{"level":"info","data":"%b"}' % (b"x" * 100_000))
                await served(gateway)
            assert stalled(gateway) == 1 and stream.dropped > 0
            time.passes(61)
            await gateway.until(lambda: session.stream is None)


def listen(wire: Wire) -> bytes:
    """A GET of the stream, as bytes."""
    lines = ["GET /mcp HTTP/1.1", "Host: localhost", "Accept: text/event-stream", f"Mcp-Session-Id: {wire.session}"]
    return "\r\n".join([*lines, "", ""]).encode()


async def taken_from(line: socket.socket) -> int:
    """How many bytes come before the connection ends, one way or another."""
    line.setblocking(False)
    loop, total = asyncio.get_running_loop(), 0
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(10):
            while part := await loop.sock_recv(line, 65_536):
                total += len(part)
    return total


def stalled(gateway: RunningGateway) -> int:
    return sum(type(entry).__name__ == "Stalled" for entry in gateway.gateway.sweep._watched)


async def test_a_stream_behind_which_something_was_pipelined_ends_with_its_client(stub: Upstream) -> None:
    async with leaving_nothing(stub) as (gateway, wire):
        session = gateway.gateway.sessions.all()[0]
        async with Line.to(gateway) as line:
            await line.say(listen(wire) + post(wire, PING))
            await gateway.until(lambda: session.stream is not None)
        await gateway.until(lambda: session.stream is None)


async def test_what_is_no_http_breaks_off_a_stream_instead_of_being_answered_in_it(stub: Upstream) -> None:
    async with leaving_nothing(stub) as (gateway, wire):
        session = gateway.gateway.sessions.all()[0]
        async with Line.to(gateway) as line:
            await line.say(listen(wire))
            await gateway.until(lambda: session.stream is not None)
            await line.say(b"rubbish\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                assert b"HTTP/1.1 400" not in await line.rest()
            await gateway.until(lambda: session.stream is None)


async def test_bad_input_is_counted_and_never_a_500(stub: Upstream) -> None:
    async with leaving_nothing(stub) as (gateway, wire):
        await wire.post(b"{")
        await wire.post(asks(), {"mcp-session-id": "unknown"})
        refusals = gateway.gateway.figures.refusals
        assert refusals["ParseError"] == 1 and refusals["UnknownSession"] == 1
