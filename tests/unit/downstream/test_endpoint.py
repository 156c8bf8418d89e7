"""The application as a whole, in memory: whatever comes, it answers in the protocol's words."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcpgateway import config, runtime
from mcpgateway.app import Gateway
from mcpgateway.auth.access import Access
from mcpgateway.downstream.dispatch import Handler
from mcpgateway.downstream.door import Door
from mcpgateway.downstream.endpoint import Endpoint
from mcpgateway.downstream.exchange import DISCARDED_BYTES
from mcpgateway.downstream.rate_limit import NoRateLimit
from mcpgateway.errors import StateLost
from mcpgateway.protocol.call import Channel
from tests.unit.downstream.asgi import MCP_HEADERS, Exchange, ask, scope

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


@asynccontextmanager
async def gateway_of(document: dict[str, Any] | None = None) -> AsyncIterator[Gateway]:
    gateway = Gateway(config.parse(json.dumps({"mcpServers": {}} | (document or {})), "test.json", {}))
    yield gateway
    async with asyncio.timeout(5):
        await gateway.stop()


async def session_of(gateway: Gateway) -> dict[str, str]:
    """The header that names a new session."""
    return {"mcp-session-id": (await ask(gateway.asgi, INITIALIZE)).headers["mcp-session-id"]}


METHODS = (
    "completion/complete logging/setLevel ping prompts/get prompts/list resources/list resources/read resources/subscribe"
    " resources/templates/list resources/unsubscribe tools/call tools/list initialize server/discover"
    " notifications/cancelled notifications/initialized notifications/roots/list_changed x"
).split()

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = ["name", "uri", "cursor", "arguments", "_meta", "ref", "level", "requestId", "protocolVersion", "capabilities"]
PARAMS = st.dictionaries(st.sampled_from([*FIELDS, "clientInfo"]), JSON, max_size=5) | JSON
MESSAGES = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0") | JSON},
    optional={"id": JSON, "method": st.sampled_from(METHODS) | JSON, "params": PARAMS, "result": JSON, "error": JSON},
)


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """A message with some bytes changed."""
    body = bytearray(json.dumps(draw(MESSAGES)).encode())
    for at, byte in draw(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4)):
        body[at % len(body)] = byte
    return bytes(body)


BODIES = (
    st.binary(max_size=200)
    | spoiled()
    | MESSAGES.map(lambda message: json.dumps(message).encode())
    | st.lists(MESSAGES, max_size=4).map(lambda batch: json.dumps(batch).encode())
)
HEADERS = st.dictionaries(
    st.sampled_from(
        (
            "host origin accept content-type content-length mcp-session-id mcp-protocol-version authorization"
            " x-request-id last-event-id expect"
        ).split()
    ),
    st.text(st.characters(min_codepoint=0, max_codepoint=255), max_size=30)
    | st.sampled_from(["localhost", "http://[", "9" * 5000, "2025-06-18", "2026-07-28", "application/json", "*/*"]),
    max_size=3,
)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(["POST", "POST", "POST", "GET", "DELETE", "HEAD", "x"]), BODIES, HEADERS, st.booleans())
def test_nothing_that_is_sent_is_a_500_or_leaves_anything(
    method: str, body: bytes, headers: dict[str, str], known: bool
) -> None:
    async def send() -> Exchange:
        async with gateway_of() as gateway, asyncio.timeout(5):
            own = await session_of(gateway) if known else {}
            exchange = Exchange(body)
            if method == "GET":
                exchange.leave()
            await gateway.asgi(scope(method, "/mcp", MCP_HEADERS | own | headers), exchange.receive, exchange.send)
            assert not any(session.in_flight for session in gateway.sessions.all())
        assert runtime.running_tasks() == []
        return exchange

    exchange = asyncio.run(send())
    assert exchange.complete or method == "GET", exchange
    assert exchange.status in (200, 202, 204, 400, 403, 404, 405, 406, 413, 415), (exchange.status, exchange.body)
    if exchange.status >= 400 and exchange.status != 405:
        assert isinstance(exchange.messages[0]["error"]["code"], int)
    assert all("InternalError" not in json.dumps(message) for message in exchange.messages)


class BrokenDispatch:
    """A dispatch whose every handler has a fault."""

    def handler(self, method: str) -> Handler:
        async def break_down(*_: object) -> bytes:
            raise ZeroDivisionError("the secret of the handler")

        return break_down


class BrokenDoor(Door):
    def check_origin(self, headers: dict[bytes, bytes]) -> None:
        raise ZeroDivisionError("the secret of the door")


@contextmanager
def broken(gateway: Gateway, part: str) -> Iterator[None]:
    """A gateway one of whose parts was replaced by one with a fault."""
    if part == "dispatch":
        gateway.conversing._dispatch = BrokenDispatch()  # type: ignore[assignment]
    else:
        gateway.asgi._door = BrokenDoor(None, local=True)
    yield


async def test_a_fault_in_a_handler_is_an_answer_and_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with gateway_of() as gateway:
        session = await session_of(gateway)
        with broken(gateway, "dispatch"), caplog.at_level(logging.INFO):
            exchange = await ask(gateway.asgi, PING, session | {"x-request-id": "r-17"})
            batch = await ask(gateway.asgi, [PING, PING | {"id": 2}], session)
        (message,) = exchange.messages
        assert (exchange.status, message["id"], message["error"]["code"]) == (200, 1, -32603)
        assert message["error"]["data"]["requestId"] == "r-17" and b"secret" not in exchange.body
        assert [entry["error"]["code"] for entry in batch.messages[0]] == [-32603, -32603]
        records = [record for record in caplog.records if "r-17" in record.getMessage()]
        assert len(records) == 1 and records[0].exc_info is not None and len(caplog.records) == 3
        assert [each.in_flight for each in gateway.sessions.all()] == [{}]


async def test_a_fault_anywhere_else_is_an_answer_too(caplog: pytest.LogCaptureFixture) -> None:
    async with gateway_of() as gateway:
        with broken(gateway, "door"), caplog.at_level(logging.INFO):
            exchange = await ask(gateway.asgi, PING, {"x-request-id": "r-18"})
        (message,) = exchange.messages
        assert (exchange.status, message["error"]["code"]) == (500, -32603)
        assert message["error"]["data"]["requestId"] == "r-18" and b"secret" not in exchange.body
        assert len(caplog.records) == 1 and caplog.records[0].exc_info is not None


class LosingDispatch:
    """A dispatch whose handlers find that the session's state is lost."""

    def handler(self, method: str) -> Handler:
        async def lose(*_: object) -> bytes:
            raise StateLost("it is gone")

        return lose


async def test_a_call_that_ends_its_session_does_not_cancel_itself() -> None:
    async with gateway_of() as gateway:
        session = await session_of(gateway)
        gateway.conversing._dispatch = LosingDispatch()  # type: ignore[assignment]
        exchange = await ask(gateway.asgi, PING, session)
        task = asyncio.current_task()
        assert task is not None and task.cancelling() == 0
        assert exchange.status == 404 and len(gateway.sessions) == 0


class HangingDispatch:
    """A dispatch whose handlers say something and then never end."""

    def handler(self, method: str) -> Handler:
        async def hang(view: object, conversation: object, call: object, channel: Channel) -> bytes:
            channel.notify("notifications/progress", b"{}")
            await asyncio.Event().wait()
            return b"{}"

        return hang


@pytest.mark.parametrize("batch", [False, True])
async def test_a_request_that_is_cut_off_from_within_leaves_nothing(batch: bool) -> None:
    async with gateway_of() as gateway:
        session = await session_of(gateway)
        gateway.conversing._dispatch = HangingDispatch()  # type: ignore[assignment]
        before = len(gateway.sweep)
        exchange = Exchange(json.dumps([PING] if batch else PING).encode())
        post = scope("POST", "/mcp", MCP_HEADERS | session)
        task = asyncio.create_task(gateway.asgi(post, exchange.receive, exchange.send))
        await exchange.until_messages(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert runtime.running_tasks() == [] and len(gateway.sweep) == before


@pytest.mark.parametrize("given_id", ["", "x" * 129, "line\nbreak", "\u00e9", "\x1b[31m"])
async def test_a_request_id_that_a_log_cannot_hold_is_replaced(given_id: str, caplog: pytest.LogCaptureFixture) -> None:
    async with gateway_of() as gateway:
        session = await session_of(gateway)
        with broken(gateway, "dispatch"):
            exchange = await ask(gateway.asgi, PING, session | {"x-request-id": given_id})
        assert exchange.messages[0]["error"]["data"]["requestId"] != given_id


async def test_c7_while_draining_calls_are_refused_with_a_503_that_says_when_to_come_back() -> None:
    async with gateway_of() as gateway:
        session = await session_of(gateway)
        gateway.drain()
        exchange = await ask(gateway.asgi, PING, session)
        assert (exchange.status, exchange.headers["connection"]) == (503, "close")
        assert int(exchange.headers["retry-after"]) >= 1 and exchange.messages[0]["error"]["code"] == -32600


async def test_without_a_token_nothing_is_told_but_that_one_is_needed() -> None:
    auth = {"gateway": {"auth": {"tokens": {"alice": "sha256:" + "0" * 64}}}}
    async with gateway_of(auth) as gateway:
        for path in ("/mcp", "/status", "/metrics"):
            exchange = Exchange(b"")
            await gateway.asgi(scope("GET", path, MCP_HEADERS), exchange.receive, exchange.send)
            assert (exchange.status, exchange.headers["www-authenticate"][:6]) == (401, "Bearer")
        for path in ("/healthz", "/readyz"):
            exchange = Exchange(b"")
            await gateway.asgi(scope("GET", path, MCP_HEADERS), exchange.receive, exchange.send)
            assert exchange.status == 200


@pytest.mark.parametrize("declared", [{}, {"content-length": "100000"}], ids=["undeclared", "declared"])
async def test_a_body_that_is_too_large_is_read_to_its_end_before_it_is_refused(declared: dict[str, str]) -> None:
    async with gateway_of({"gateway": {"limits": {"body_bytes": 1024}}}) as gateway:
        exchange = Exchange(*[b"x" * 1000] * 100)
        await gateway.asgi(scope("POST", "/mcp", MCP_HEADERS | declared), exchange.receive, exchange.send)
        assert (exchange.status, exchange.headers["connection"], exchange._parts) == (413, "close", [])


@pytest.mark.parametrize("length", ["9" * 18, "9" * 5000])
async def test_a_length_that_no_computer_holds_is_too_large(length: str) -> None:
    async with gateway_of() as gateway:
        exchange = await ask(gateway.asgi, PING, {"content-length": length})
        assert exchange.status == 413 and exchange.messages[0]["error"]["code"] == -32600


async def test_a_body_that_never_ends_is_given_up() -> None:
    async with gateway_of({"gateway": {"limits": {"body_bytes": 1024}}}) as gateway:
        exchange = Exchange(*[b"x" * 1_000_000] * (2 * DISCARDED_BYTES // 1_000_000))
        async with asyncio.timeout(10):
            await gateway.asgi(scope("POST", "/mcp", MCP_HEADERS), exchange.receive, exchange.send)
        assert exchange.status == 413 and len(exchange._parts) > 1


async def test_a_client_that_leaves_before_its_request_is_complete_is_not_answered() -> None:
    async with gateway_of() as gateway:
        for headers in ({}, {"content-length": "99999999"}):
            exchange = Exchange(b"{")
            exchange._parts.clear()
            exchange.leave()
            await gateway.asgi(scope("POST", "/mcp", MCP_HEADERS | headers), exchange.receive, exchange.send)
            assert exchange.status == 0


async def test_the_lifespan_starts_and_stops_the_gateway() -> None:
    said: list[str] = []

    async def note(what: str) -> None:
        said.append(what)

    events = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> dict[str, str]:
        return {"type": next(events)}

    async def send(event: Any) -> None:
        said.append(event["type"])

    async with gateway_of() as gateway:
        app = Endpoint(
            Door(None, local=True),
            gateway._edge,
            gateway._modern,
            gateway._sse,
            gateway._pages,
            Access(None),
            NoRateLimit(),
            {},
            1024,
            lambda _: None,
            lambda: note("started"),
            lambda: note("stopped"),
        )
        await app({"type": "lifespan"}, receive, send)
    assert said == ["started", "lifespan.startup.complete", "stopped", "lifespan.shutdown.complete"]
