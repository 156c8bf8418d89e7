"""What every upstream session can do, whatever wire it uses, and what the wires share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol
from urllib.parse import urlsplit

import msgspec
from msgspec import Raw

from mcpgateway import __version__
from mcpgateway.config.values import TlsConfig
from mcpgateway.errors import BadAnswer, ClientError, Incompatible, RpcError
from mcpgateway.protocol import jsonrpc, revisions
from mcpgateway.protocol.call import Call, Channel, HeaderBlock, cannot_ask
from mcpgateway.protocol.modern import SERVER_INFO_META

GATEWAY_INFO = msgspec.json.encode({"name": "mcpgateway", "title": "MCP Gateway", "version": __version__})

Ask = Callable[[str, bytes], Awaitable[bytes]]
"""Method and raw params of a server's question → raw result, or RpcError."""


class Listener(Protocol):
    """Who hears what a session says outside any call: its conversation, the catalogue, or nobody."""

    def notified(self, method: str, params: bytes) -> None: ...

    async def asked(self, method: str, params: bytes) -> bytes:
        """The raw result, or RpcError."""


class Target(msgspec.Struct, frozen=True):
    """Where an upstream is and how to reach it. One per upstream; changes make a new one.

    `transport` is 'streamablehttp', 'sse' or 'stdio', or 'auto' for a URL whose kind is yet to be found out.
    """

    name: str
    url: str = ""
    transport: str = "auto"
    command: str = ""
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    cwd: str | None = None
    open_timeout_seconds: float = 30.0
    tls: TlsConfig | None = None
    """None: the system's certificate authorities, and no certificate of ours."""

    def __repr__(self) -> str:
        # The URL's query, the arguments and the environment may hold secrets.
        return f"<Target {self.name} {self.transport}>"

    def unanswered(self) -> str:
        """What to say where opening a session takes too long. Of the URL only its host and port, of a command only its name."""
        waited = f"no session within {self.open_timeout_seconds:g} s: "
        if self.command:
            return (
                f"{waited}{self.command!r} was started, and has not answered; run its command by hand once: "
                "it may still be downloading packages, or waiting for something"
            )
        return (
            f"{waited}{urlsplit(self.url).netloc.rpartition('@')[2]} has not answered; look whether its MCP server still runs"
        )


class Hello(msgspec.Struct, frozen=True):
    """What the gateway says of the client when it opens a session. Raw JSON both."""

    capabilities: bytes = b"{}"
    client_info: bytes = GATEWAY_INFO
    modern: bool = False
    """Whether the client is of the generation without handshakes: it decides where the server speaks both."""
    identity: str = ""
    """Who the caller is to the upstream, as a hash. Without one, the headers stand for it."""

    def params(self) -> bytes:
        """The params of `initialize`."""
        return b'{"protocolVersion":"%b","capabilities":%b,"clientInfo":%b}' % (
            revisions.NEWEST_LEGACY.encode(),
            self.capabilities,
            self.client_info,
        )


class Welcome(msgspec.Struct, frozen=True):
    """What a server said of itself, as far as the gateway looks into it.

    `raw` is an InitializeResult: the server's own, or, of a server that has no handshake, one that says the same.
    `discovered` is then the DiscoverResult as it came; b"" of a server with a handshake.
    """

    protocol_version: str
    capabilities: dict[str, Raw] = {}
    """Without `extensions`, which legacy clients do not know."""
    server_info: Raw = Raw(b"{}")
    instructions: str | None = None
    raw: bytes = b""
    discovered: bytes = b""

    @classmethod
    def decode(cls, upstream: str, raw: bytes) -> Welcome:
        """Raises BadAnswer where `raw` is no InitializeResult, Incompatible where its revision is not spoken here."""
        raw = bytes(raw)  # a copy: the views below must not keep a whole response alive
        try:
            said = msgspec.json.decode(raw, type=_Initialized)
        except (msgspec.DecodeError, RecursionError) as error:
            raise BadAnswer(upstream, f"its answer to initialize is no InitializeResult: {error}") from error
        if said.protocol_version not in revisions.LEGACY:
            raise Incompatible(
                upstream, f"it speaks protocol revision {said.protocol_version[:40]!r}, which is not spoken here"
            )
        return cls(said.protocol_version, said.capabilities, said.server_info, said.instructions, raw)

    @classmethod
    def discover(cls, upstream: str, raw: bytes, version: str) -> Welcome:
        """The welcome of a server that is spoken to in the modern revision `version`, from its raw DiscoverResult.

        Raises BadAnswer where `raw` is none.
        """
        raw = bytes(raw)
        try:
            said = msgspec.json.decode(raw, type=_Discovered)
        except (msgspec.DecodeError, RecursionError) as error:
            raise BadAnswer(upstream, f"its answer to server/discover is no DiscoverResult: {error}") from error
        carried = {name: value for name, value in said.capabilities.items() if name != "extensions"}
        info = said.meta.get(SERVER_INFO_META, jsonrpc.raw({"name": upstream, "version": "unknown"}))
        fields = {"protocolVersion": version, "capabilities": carried, "serverInfo": info}
        if said.instructions is not None:
            fields["instructions"] = said.instructions
        return cls(version, carried, info, said.instructions, msgspec.json.encode(fields), raw)


class _Initialized(msgspec.Struct, rename="camel"):
    """The parts of an InitializeResult."""

    protocol_version: str
    capabilities: dict[str, Raw] = {}
    server_info: Raw = Raw(b"{}")
    instructions: str | None = None


class _Discovered(msgspec.Struct, rename="camel"):
    """The parts of a DiscoverResult."""

    capabilities: dict[str, Raw] = {}
    instructions: str | None = None
    meta: dict[str, Raw] = msgspec.field(name="_meta", default_factory=dict)


class UpstreamSession(Protocol):
    """One session with an MCP server. Many requests may run in it at once.

    Whoever opened it closes it. `closed` turns true by itself when the wire below is gone for good.
    """

    upstream: str
    welcome: Welcome
    stateful: bool
    """Whether the server gave the session a name or a process of its own, and so may keep state in it."""
    listener: Listener | None
    own_headers: HeaderBlock
    """The headers it was opened with, for what belongs to no call: pings, the end."""

    @property
    def closed(self) -> bool: ...

    async def request(self, call: Call, channel: Channel) -> bytes:
        """The raw `result` of the call's answer.

        Cancelling it sends `notifications/cancelled` upstream and keeps the session.
        Raises RpcError for a JSON-RPC error answer, UpstreamError for everything that went wrong.
        """

    async def notify(self, method: str, params: bytes | None = None, headers: HeaderBlock = b"") -> None:
        """Send a notification upstream. Raises UpstreamError."""

    def listen(self, headers: HeaderBlock = b"") -> None:
        """Begin to hear what the server says outside calls, where the wire needs asking for it. Idempotent."""

    async def hears(self) -> None:
        """Wait until what `listen` began is heard, or will not be; not for long."""

    def stop_listening(self) -> None:
        """End what `listen` began. Idempotent."""

    async def aclose(self) -> None:
        """End the session, politely and within a few seconds. Idempotent, never raises an UpstreamError."""


def outgoing(call: Call, id: int) -> tuple[bytes, Raw | None]:
    """The request's bytes under the session's own id, and the client's progress token if it gave one.

    Ids and progress tokens are unique per session, so both are replaced by the session's own (specification,
    basic/utilities/progress).
    """
    token = call.progress_token()
    if token is None:
        return jsonrpc.request(id, call.method, call.params), None
    meta = jsonrpc.object_of(call.params["_meta"])
    meta["progressToken"] = jsonrpc.raw(id)
    params = call.params | {"_meta": jsonrpc.raw(meta)}
    return jsonrpc.request(id, call.method, params), Raw(bytes(token))


def with_token(params: jsonrpc.Params, token: Raw) -> bytes:
    """A progress notification's params with the client's own token put back."""
    return msgspec.json.encode(params | {"progressToken": token})


def answer_of(upstream: str, message: jsonrpc.Message) -> bytes:
    """The raw result of a response. Raises RpcError where it is an error, BadAnswer where it is neither.

    Both are objects in MCP; a null in their place is neither.
    """
    if isinstance(message.result, Raw) and (result := bytes(message.result)).startswith(b"{"):
        return result
    if isinstance(message.error, Raw) and (error := bytes(message.error)).startswith(b"{"):
        raise RpcError(error)
    raise BadAnswer(upstream, "its response has neither result nor error that is an object")


def decode_message(upstream: str, body: bytes) -> jsonrpc.Message:
    """The envelope of something the upstream sent. Raises BadAnswer."""
    try:
        return jsonrpc.decode(body)
    except ClientError as error:
        raise BadAnswer(upstream, f"it sent something that is no JSON-RPC message: {error}") from error


async def answer_question(message: jsonrpc.Message, ask: Ask | None) -> bytes:
    """The bytes of our response to a server's request: pings are answered here, the rest by `ask`, where there is one."""
    id = message.id if isinstance(message.id, int | str) else None
    method = message.method if isinstance(message.method, str) else ""
    params = msgspec.json.encode(message.params) if isinstance(message.params, dict) else b"{}"
    if id is None:
        return jsonrpc.error(None, RpcError.of(-32600, "a request needs an id").error)
    if method == "ping":
        return jsonrpc.result(id, b"{}")
    try:
        if ask is None:
            raise cannot_ask(method)
        return jsonrpc.result(id, await ask(method, params))
    except RpcError as error:
        return jsonrpc.error(id, error.error)
