"""Streamable HTTP upstream, revisions 2025-03-26 to 2025-11-25.

A session is data: an id, a revision and a few header lines. It owns no socket and no task, unless somebody listens.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from contextlib import suppress
from functools import partial

from msgspec import Raw

from mcpgateway import runtime
from mcpgateway.errors import BadAnswer, ConnectionLost, HttpRefused, RpcError, UpstreamError, UpstreamTimeout
from mcpgateway.protocol import jsonrpc, revisions, sse
from mcpgateway.protocol.call import Call, Channel, HeaderBlock, NoChannel
from mcpgateway.upstream.answering import LONGEST_PAUSE_SECONDS, Answer, Position, Questions, announce, nothing
from mcpgateway.upstream.base import Ask, Hello, Listener, Target, Welcome, answer_of, decode_message, outgoing
from mcpgateway.upstream.events import first_of
from mcpgateway.upstream.http import HttpClient, Response, path_of, same_origin_redirect
from mcpgateway.upstream.refusal import refusal

_log = logging.getLogger("mcpgateway.upstream")

_ids = itertools.count(1)
"""Request ids, unique in the process rather than in the session: an answer that a confused server or proxy sends late, on a
connection that another session uses by then, is then told from that session's own."""

POST_HEADERS = b"Accept: application/json, text/event-stream\r\nContent-Type: application/json\r\n"
GET_HEADERS = b"Accept: text/event-stream\r\n"
CANCEL_SECONDS = 5.0
CLOSE_SECONDS = 3.0
HEAR_SECONDS = 2.0


class StreamableHTTPSession:
    """One session with a Streamable HTTP server; see `UpstreamSession`."""

    def __init__(self, target: Target, http: HttpClient, path: bytes, welcome: Welcome, session_id: bytes | None) -> None:
        self.upstream = target.name
        self.welcome = welcome
        self.stateful = session_id is not None
        self.closed = False
        self.listener: Listener | None = None
        self.own_headers: HeaderBlock = b""
        self._http = http
        self._path = path
        self._timeout_seconds = target.open_timeout_seconds
        named = b"Mcp-Session-Id: " + session_id + b"\r\n" if session_id is not None else b""
        if revisions.sends_version_header(welcome.protocol_version):
            named += b"MCP-Protocol-Version: " + welcome.protocol_version.encode() + b"\r\n"
        self._named = named
        self._post_headers = POST_HEADERS + named
        self._listening: asyncio.Task[None] | None = None
        self._hears: asyncio.Event | None = None
        self._listen_at = 0.0
        """When a stream that was refused is worth asking for again."""
        self.refused_seconds = LONGEST_PAUSE_SECONDS
        self._asked: dict[int, Channel] = {}
        """Of clients without a session: the calls in flight, each the only way to its client."""

    def __repr__(self) -> str:
        kind = "stateful" if self.stateful else "stateless"
        return (
            f"<StreamableHTTPSession {self.upstream} {self.welcome.protocol_version} {kind}{' closed' if self.closed else ''}>"
        )

    async def request(self, call: Call, channel: Channel) -> bytes:
        """The raw result; see `UpstreamSession.request`."""
        id = next(_ids)
        body, token = outgoing(call, id)
        if not call.client.id and not isinstance(channel, NoChannel):
            self._asked[id] = channel
        try:
            response = await self._http.send(b"POST", self._path, self._post_headers + call.headers, body, call.timeout_seconds)
            if response.streaming and response.status == 200:
                return await Answer(self, id, token, call, channel).read(response)
        except asyncio.CancelledError:
            self._give_up(id, call.headers, b"the client cancelled")
            raise
        except UpstreamTimeout:
            self._give_up(id, call.headers, b"no sign of life in time")
            raise
        finally:
            self._asked.pop(id, None)
        if response.status != 200:
            response.close()
            raise refusal(self.upstream, response, named=self.stateful)
        message = decode_message(self.upstream, response.body)
        if message.id != id and not (message.id is None and isinstance(message.error, Raw)):
            self._http.distrust()
            raise BadAnswer(self.upstream, "its answer belongs to another request")
        return answer_of(self.upstream, message)

    async def notify(self, method: str, params: bytes | None = None, headers: HeaderBlock = b"") -> None:
        """Send a notification; see `UpstreamSession.notify`."""
        await self.post(jsonrpc.notification(method, params), headers)

    async def post(self, body: bytes, headers: HeaderBlock, timeout_seconds: float | None = None) -> None:
        """Send a message that has no answer. Raises UpstreamError."""
        timeout_seconds = timeout_seconds or self._timeout_seconds
        response = await self._http.send(b"POST", self._path, self._post_headers + headers, body, timeout_seconds)
        response.close()
        if response.status >= 300:
            error = refusal(self.upstream, response, named=self.stateful)
            if isinstance(error, RpcError):
                raise HttpRefused(self.upstream, f"it refused a message: {error}", status=response.status) from error
            raise error

    def _give_up(self, id: int, headers: HeaderBlock, reason: bytes) -> None:
        """Tell the server that nobody waits for the answer any more. The session stays as it is."""
        runtime.spawn(self._cancel(id, headers, reason), f"cancel a call of {self.upstream}")

    async def _cancel(self, id: int, headers: HeaderBlock, reason: bytes) -> None:
        params = b'{"requestId":%d,"reason":"%b"}' % (id, reason)
        try:
            await self.post(jsonrpc.notification("notifications/cancelled", params), headers, CANCEL_SECONDS)
        except UpstreamError as error:
            _log.info("cancelling upstream: %s", error)

    def listen(self, headers: HeaderBlock = b"") -> None:
        """Keep a GET stream open, for what the server says outside calls. One that was refused is asked for again in time."""
        if self._listening is None and not self.closed and asyncio.get_running_loop().time() >= self._listen_at:
            self._hears = asyncio.Event()
            listening = Listening(self, headers, self._hears)
            self._listening = runtime.spawn(listening.run(), f"listen to {self.upstream}")
            self._listening.add_done_callback(partial(self._listened, listening))

    def _listened(self, listening: Listening, task: asyncio.Task[None]) -> None:
        # Some reasons to refuse a stream pass, a credential that had expired above all; that there is none does not.
        if self._listening is task:
            self._listening = None
            now = asyncio.get_running_loop().time()
            self._listen_at = math.inf if listening.offers_none else now + self.refused_seconds

    async def hears(self) -> None:
        if self._hears is not None and not self._hears.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(HEAR_SECONDS):
                    await self._hears.wait()

    def ask_outside(self) -> Ask | None:
        """Who answers what is asked on the GET stream: the client of the one call that it can only be for, or the listener."""
        if len(self._asked) == 1:
            return next(iter(self._asked.values())).ask
        return self.listener.asked if self.listener is not None else None

    def stop_listening(self) -> None:
        self._listen_at = 0.0
        if self._listening is not None:
            self._listening.cancel()
            self._listening = self._hears = None

    async def get(self, headers: HeaderBlock, last_event_id: bytes | None = None) -> Response:
        """Open a GET stream, continuing after `last_event_id` if given."""
        resume = b"Last-Event-ID: " + last_event_id + b"\r\n" if last_event_id is not None else b""
        return await self._http.send(
            b"GET", self._path, GET_HEADERS + self._named + resume + headers, b"", self._timeout_seconds
        )

    def distrust(self) -> None:
        """An answer may still come where another is expected: what connected so far is not used again."""
        self._http.distrust()

    async def aclose(self) -> None:
        """Send DELETE, if the server named the session. Whatever it answers, the session is over."""
        if self.closed:
            return
        self.closed = True
        listening, self._listening = self._listening, None
        await runtime.end_task(listening)
        if self.stateful:
            try:
                response = await self._http.send(b"DELETE", self._path, self._named + self.own_headers, b"", CLOSE_SECONDS)
                response.close()
            except UpstreamError as error:
                _log.debug("ending a session: %s", error)


class Listening:
    """The GET stream of one session, opened again when it breaks, with growing pauses."""

    def __init__(self, session: StreamableHTTPSession, headers: HeaderBlock, hears: asyncio.Event | None = None) -> None:
        self._session = session
        self._headers = headers
        self._hears = hears if hears is not None else asyncio.Event()
        self._position = Position()
        self.pause_seconds = self._position.pause_seconds
        self.offers_none = False
        """Whether the server said that it has no such stream."""
        self._questions = Questions(session, headers, nothing)

    def __repr__(self) -> str:
        return f"<Listening to {self._session.upstream}, again after {self.pause_seconds:g} s>"

    async def run(self) -> None:
        """Until cancelled, or until the server says that there is nothing to hear."""
        try:
            while not self._session.closed and await self._again():
                await asyncio.sleep(self.pause_seconds)
                self.pause_seconds = min(self.pause_seconds * 2, LONGEST_PAUSE_SECONDS)
        finally:
            self._questions.end()

    async def _again(self) -> bool:
        try:
            return await self._once()
        except UpstreamError as error:
            _log.info("listening: %s", error)
            return True
        finally:
            self._hears.set()

    async def _once(self) -> bool:
        """One stream from its beginning to its end. False where the server offers none, or has lost the session."""
        response = await self._session.get(self._headers, self._position.last_id)
        try:
            if not response.streaming or response.status != 200:
                self.offers_none = response.status == 405
                return response.status == 429 or response.status >= 500
            response.set_timeout(math.inf)
            self._hears.set()
            await first_of(self._session.upstream, response, self._heard)
        finally:
            response.close()
        return True

    def _heard(self, event: sse.Event) -> None:
        self._position.heard(event)
        self.pause_seconds = self._position.pause_seconds
        if event.data:
            self._take(decode_message(self._session.upstream, event.data))

    def _take(self, message: jsonrpc.Message) -> None:
        if message.is_request:
            self._questions.put(message, self._session.ask_outside())
        elif message.method == "notifications/cancelled":
            self._questions.withdraw(message)
        elif message.is_notification:
            announce(self._session, message)


async def open_streamable_http(target: Target, http: HttpClient, hello: Hello, headers: HeaderBlock) -> StreamableHTTPSession:
    """A new session. Raises UpstreamError; a refusal of `initialize` by HTTP status is HttpRefused or AuthRefused."""
    path = path_of(target.url)
    id = next(_ids)
    body = jsonrpc.request_raw(id, "initialize", hello.params())
    response = await http.send(b"POST", path, POST_HEADERS + headers, body, target.open_timeout_seconds)
    moved = same_origin_redirect(target.url, response)
    if moved is not None:
        response.close()
        path = moved
        response = await http.send(b"POST", path, POST_HEADERS + headers, body, target.open_timeout_seconds)
    raw = await _initialize_result(target.name, http, id, response)
    session = StreamableHTTPSession(target, http, path, Welcome.decode(target.name, raw), _session_id(response))
    session.own_headers = headers
    try:
        await session.notify("notifications/initialized", None, headers)
    except BaseException:
        runtime.spawn(session.aclose(), f"close a half-open session of {target.name}")
        raise
    return session


async def _initialize_result(upstream: str, http: HttpClient, id: int, response: Response) -> bytes:
    if response.status != 200:
        response.close()
        error = refusal(upstream, response, named=False)
        if isinstance(error, RpcError):
            raise HttpRefused(
                upstream, f"it refused initialize with error {error.code}; its own log says why", status=response.status
            ) from error
        raise error
    try:
        message = await first_response(upstream, response)
        if message.id != id and message.id is not None:
            http.distrust()
            raise BadAnswer(upstream, "its answer to initialize belongs to another request")
        return answer_of(upstream, message)
    except RpcError as error:
        raise HttpRefused(
            upstream, f"it refused initialize with error {error.code}; its own log says why", status=200
        ) from error


async def first_response(upstream: str, response: Response) -> jsonrpc.Message:
    """The first response in an answer of either form, where no other can be on its way. Raises UpstreamError."""
    if not response.streaming:
        if response.headers.get(b"content-type", b"").lower().startswith(b"text/html"):
            raise BadAnswer(upstream, "it answered with a web page, not with MCP; check the URL in the configuration")
        return decode_message(upstream, response.body)

    def response_in(event: sse.Event) -> jsonrpc.Message | None:
        message = decode_message(upstream, event.data) if event.data else None
        return message if message is not None and message.is_response else None

    try:
        message = await first_of(upstream, response, response_in)
    except BaseException:
        response.close()
        raise
    response.release()
    if message is None:
        raise ConnectionLost(upstream, "it ended the stream before its answer")
    return message


def _session_id(response: Response) -> bytes | None:
    """The session's id, if it is one that may be sent back (visible ASCII)."""
    id = response.headers.get(b"mcp-session-id")
    return id if id and len(id) <= 1024 and all(0x21 <= byte <= 0x7E for byte in id) else None
