"""What sessions with a modern server (2026-07-28) do alike on both wires.

Such a server keeps no session. Ours is a client's subscriptions and what the client said of itself, which every request says
again; methods that only legacy revisions have are answered here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from mcpgateway.errors import RpcError, SessionLost
from mcpgateway.protocol import jsonrpc, revisions
from mcpgateway.protocol.call import Call, Channel, HeaderBlock
from mcpgateway.runtime import Sweep
from mcpgateway.upstream.base import Hello, Listener, Welcome
from mcpgateway.upstream.listening import Listening, Member
from mcpgateway.upstream.rounds import has_tasks, in_rounds

METHOD_NOT_FOUND = -32601


class Introduced:
    """A client of which only its hello is known; see `protocol.call.Client`."""

    id = ""

    def __init__(self, hello: Hello) -> None:
        self.version = revisions.MODERN[-1] if hello.modern else revisions.NEWEST_LEGACY
        self.capabilities = hello.capabilities
        self.client_info = hello.client_info

    def __repr__(self) -> str:
        return f"<Introduced {self.version}>"


class Server(Protocol):
    """A modern server, as a session reaches it."""

    listening: Listening

    async def exchange(self, call: Call, params: jsonrpc.Params, channel: Channel, member: Member) -> bytes:
        """The raw result of one request. Raises RpcError, UpstreamError."""

    async def discover(self, headers: HeaderBlock, timeout_seconds: float) -> Welcome:
        """What the server says of itself now. Raises UpstreamError."""


class ModernSession:
    """See `UpstreamSession`."""

    stateful = False

    def __init__(self, upstream: str, server: Server, welcome: Welcome, headers: HeaderBlock, sweep: Sweep) -> None:
        self.upstream = upstream
        self.welcome = welcome
        self.listener: Listener | None = None
        self.own_headers = headers
        self._server = server
        self._sweep = sweep
        self._closed = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.upstream} {self.welcome.protocol_version}{' closed' if self.closed else ''}>"

    @property
    def closed(self) -> bool:
        return self._closed

    async def request(self, call: Call, channel: Channel) -> bytes:
        """See `UpstreamSession.request`. The result is as a modern server sends it, for its edge to translate."""
        if self.closed:
            raise SessionLost(self.upstream, "the session had ended")
        own = _OWN.get(call.method)
        if own is not None:
            return await own(self, call)
        if call.method.startswith("tasks/") and not has_tasks(call.client):
            raise RpcError.of(METHOD_NOT_FOUND, f"upstream {self.upstream!r} has no {call.method} for this client")
        send = partial(self._send, call, channel)
        return await in_rounds(self.upstream, call, channel, send, self._sweep)

    async def _send(self, call: Call, channel: Channel, params: jsonrpc.Params) -> bytes:
        return await self._server.exchange(call, params, channel, self)

    async def notify(self, method: str, params: bytes | None = None, headers: HeaderBlock = b"") -> None:
        """Nothing: a client has no notifications to send, and what they would say stands in its next request."""

    def listen(self, headers: HeaderBlock = b"") -> None:
        """Hear of all lists of which the server announces changes."""
        if not self.closed:
            self._server.listening.listen(self)

    async def hears(self) -> None:
        return

    def stop_listening(self) -> None:
        self._server.listening.stop_listening(self)

    async def _ping(self, call: Call) -> bytes:
        await self._server.discover(call.headers, call.timeout_seconds)
        return b"{}"

    async def _set_level(self, call: Call) -> bytes:
        return b"{}"  # every request names the level

    async def _subscribe(self, call: Call) -> bytes:
        await self._server.listening.subscribe(self, jsonrpc.string_of(call.params, "uri"), call.timeout_seconds)
        return b"{}"

    async def _unsubscribe(self, call: Call) -> bytes:
        self._server.listening.unsubscribe(self, jsonrpc.string_of(call.params, "uri"))
        return b"{}"

    async def aclose(self) -> None:
        """The session hears nothing more. The server knows nothing of its end."""
        self._closed = True
        self._server.listening.forget(self)


_OWN: dict[str, Callable[[ModernSession, Call], Awaitable[bytes]]] = {
    "ping": ModernSession._ping,
    "logging/setLevel": ModernSession._set_level,
    "resources/subscribe": ModernSession._subscribe,
    "resources/unsubscribe": ModernSession._unsubscribe,
}
"""Methods that modern servers do not have."""
