"""Streamable HTTP upstream, revision 2026-07-28: each request a POST of its own, that stands for itself.

Closing the connection on which a request waits is its cancellation. There is no session id, no GET and no DELETE.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Sequence

from msgspec import Raw

from mcpgateway.errors import (
    BadAnswer,
    ConnectionLost,
    GatewayError,
    HttpRefused,
    Incompatible,
    RpcError,
    SessionLost,
    UpstreamTimeout,
)
from mcpgateway.protocol import headers as mirrored
from mcpgateway.protocol import jsonrpc, revisions, sse
from mcpgateway.protocol.call import Call, Channel, HeaderBlock, NoChannel
from mcpgateway.protocol.modern import DISCOVER, HEADER_MISMATCH, LISTEN, UNSUPPORTED_VERSION
from mcpgateway.runtime import Sweep
from mcpgateway.upstream.base import Hello, Target, Welcome, answer_of, decode_message, with_token
from mcpgateway.upstream.discovery import discovery_in, wants_another_try
from mcpgateway.upstream.events import first_of
from mcpgateway.upstream.http import HttpClient, Response, path_of, same_origin_redirect
from mcpgateway.upstream.listening import Heard, Listening, Member, tell
from mcpgateway.upstream.modern import Introduced, ModernSession
from mcpgateway.upstream.refusal import LOST, refusal
from mcpgateway.upstream.rounds import envelope, meta_of
from mcpgateway.upstream.subscriptions import without_id
from mcpgateway.upstream.tool_headers import ToolHeaders, next_cursor
from mcpgateway.upstream.turn import Turn

MAX_PAGES = 100
TRACE_HEADERS = frozenset({b"traceparent", b"tracestate", b"baggage"})
POST_HEADERS = b"Accept: application/json, text/event-stream\r\nContent-Type: application/json\r\n"

_log = logging.getLogger("mcpgateway.upstream")
_ids = itertools.count(1)
"""Request ids, unique in the process: an answer that comes late, on a connection that serves another request by then, is
told from that one's own."""


class Found:
    """What was found out of a server for one identity: what it said, where, and until when that is taken to hold.

    It outlives the sessions: one that is opened for a single call costs no request more than the call.
    """

    def __init__(self, upstream: str) -> None:
        self.tools = ToolHeaders(upstream)
        self.welcome: Welcome | None = None
        self.path: bytes | None = None
        """Where a redirect led to, if there was one."""
        self.until = -math.inf
        self.turn = Turn()

    def __repr__(self) -> str:
        return f"<Found {'nothing' if self.welcome is None else self.welcome.protocol_version}>"

    def fresh(self, now: float) -> Welcome | None:
        """What was said, while it holds."""
        return self.welcome if now < self.until else None


class ModernHTTPServer:
    """A server as the sessions of one identity, with one set of client capabilities, see it; see `modern.Server`.

    They share what was found out, and one listen stream.
    """

    def __init__(self, target: Target, http: HttpClient, hello: Hello, found: Found, sweep: Sweep) -> None:
        self.upstream = target.name
        self.listening = Listening(target.name, self._listen, sweep)
        self.on_contradiction: Callable[[], None] = _nothing
        """Told that the server does not speak its revision any more."""
        self._tools = found.tools
        self._listing = Turn()
        self._url = target.url
        self._timeout_seconds = target.open_timeout_seconds
        self._http = http
        self._client = Introduced(hello)
        self._found = found
        self._sweep = sweep
        self._headers: HeaderBlock = b""
        self._listened_with: HeaderBlock = b""

    def __repr__(self) -> str:
        return f"<ModernHTTPServer {self.upstream} {self._version}>"

    @property
    def _version(self) -> str:
        return self._found.welcome.protocol_version if self._found.welcome is not None else revisions.MODERN[-1]

    async def session(self, headers: HeaderBlock) -> ModernSession:
        """A new session; it costs a request where it is not known any more what the server says of itself.

        Raises UpstreamError: HttpRefused, BadAnswer and Incompatible where it does not speak a modern revision.
        """
        welcome = self._found.fresh(self._sweep.now())
        if welcome is None:
            async with self._found.turn.taken():
                welcome = self._found.fresh(self._sweep.now())
                if welcome is None:
                    welcome = await self._discover(headers, self._timeout_seconds)
        self.show(headers)
        return ModernSession(self.upstream, self, welcome, headers, self._sweep)

    def show(self, headers: HeaderBlock) -> None:
        """These are the headers of the latest call. What belongs to no call is sent with them."""
        self._headers = headers
        if self.listening.unauthorized and _untraced(headers) != self._listened_with:
            self.listening.retry()

    async def discover(self, headers: HeaderBlock, timeout_seconds: float) -> Welcome:
        """Ask anew. Raises UpstreamError, SessionLost where the server has become another."""
        try:
            return await self._discover(headers, timeout_seconds)
        except (HttpRefused, BadAnswer, Incompatible) as error:
            if isinstance(error, HttpRefused) and error.status >= 500:
                raise
            raise self._contradicted() from error

    async def _discover(self, headers: HeaderBlock, timeout_seconds: float) -> Welcome:
        call = Call(DISCOVER, client=self._client, headers=headers, timeout_seconds=timeout_seconds)
        response, message = await self._asked_for_itself(call)
        if isinstance(message.error, Raw) and wants_another_try(RpcError(bytes(message.error))):
            response, message = await self._asked_for_itself(call)
        discovery = discovery_in(self.upstream, message, response.status)
        self._found.welcome = discovery.welcome
        self._found.until = self._sweep.now() + discovery.fresh_seconds
        return discovery.welcome

    async def _asked_for_itself(self, call: Call) -> tuple[Response, jsonrpc.Message]:
        """The answer to a request without params. A redirect is followed and remembered, if it stays on the origin."""
        params = {"_meta": jsonrpc.raw(meta_of(self._client, self._version))}
        id, response = await self._post(call, params)
        moved = same_origin_redirect(self._url, response)
        if moved is not None:
            response.close()
            self._found.path = moved
            id, response = await self._post(call, params)
        return response, await self._message(id, response)

    async def _post(self, call: Call, params: jsonrpc.Params) -> tuple[int, Response]:
        """Send a request of the gateway's own, under an id of its own."""
        id = next(_ids)
        path = self._found.path or path_of(self._url)
        body = jsonrpc.request(id, call.method, params)
        return id, await self._http.send(b"POST", path, self._lines(call, params), body, call.timeout_seconds)

    def _lines(self, call: Call, params: jsonrpc.Params, mirrors: Sequence[mirrored.Mirror] = ()) -> HeaderBlock:
        version = b"MCP-Protocol-Version: %b\r\n" % self._version.encode()
        return POST_HEADERS + version + mirrored.lines(call.method, params, mirrors) + call.headers

    async def _message(self, id: int, response: Response) -> jsonrpc.Message:
        """The whole answer to a request of the gateway's own, where an error of any status may be one."""
        if response.streaming and response.status == 200:
            message = await _Reading(self.upstream, id).read(response)
            if message is None:
                raise self._broken_off()
            return message
        response.close()
        if response.status == 200:
            return self._checked(id, response)
        error = refusal(self.upstream, response, named=False)
        if isinstance(error, RpcError):
            return jsonrpc.Message(error=Raw(error.error))
        raise error

    def _checked(self, id: int, response: Response) -> jsonrpc.Message:
        message = decode_message(self.upstream, response.body)
        if not _answers(message, id):
            self._http.distrust()
            raise BadAnswer(self.upstream, "its answer belongs to another request")
        return message

    async def exchange(self, call: Call, params: jsonrpc.Params, channel: Channel, member: Member) -> bytes:
        """The raw result of one request of `member`'s, without the tools that cannot be used over HTTP."""
        if call.method == "tools/call":
            return await self._call_tool(call, params, channel, member)
        result = await self._send(call, params, channel, member)
        return self._tools.learn(result) if call.method == "tools/list" else result

    async def _call_tool(self, call: Call, params: jsonrpc.Params, channel: Channel, member: Member) -> bytes:
        name = mirrored.named_by(call.method, params) or ""
        mirrors = self._tools.of(name)
        if mirrors is None:
            async with self._listing.taken():
                mirrors = self._tools.of(name)
                if mirrors is None:
                    mirrors = await self._look_up(call, name)
        try:
            return await self._send(call, params, channel, member, mirrors)
        except RpcError as error:
            if error.code != HEADER_MISMATCH:
                raise
            _log.info("tool %r of upstream %r is looked up again: its headers did not fit", name, self.upstream)
        return await self._send(call, params, channel, member, await self._look_up(call, name))

    async def _look_up(self, call: Call, name: str) -> Sequence[mirrored.Mirror]:
        """List the tools until one is found, and say which of its arguments are repeated in headers."""
        listing = Call("tools/list", client=call.client, headers=call.headers, timeout_seconds=call.timeout_seconds)
        params: jsonrpc.Params = {}
        self._tools.forget(name)
        try:
            for _ in range(MAX_PAGES):
                result = await self._send(listing, params, NoChannel(), None)
                self._tools.learn(result)
                cursor = next_cursor(result)
                if self._tools.of(name) is not None or cursor is None:
                    break
                params = {"cursor": jsonrpc.raw(cursor)}
        except (RpcError, HttpRefused, BadAnswer, ConnectionLost, UpstreamTimeout) as error:
            # The call may do without; if not, the server refuses it before it runs.
            _log.info("tool %r of upstream %r is called without its headers: %s", name, self.upstream, error)
        return self._tools.of_listed(name)

    async def _send(
        self,
        call: Call,
        params: jsonrpc.Params,
        channel: Channel,
        member: Member | None,
        mirrors: Sequence[mirrored.Mirror] = (),
    ) -> bytes:
        self.show(call.headers)
        id = next(_ids)
        block = self._lines(call, params, mirrors)
        params, token = envelope(call, params, self._version, id)
        body = jsonrpc.request(id, call.method, params)
        path = self._found.path or path_of(self._url)
        response = await self._http.send(b"POST", path, block, body, call.timeout_seconds)
        if response.streaming and response.status == 200:
            message = await _Reading(self.upstream, id, token, channel, member).read(response)
            if message is None:
                raise self._broken_off()
            return answer_of(self.upstream, message)
        if response.status != 200:
            response.close()
            raise self._refusal(response)
        return answer_of(self.upstream, self._checked(id, response))

    def _broken_off(self) -> ConnectionLost:
        # The answer may still come, where the next request on that connection would take it for its own.
        self._http.distrust()
        return ConnectionLost(self.upstream, "it ended the stream before its answer; the request may have run")

    def _refusal(self, response: Response) -> GatewayError:
        error = refusal(self.upstream, response, named=False)
        return self._contradicted() if _is_legacy(response.status, error) else error

    def _contradicted(self) -> SessionLost:
        """It refused as a server of another generation does: what was found out of it does not hold any more."""
        self._found.welcome, self._found.until = None, -math.inf
        self.on_contradiction()
        return SessionLost(self.upstream, f"it does not speak {self._version} any more")

    async def _listen(self, wanted: Raw, heard: Heard) -> None:
        """One listen stream, from its request to its end; see `listening.Stream`."""
        own = self._listened_with = _untraced(self._headers)
        call = Call(LISTEN, client=self._client, headers=own, timeout_seconds=self._timeout_seconds)
        meta = jsonrpc.raw(meta_of(self._client, self._version))
        id, response = await self._post(call, {"notifications": wanted, "_meta": meta})
        if response.streaming and response.status == 200:
            # From the acknowledgement on, silence says nothing; until then `Listening` watches the time.
            response.set_timeout(math.inf)
            message = await _Reading(self.upstream, id, heard=heard).read(response)
            if message is None:
                raise ConnectionLost(self.upstream, "it broke off a listen stream")
        else:
            message = await self._message(id, response)
        answer_of(self.upstream, message)


class _Reading:
    """Reads the event stream that answers one POST: notifications on the way, the response at its end."""

    def __init__(
        self,
        upstream: str,
        id: int,
        token: Raw | None = None,
        channel: Channel | None = None,
        member: Member | None = None,
        heard: Heard | None = None,
    ) -> None:
        self._upstream = upstream
        self._id = id
        self._token = token
        self._channel = channel
        self._member = member
        self._listens = heard

    async def read(self, response: Response) -> jsonrpc.Message | None:
        """The response; None where the stream ended without one."""
        try:
            message = await first_of(self._upstream, response, self._event)
        except BaseException:
            response.close()
            raise
        response.release()
        return message

    def _event(self, event: sse.Event) -> jsonrpc.Message | None:
        if not event.data:
            return None
        message = decode_message(self._upstream, event.data)
        if message.is_request:
            _log.warning("upstream %r sent a request, which nobody can answer: %s", self._upstream, str(message.method)[:100])
        elif message.is_notification:
            self._told(str(message.method), message.params if isinstance(message.params, dict) else {})
        elif _answers(message, self._id):
            return message
        return None

    def _told(self, method: str, params: jsonrpc.Params) -> None:
        if self._listens is not None:
            self._listens(method, without_id(params)[0])
        elif self._channel is None:
            return
        elif method == "notifications/progress":
            if self._token is not None and bytes(params.get("progressToken", b"")) == b"%d" % self._id:
                self._channel.notify(method, with_token(params, self._token))
        elif method == "notifications/message" or self._member is None or self._member.listener is None:
            self._channel.notify(method, bytes(jsonrpc.raw(params)))
        else:
            tell(self._upstream, self._member, method, bytes(jsonrpc.raw(params)))


def _answers(message: jsonrpc.Message, id: int) -> bool:
    """Whether a message is the response to a request. An error may come without an id."""
    return message.id == id or (not isinstance(message.id, int | str) and isinstance(message.error, Raw))


def _untraced(headers: HeaderBlock) -> HeaderBlock:
    """Header lines without the trace of the call that they came with."""
    lines = headers.splitlines(keepends=True)
    return b"".join(line for line in lines if line.partition(b":")[0].lower() not in TRACE_HEADERS)


def _is_legacy(status: int, error: GatewayError) -> bool:
    """Whether a refusal is one of a server that asks for a handshake, or of none at all."""
    if isinstance(error, RpcError):
        asks_for_session = error.code in (-32000, -32600) and LOST.search(error.error.decode("utf-8", "replace")) is not None
        return error.code == UNSUPPORTED_VERSION or (status == 400 and asks_for_session)
    return isinstance(error, HttpRefused) and status in (404, 405)


def _nothing() -> None:
    return
