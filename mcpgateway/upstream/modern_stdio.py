"""stdio upstream, revision 2026-07-28: requests that stand for themselves, all on the one pipe.

There a request is cancelled with `notifications/cancelled`, and what a listen stream brings is told by its subscription's id.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw

from mcpgateway.errors import RpcError
from mcpgateway.protocol import jsonrpc, revisions
from mcpgateway.protocol.call import Call, Channel, HeaderBlock, cannot_ask
from mcpgateway.protocol.modern import DISCOVER, LISTEN
from mcpgateway.runtime import Sweep
from mcpgateway.upstream.base import Hello, Welcome, answer_of
from mcpgateway.upstream.discovery import discovery_in, refused, wants_another_try
from mcpgateway.upstream.listening import Heard, Listening, Member, tell
from mcpgateway.upstream.modern import Introduced, ModernSession
from mcpgateway.upstream.owner import OwnedSession
from mcpgateway.upstream.rounds import envelope, meta_of
from mcpgateway.upstream.subscriptions import without_id


class StdioServer:
    """The process behind a session; see `modern.Server`. It hears what the process says outside calls."""

    def __init__(self, owned: OwnedSession, hello: Hello, version: str, sweep: Sweep) -> None:
        self.upstream = owned.upstream
        self.listening = Listening(owned.upstream, self._listen, sweep)
        self.member: Member | None = None
        """Whose process it is."""
        self._owned = owned
        self._client = Introduced(hello)
        self._version = version
        self._streams: dict[int, Heard] = {}
        owned.listener = self

    def __repr__(self) -> str:
        return f"<StdioServer {self.upstream}, {len(self._streams)} listen streams>"

    async def exchange(self, call: Call, params: jsonrpc.Params, channel: Channel, member: Member) -> bytes:
        id = self._owned.next_id()
        params, token = envelope(call, params, self._version, id)
        return await self._owned.carry(call, channel, id, jsonrpc.request(id, call.method, params), token)

    async def discover(self, headers: HeaderBlock, timeout_seconds: float) -> Welcome:
        return await discover(self._owned, self._client, self._version, timeout_seconds)

    async def _listen(self, wanted: Raw, heard: Heard) -> None:
        """One listen stream; see `listening.Stream`."""
        id = self._owned.next_id()
        params = {"notifications": wanted, "_meta": jsonrpc.raw(meta_of(self._client, self._version))}
        self._streams[id] = heard
        try:
            answer_of(self.upstream, await self._owned.ask_aside(id, jsonrpc.request(id, LISTEN, params)))
        finally:
            del self._streams[id]

    def notified(self, method: str, params: bytes) -> None:
        """See `base.Listener`: to the stream that it names, else to whoever listens for the session."""
        fields, id = without_id(jsonrpc.object_of(params))
        if id is not None:
            stream = self._streams.get(_number(id))
            if stream is not None:
                stream(method, fields)
        elif self.member is not None:
            tell(self.upstream, self.member, method, params)

    async def asked(self, method: str, params: bytes) -> bytes:
        """A modern server asks nothing."""
        raise cannot_ask(method)


class ModernStdioSession(ModernSession):
    """A session with a process of its own, which ends with it."""

    stateful = True

    def __init__(self, owned: OwnedSession, server: StdioServer, welcome: Welcome, sweep: Sweep) -> None:
        super().__init__(owned.upstream, server, welcome, b"", sweep)
        self._owned = owned
        server.member = self

    @property
    def closed(self) -> bool:
        return self._owned.closed

    async def aclose(self) -> None:
        await super().aclose()
        await self._owned.aclose()


async def discover(owned: OwnedSession, client: Introduced, version: str, timeout_seconds: float) -> Welcome:
    """What a process says of itself.

    Raises UpstreamError: HttpRefused, BadAnswer and Incompatible where it does not speak a modern revision.
    """
    params = msgspec.json.encode({"_meta": meta_of(client, version)})
    try:
        try:
            result = await owned.ask(DISCOVER, params, timeout_seconds=timeout_seconds)
        except RpcError as error:
            if not wants_another_try(error):
                raise
            result = await owned.ask(DISCOVER, params, timeout_seconds=timeout_seconds)
    except RpcError as error:
        raise refused(owned.upstream, error, 200) from error
    return discovery_in(owned.upstream, jsonrpc.Message(result=Raw(result))).welcome


async def open_on(owned: OwnedSession, hello: Hello, timeout_seconds: float, sweep: Sweep) -> ModernStdioSession:
    """A session with a process that has just begun. Raises what `discover` raises."""
    welcome = await discover(owned, Introduced(hello), revisions.MODERN[-1], timeout_seconds)
    return ModernStdioSession(owned, StdioServer(owned, hello, welcome.protocol_version, sweep), welcome, sweep)


def _number(id: Raw) -> int:
    """The id of a subscription; ours are numbers, and no other number is below zero."""
    text = bytes(id)
    return int(text) if text.isdigit() else -1
