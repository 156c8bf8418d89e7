"""The neutral form between the edges: one call, the client that made it, and the way back to it while it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from mcpgateway.errors import RpcError
from mcpgateway.protocol.jsonrpc import NO_PARAMS, Params, object_of
from mcpgateway.protocol.trace import Trace, trace_of

HeaderBlock = bytes
"""Rendered HTTP header lines, each ended by CRLF; empty for none."""


class Channel(Protocol):
    """The way back to the client while its call runs. Raw JSON both ways."""

    def notify(self, method: str, params: bytes) -> None:
        """Send a notification that belongs to this call. Never blocks; a client that stops reading loses them."""

    async def ask(self, method: str, params: bytes) -> bytes:
        """Ask the client and return its raw result.

        Raises RpcError with the client's refusal, or with -32601 where the client cannot be asked.
        """


class Client(Protocol):
    """Who a call comes from, as the wires see it: what it declared of itself."""

    id: str
    """Unguessable name of the conversation; '' for callers that have none."""
    version: str
    capabilities: bytes
    """Raw JSON: what the client declared."""
    client_info: bytes
    """Raw JSON of the client's `clientInfo`."""


class Answerer(Protocol):
    """What the server that answers a call said of itself."""

    @property
    def protocol_version(self) -> str: ...

    @property
    def server_info(self) -> msgspec.Raw: ...


class Call:
    """One request on its way: what is asked, by whom, with which headers upstream, and for how long.

    `timeout_seconds` is the longest silence from the upstream, not the call's whole length: each sign of life renews it.
    `log_level` is the least severe log message that the client asked for, None for none. `answerer` is told by whoever sends
    the call: what the server that answers said of itself, for the edges to know in which generation's form the result is;
    None while the gateway answers by itself. `trace` is the place in somebody's trace that it continues. `when_paused` is told
    when the server has its answer fetched later, and after how many seconds; None where nobody can make use of that.
    """

    __slots__ = (
        "answerer",
        "client",
        "client_headers",
        "headers",
        "log_level",
        "method",
        "params",
        "request_id",
        "timeout_seconds",
        "trace",
        "when_paused",
    )

    def __init__(
        self,
        method: str,
        params: Params = NO_PARAMS,
        *,
        client: Client,
        client_headers: Sequence[tuple[bytes, bytes]] = (),
        headers: HeaderBlock = b"",
        timeout_seconds: float = 60.0,
        request_id: str = "",
        log_level: str | None = None,
    ) -> None:
        self.method = method
        self.params = params
        self.client = client
        self.client_headers = client_headers
        self.headers = headers
        self.timeout_seconds = timeout_seconds
        self.request_id = request_id
        self.log_level = log_level
        self.answerer: Answerer | None = None
        self.trace: Trace | None = None
        self.when_paused: Callable[[float], None] | None = None

    def __repr__(self) -> str:
        return f"<Call {self.method} {self.request_id}>"

    def continue_trace(self, headers: dict[bytes, bytes]) -> None:
        """Go on in the trace that its request names, in the headers and in the `_meta` of what is sent upstream."""
        self.trace = trace_of(headers, self.params)
        if self.trace is not None and b'"traceparent"' not in bytes(self.params.get("_meta", b"")):
            self.params = self.trace.put_into(self.params)

    def progress_token(self) -> msgspec.Raw | None:
        """The client's progress token, raw, or None where it asked for no progress."""
        meta = self.params.get("_meta")
        if meta is None or bytes(meta).find(b"progressToken") < 0:
            return None
        return object_of(meta).get("progressToken")


class NoChannel:
    """The channel of calls the gateway makes for itself: nobody to tell, nobody to ask."""

    def notify(self, method: str, params: bytes) -> None:
        return

    async def ask(self, method: str, params: bytes) -> bytes:
        raise cannot_ask(method)


def cannot_ask(method: str) -> RpcError:
    """What a server is told that asks where nobody can answer."""
    return RpcError.of(-32601, f"no client can be asked {method} here")
