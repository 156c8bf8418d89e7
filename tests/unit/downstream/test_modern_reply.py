"""What a modern client hears while its call runs."""

from __future__ import annotations

import json

import pytest

from mcpgateway.downstream import envelope
from mcpgateway.downstream.modern_http import ModernReply
from mcpgateway.errors import RpcError
from mcpgateway.protocol.modern import CAPABILITIES_META, LOG_LEVEL_META, VERSION_META
from mcpgateway.runtime import Sweep
from tests.fakes.clock import FakeClock
from tests.unit.downstream.asgi import Exchange

HEADERS = [(b"mcp-protocol-version", b"2026-07-28"), (b"mcp-method", b"tools/list")]


def reply_to(exchange: Exchange, clock: FakeClock, **meta: object) -> ModernReply:
    """A reply to a request that says this of itself."""
    said = {VERSION_META: "2026-07-28", CAPABILITIES_META: {"roots": {}}, **meta}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": said}}
    request = envelope.read(envelope.decode(json.dumps(body).encode(), 64), HEADERS)
    return ModernReply(exchange.asgi(), Sweep(clock), request)


def log(level: object) -> bytes:
    return json.dumps({"level": level, "data": "x"}).encode()


async def heard(clock: FakeClock, *said: tuple[str, bytes], **meta: object) -> list[str]:
    """The methods of what reaches a client of all that is said to it."""
    exchange = Exchange()
    reply = reply_to(exchange, clock, **meta)
    for method, params in said:
        reply.notify(method, params)
    await reply.finish(200, [b'{"jsonrpc":"2.0","id":1,"result":{}}'])
    return [message["method"] for message in exchange.messages if "method" in message]


async def test_without_a_level_no_log_message_is_heard(clock: FakeClock) -> None:
    assert await heard(clock, ("notifications/message", log("emergency"))) == []


async def test_with_a_level_those_are_heard_that_reach_it(clock: FakeClock) -> None:
    said = [("notifications/message", log(level)) for level in ("debug", "warning", "error")]
    assert len(await heard(clock, *said, **{LOG_LEVEL_META: "warning"})) == 2


async def test_a_log_message_that_is_none_is_left_out(clock: FakeClock) -> None:
    said = [("notifications/message", params) for params in (b"[]", log(7), b'{"level":')]
    assert await heard(clock, *said, **{LOG_LEVEL_META: "debug"}) == []


async def test_what_belongs_to_no_call_is_not_said_to_one(clock: FakeClock) -> None:
    others = ("tools/list_changed", "resources/updated", "elicitation/complete", "tasks/status", "cancelled")
    said = [(f"notifications/{other}", b"{}") for other in others]
    assert await heard(clock, *said, ("notifications/progress", b"{}")) == ["notifications/progress"]


async def test_a_client_is_asked_nothing_while_its_call_runs(clock: FakeClock) -> None:
    reply = reply_to(Exchange(), clock)
    with pytest.raises(RpcError, match="-32601"):
        await reply.ask("sampling/createMessage", b"{}")
    assert reply.lacked == {"sampling": {}}
    await reply.abandon()
