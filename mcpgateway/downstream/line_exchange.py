"""A modern request on a pipe, as the edge of its generation knows requests: with headers, and a response of its own."""

from __future__ import annotations

from collections.abc import Callable

from mcpgateway.downstream.exchange import JSON, HeaderList, Headers
from mcpgateway.downstream.sessions import Outlet
from mcpgateway.errors import GatewayError
from mcpgateway.protocol import headers, jsonrpc, sse
from mcpgateway.protocol.modern import VERSION_META


class LineExchange:
    """See `exchange.Exchange`. The headers say what the body says; of the response only its messages are sent.

    A pipe has no responses that a client could leave: it takes a request back by a notification, which cancels its task.
    """

    method = "POST"
    path = ""

    def __init__(self, message: jsonrpc.Message, body: bytes, outlet: Outlet) -> None:
        self.header_list: HeaderList = _mirrors_of(message)
        self.headers: Headers = dict(self.header_list)
        self._body = body
        self._outlet = outlet
        self._decoder = sse.Decoder()

    def __repr__(self) -> str:
        return f"<LineExchange of {len(self._body)} bytes>"

    async def body(self, limit: int) -> bytes:
        return self._body

    async def respond(self, status: int, body: bytes, headers: HeaderList = (JSON,)) -> None:
        if body:
            self._outlet.put_surely(body)

    async def begin(self, headers: HeaderList) -> None:
        return

    async def write(self, piece: bytes) -> None:
        for event in self._decoder.feed(piece):
            self._outlet.put_surely(event.data)

    async def end(self) -> None:
        return

    def when_left(self, tell: Callable[[], None]) -> None:
        return


def _mirrors_of(message: jsonrpc.Message) -> HeaderList:
    """What the headers of a request would be that came over HTTP."""
    params = message.params if isinstance(message.params, dict) else jsonrpc.NO_PARAMS
    block = headers.lines(str(message.method), params)
    named = [line.partition(b": ") for line in block.split(b"\r\n") if line]
    mirrors = [(name.lower(), value) for name, _, value in named]
    accept = (b"accept", b"application/json, text/event-stream")
    return [JSON, accept, (b"mcp-protocol-version", _version_in(params)), *mirrors]


def _version_in(params: jsonrpc.Params) -> bytes:
    """The revision that a request names; empty for none."""
    try:
        return jsonrpc.string_of(jsonrpc.object_of(params.get("_meta", b"{}")), VERSION_META).encode()
    except GatewayError:
        return b""
