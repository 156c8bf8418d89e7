"""Whatever bytes come over a socket: the gateway answers in the words of HTTP and JSON-RPC, or ends the connection.

No answer is a 5xx, nothing is logged as an error, nothing waits for ever, and the next request is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcpgateway import runtime
from tests.clients.wire import ACCEPT, Wire
from tests.fakes.gateway import RunningGateway, serving
from tests.fakes.moved_time import MovedTime, moved_time
from tests.fuzz.profile import fuzzed
from tests.fuzz.spoiling import CUTS, pieces, spoiled
from tests.servers.raw_stub import Stub

SESSION = b"SESSIONIDSESSIONIDSESSIONIDSESSI"
"""Stands in the requests where the session's id goes, so that it can be spoiled as well."""


def request(method: str, path: str, message: object = None, *extra: str, version: str = "1.1") -> bytes:
    """A whole request, as a well-behaved client sends it."""
    body = json.dumps(message).encode() if message is not None else b""
    lines = [f"{method} {path} HTTP/{version}", "Host: 127.0.0.1", f"Accept: {ACCEPT}", "MCP-Protocol-Version: 2025-11-25"]
    lines += ["Content-Type: application/json", f"Mcp-Session-Id: {SESSION.decode()}", *extra]
    lines += [f"Content-Length: {len(body)}"] if "Transfer-Encoding: chunked" not in extra else []
    return "\r\n".join([*lines, "", ""]).encode() + body


def rpc(method: str, id: object = 1, **params: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


def chunked(message: object) -> bytes:
    body = json.dumps(message).encode()
    head = request("POST", "/mcp", None, "Transfer-Encoding: chunked")
    return head + b"%x\r\n%b\r\n%x;e=1\r\n%b\r\n0\r\nTrailer: x\r\n\r\n" % (9, body[:9], len(body) - 9, body[9:])


HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
CALL = rpc("tools/call", name="up__echo", arguments={"text": "\u00e9"}, _meta={"progressToken": 1})
REQUESTS = [
    request("POST", "/mcp", rpc("initialize", **HELLO)),
    request("POST", "/mcp", CALL),
    request("POST", "/servers/up/mcp", rpc("tools/call", "id", name="echo")),
    request("POST", "/mcp", rpc("tools/list", cursor="x")),
    request("POST", "/mcp", [rpc("ping", 1), rpc("ping", 2)]),
    request("POST", "/mcp", {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}),
    request("POST", "/mcp", {"jsonrpc": "2.0", "id": 5, "result": {}}),
    request("POST", "/mcp", rpc("server/discover"), "Expect: 100-continue"),
    request("POST", "/mcp", CALL, "Connection: Upgrade", "Upgrade: h2c"),
    request("POST", "/mcp", CALL, "Connection: close", version="1.0"),
    chunked(CALL),
    request("GET", "/mcp"),
    request("GET", "/metrics") + request("GET", "/status") + request("POST", "/mcp", CALL),
    request("HEAD", "/healthz"),
    request("DELETE", "/mcp"),
    request("OPTIONS", "*", None, "Origin: http://localhost"),
]
LINES = """Content-Length: 5
Content-Length: -1
Content-Length: 99999999999999999999
Content-Length: 1e3
Transfer-Encoding: chunked
Transfer-Encoding: gzip
Expect: 100-continue
Upgrade: websocket
Connection: close
Connection: upgrade
Host: evil
Origin: null
Mcp-Session-Id: \xff
CONNECT a:1 HTTP/1.1
PRI * HTTP/2.0
ffffffffffffffff
-1
0
"""
TOKENS = [
    *(line.encode("latin-1") + b"\r\n" for line in LINES.split("\n")),
    *(b"\r\n\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b"\r\n ", b"\xff", b"\xc3\x28", b"%00", b"?x=", b"//", b"..%2f"),
    *(b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9", b"[[[[", b'{"', rb"\ud800", b"null", b"1e999", SESSION),
    *(b"9" * 400, b"[" * 500, b"x" * 9000),
]


class Fuzzing:
    """A gateway that lives in a loop of its own between examples, and a client with a session."""

    def __init__(self, http_protocol: str) -> None:
        self._http_protocol = http_protocol
        self._runner = asyncio.Runner()
        self._stack = contextlib.AsyncExitStack()
        self._gateway: RunningGateway
        self._wire: Wire
        self._time: MovedTime

    def __repr__(self) -> str:
        return f"<Fuzzing {self._gateway.port}>"

    def start(self) -> None:
        self._runner.run(self._start())

    async def _start(self) -> None:
        stub = Stub()
        await stub.start()
        self._stack.push_async_callback(stub.aclose)
        document = {
            "mcpServers": {"up": {"url": stub.url, "timeout_seconds": 600}},
            "gateway": {
                "limits": {"body_bytes": 20_000, "header_bytes": 8_000},
                "health_check_interval_seconds": 600,
                "http_protocol": self._http_protocol,
            },
        }
        self._gateway = await self._stack.enter_async_context(serving(document))
        self._wire = await self._stack.enter_async_context(Wire(self._gateway.url))
        await self._wire.initialize()

    def stop(self) -> None:
        self._runner.run(self._stack.aclose())
        self._runner.close()

    def said(self, data: bytes, cuts: list[int]) -> bytes:
        """All that the gateway says to these bytes, sent in pieces and followed by silence."""
        return self._runner.run(self._said(data, cuts))

    async def _said(self, data: bytes, cuts: list[int]) -> bytes:
        data = data.replace(SESSION, str(self._wire.session).encode())
        with moved_time(self._gateway) as self._time:
            return await self._heard(data, cuts)

    async def _heard(self, data: bytes, cuts: list[int]) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._gateway.port)
        try:
            async with asyncio.timeout(20):
                with contextlib.suppress(ConnectionError):
                    for piece in pieces(data, cuts):
                        writer.write(piece)
                        await self._round_trip()
                return await self._until_silence(reader)
        finally:
            writer.close()
            await self._until_nothing_is_left()

    async def _until_silence(self, reader: asyncio.StreamReader) -> bytes:
        """What comes until the connection ends, or until all is answered. Time passes for who has not sent a whole request."""
        heard = bytearray()
        reading = asyncio.create_task(reader.read(1 << 20))
        quiet = 0
        while quiet < 3:
            await self._round_trip()
            if reading.done():
                if reading.exception() or not reading.result():
                    return bytes(heard)
                heard += reading.result()
                reading = asyncio.create_task(reader.read(1 << 20))
                # Somebody who listens is told from time to time that the stream is alive, which is no answer.
                quiet = quiet if b"text/event-stream" in heard else 0
            elif not self._busy():
                quiet += 1
                self._time.passes(31)
        reading.cancel()
        await asyncio.wait([reading])
        return bytes(heard)

    def _busy(self) -> bool:
        return any(session.in_flight for session in self._gateway.gateway.sessions.all())

    async def _round_trip(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._gateway.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert await reader.readexactly(12) == b"HTTP/1.1 200"
        writer.close()

    async def _until_nothing_is_left(self) -> None:
        """No call and no stream of the client stays. Of one who listens and has asked for something more, it shows only
        when it is next told that it is heard."""
        async with asyncio.timeout(20):
            while self._busy() or self._streams():
                self._time.passes(31)
                await self._round_trip()

    def expect_service(self) -> None:
        """The next call is served."""
        self._runner.run(self._expect_service())

    async def _expect_service(self) -> None:
        if (await self._wire.post(rpc("ping"))).status == 404:
            await self._wire.initialize()
        assert "result" in await self._wire.call("up__echo")

    def _streams(self) -> list[str]:
        return [name for name in runtime.running_tasks() if not name.startswith(("watch up", "listen to up"))]


class Errors(logging.Handler):
    """Whatever is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture(scope="module", params=["own", "uvicorn"])
def fuzzing(request: pytest.FixtureRequest) -> Iterator[Fuzzing]:
    fuzzing = Fuzzing(request.param)
    fuzzing.start()
    yield fuzzing
    fuzzing.stop()


@pytest.fixture(scope="module")
def errors() -> Iterator[Errors]:
    handler = Errors()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


def expect_sound_answers(said: bytes) -> None:
    """Nothing but whole answers, none of which is a fault of ours."""
    while said:
        head, blank, said = said.partition(b"\r\n\r\n")
        assert blank and head.startswith(b"HTTP/1."), head
        status, headers = int(head.split()[1]), head.lower()
        assert status < 500, head
        body, said = _body(headers, said)
        if b"content-type: application/json" in headers and status >= 400 and body:
            assert isinstance(json.loads(body)["error"]["code"], int)
        assert b"InternalError" not in body


def _body(headers: bytes, said: bytes) -> tuple[bytes, bytes]:
    """The body behind these headers, and what comes after it."""
    if said.startswith(b"HTTP/1.1 "):
        return b"", said  # the answer before was to a HEAD
    if b"transfer-encoding: chunked" not in headers:
        length = int(headers.partition(b"content-length: ")[2].partition(b"\r\n")[0] or b"0")
        return said[:length], said[length:]
    body = b""
    while said:
        size, _, said = said.partition(b"\r\n")
        length = int(size, 16)
        body, said = body + said[:length], said[length + 2 :]
        if length == 0:
            break
    return body, said


@fuzzed(150)
@given(spoiled(st.sampled_from(REQUESTS), TOKENS), CUTS)
def test_a_spoiled_request_gets_sound_answers_and_leaves_nothing(
    fuzzing: Fuzzing, errors: Errors, data: bytes, cuts: list[int]
) -> None:
    errors.lines.clear()
    expect_sound_answers(fuzzing.said(data, cuts))
    fuzzing.expect_service()
    assert errors.lines == []


@fuzzed(60)
@example(request("POST", "/mcp", rpc("ping"), "Expect: 100-continue") + b"rubbish\r\n\r\n", [])
@example(request("GET", "/mcp") + request("POST", "/mcp", rpc("initialize", **HELLO)), [len(request("GET", "/mcp"))])
@given(st.lists(spoiled(st.sampled_from(REQUESTS), TOKENS, 1), min_size=2, max_size=4).map(b"".join), CUTS)
def test_spoiled_requests_behind_one_another_get_sound_answers_too(
    fuzzing: Fuzzing, errors: Errors, data: bytes, cuts: list[int]
) -> None:
    errors.lines.clear()
    expect_sound_answers(fuzzing.said(data, cuts))
    fuzzing.expect_service()
    assert errors.lines == []
