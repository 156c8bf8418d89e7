"""Streamable HTTP upstream, revisions 2025-03-26 to 2025-11-25.

A session is data: an id, a revision and a few header lines. It owns no socket and no task, unless somebody listens.
"""

from __future__ import annotations

import asyncio
import logging
import re
from urllib.parse import urljoin, urlsplit

from msgspec import Raw

from mcpgateway import runtime
from mcpgateway.errors import AuthRefused, BadAnswer, ConnectionLost, HttpRefused, RpcError, SessionLost, UpstreamError
from mcpgateway.protocol import jsonrpc, revisions, sse
from mcpgateway.protocol.call import Call, Channel, HeaderBlock
from mcpgateway.upstream.base import (
    Ask,
    Hello,
    Listener,
    Target,
    Welcome,
    answer_of,
    answer_question,
    decode_message,
    outgoing,
    with_token,
)
from mcpgateway.upstream.http import HttpClient, Response

_log = logging.getLogger("mcpgateway.upstream")

POST_HEADERS = b"Accept: application/json, text/event-stream\r\nContent-Type: application/json\r\n"
GET_HEADERS = b"Accept: text/event-stream\r\n"
LOST = re.compile(r"session|not initialized", re.IGNORECASE)
LISTEN_PAUSE_SECONDS = 1.0
LONGEST_LISTEN_PAUSE_SECONDS = 30.0
CLOSE_SECONDS = 3.0


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
        self._next_id = 0
        self._listening: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        kind = "stateful" if self.stateful else "stateless"
        return (
            f"<StreamableHTTPSession {self.upstream} {self.welcome.protocol_version} {kind}{' closed' if self.closed else ''}>"
        )

    async def request(self, call: Call, channel: Channel) -> bytes:
        """The raw result; see `UpstreamSession.request`."""
        self._next_id = id = self._next_id + 1
        body, token = outgoing(call, id)
        try:
            response = await self._http.send(b"POST", self._path, self._post_headers + call.headers, body, call.timeout_seconds)
            if response.streaming and response.status == 200:
                return await _Answer(self, id, token, call, channel).read(response)
        except asyncio.CancelledError:
            runtime.spawn(self._cancel(id, call.headers), f"cancel a call of {self.upstream}")
            raise
        if response.status != 200:
            raise refusal(self.upstream, response, named=self.stateful)
        message = decode_message(self.upstream, response.body)
        if message.id != id and not (message.id is None and isinstance(message.error, Raw)):
            raise BadAnswer(self.upstream, "its answer belongs to another request")
        return answer_of(self.upstream, message)

    async def notify(self, method: str, params: bytes | None = None, headers: HeaderBlock = b"") -> None:
        """Send a notification; see `UpstreamSession.notify`."""
        await self.post(jsonrpc.notification(method, params), headers)

    async def post(self, body: bytes, headers: HeaderBlock) -> None:
        """Send a message that has no answer."""
        response = await self._http.send(b"POST", self._path, self._post_headers + headers, body, self._timeout_seconds)
        if response.streaming:
            response.close()
        if response.status >= 300:
            raise refusal(self.upstream, response, named=self.stateful)

    async def _cancel(self, id: int, headers: HeaderBlock) -> None:
        try:
            await self.notify("notifications/cancelled", b'{"requestId":%d,"reason":"the client cancelled"}' % id, headers)
        except UpstreamError as error:
            _log.info("cancelling upstream: %s", error)

    def listen(self, headers: HeaderBlock = b"") -> None:
        """Keep a GET stream open, for what the server says outside calls."""
        if self._listening is None and not self.closed:
            self._listening = runtime.spawn(_Listening(self, headers).run(), f"listen to {self.upstream}")

    def stop_listening(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            self._listening = None

    async def get(self, headers: HeaderBlock, last_event_id: bytes | None = None) -> Response:
        """Open a GET stream, continuing after `last_event_id` if given."""
        resume = b"Last-Event-ID: " + last_event_id + b"\r\n" if last_event_id is not None else b""
        return await self._http.send(
            b"GET", self._path, GET_HEADERS + self._named + resume + headers, b"", self._timeout_seconds
        )

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
                if response.streaming:
                    response.close()
            except UpstreamError as error:
                _log.debug("ending a session: %s", error)


class _Answer:
    """Reads the event stream that answers one POST: notifications and questions on the way, the response at the end."""

    def __init__(self, session: StreamableHTTPSession, id: int, token: Raw | None, call: Call, channel: Channel) -> None:
        self._session = session
        self._id = id
        self._token = token
        self._call = call
        self._channel = channel
        self._questions: set[asyncio.Task[None]] = set()

    async def read(self, response: Response) -> bytes:
        """The raw result. The stream's end before the response is a loss: whether the request ran is not known."""
        upstream = self._session.upstream
        decoder = sse.Decoder()
        try:
            while chunk := await response.chunk():
                for event in decoder.feed(chunk):
                    if event.data:
                        message = decode_message(upstream, event.data)
                        if message.is_response:
                            if message.id == self._id:
                                return answer_of(upstream, message)
                        else:
                            self._take(message, response)
        except sse.EventTooLarge as error:
            raise BadAnswer(upstream, str(error)) from error
        finally:
            response.close()
            for question in self._questions:
                question.cancel()
        raise ConnectionLost(upstream, "it ended the stream before its answer; the request may have run")

    def _take(self, message: jsonrpc.Message, response: Response) -> None:
        if message.is_request:
            task = runtime.spawn(self._ask(message, response), f"question of {self._session.upstream}")
            self._questions.add(task)
            task.add_done_callback(self._questions.discard)
            return
        tell(self._session, message, self._id, self._token, self._channel)

    async def _ask(self, message: jsonrpc.Message, response: Response) -> None:
        # A person may have to answer: the upstream's silence meanwhile is ours, not its.
        response.set_timeout(float("inf"))
        try:
            answer = await answer_question(message, self._channel.ask)
        finally:
            if len(self._questions) <= 1:
                response.set_timeout(self._call.timeout_seconds)
        try:
            await self._session.post(answer, self._call.headers)
        except UpstreamError as error:
            _log.info("answering a question: %s", error)


def tell(session: StreamableHTTPSession, message: jsonrpc.Message, id: int, token: Raw | None, channel: Channel) -> None:
    """Pass on a notification that came on a call's own stream. Progress gets the client's token back."""
    method = message.method if isinstance(message.method, str) else ""
    params = message.params if isinstance(message.params, dict) else {}
    if method == "notifications/progress":
        if token is not None and bytes(params.get("progressToken", b"")) == b"%d" % id:
            channel.notify(method, with_token(params, token))
        return
    raw = bytes(jsonrpc.raw(params))
    if method in CALL_NOTIFICATIONS or session.listener is None:
        channel.notify(method, raw)
    else:
        session.listener.notified(method, raw)


CALL_NOTIFICATIONS = frozenset({"notifications/message"})
"""Notifications that belong to the call on whose stream they came. The others speak of the whole server."""


class _Listening:
    """The GET stream of one session, opened again when it breaks, with growing pauses."""

    def __init__(self, session: StreamableHTTPSession, headers: HeaderBlock) -> None:
        self._session = session
        self._headers = headers
        self._last_id: bytes | None = None
        self._pause = LISTEN_PAUSE_SECONDS

    async def run(self) -> None:
        while not self._session.closed:
            try:
                if not await self._once():
                    return
            except UpstreamError as error:
                _log.info("listening: %s", error)
            await asyncio.sleep(self._pause)
            self._pause = min(self._pause * 2, LONGEST_LISTEN_PAUSE_SECONDS)

    async def _once(self) -> bool:
        """One stream from its beginning to its end. False where the server offers none, or has lost the session."""
        response = await self._session.get(self._headers, self._last_id)
        if not response.streaming or response.status != 200:
            return response.status >= 500
        response.set_timeout(float("inf"))
        decoder = sse.Decoder()
        try:
            while chunk := await response.chunk():
                for event in decoder.feed(chunk):
                    self._heard(event)
        except sse.EventTooLarge as error:
            raise BadAnswer(self._session.upstream, str(error)) from error
        finally:
            response.close()
        return True

    def _heard(self, event: sse.Event) -> None:
        self._pause = LISTEN_PAUSE_SECONDS
        if event.id:
            self._last_id = event.id
        if event.retry_ms is not None:
            self._pause = min(event.retry_ms / 1000, LONGEST_LISTEN_PAUSE_SECONDS)
        if not event.data:
            return
        message = decode_message(self._session.upstream, event.data)
        if message.is_request:
            runtime.spawn(self._ask(message), f"question of {self._session.upstream}")
        elif message.is_notification and self._session.listener is not None:
            params = message.params if isinstance(message.params, dict) else {}
            self._session.listener.notified(str(message.method), bytes(jsonrpc.raw(params)))

    async def _ask(self, message: jsonrpc.Message) -> None:
        listener = self._session.listener
        ask: Ask | None = listener.asked if listener is not None else None
        try:
            await self._session.post(await answer_question(message, ask), self._headers)
        except UpstreamError as error:
            _log.info("answering a question: %s", error)


def refusal(upstream: str, response: Response, *, named: bool) -> UpstreamError | RpcError:
    """What an HTTP status other than 200 means. `named`: the request carried a session id, so that it can be a lost one.

    Servers say 'session lost' in many ways: 404, or 400 with a JSON-RPC error that speaks of the session.
    """
    status = response.status
    if status in (401, 403):
        challenge = response.headers.get(b"www-authenticate", b"").decode("latin-1")
        what = "the credential is missing or wrong" if status == 401 else "the credential does not suffice"
        text = f"it answered HTTP {status}: {what}; check the server's headers in the configuration"
        return AuthRefused(upstream, text, status=status, challenge=challenge)
    error = _rpc_error(response)
    if named and (status == 404 or (status == 400 and error is not None and _speaks_of_session(error))):
        return SessionLost(upstream, f"it no longer knows the session (HTTP {status})")
    if error is not None and 400 <= status < 500:
        return error
    if 300 <= status < 400:
        return HttpRefused(
            upstream, f"it redirects (HTTP {status}); put the URL it points to into the configuration", status=status
        )
    if 200 <= status < 300:
        return BadAnswer(upstream, f"it answered HTTP {status} without an answer to the request")
    return HttpRefused(upstream, f"it answered HTTP {status}; see its own log", status=status)


def _rpc_error(response: Response) -> RpcError | None:
    try:
        message = jsonrpc.decode(response.body)
    except Exception:
        return None
    return RpcError(bytes(message.error)) if isinstance(message.error, Raw) and message.error else None


def _speaks_of_session(error: RpcError) -> bool:
    return error.code in (-32000, -32600) and LOST.search(error.error.decode("utf-8", "replace")) is not None


async def open_streamable_http(target: Target, http: HttpClient, hello: Hello, headers: HeaderBlock) -> StreamableHTTPSession:
    """A new session. Raises UpstreamError; a refusal of `initialize` by HTTP status is HttpRefused or AuthRefused."""
    path = _path_of(target.url)
    body = jsonrpc.request_raw(0, "initialize", hello.params())
    for _ in range(2):
        response = await http.send(b"POST", path, POST_HEADERS + headers, body, target.open_timeout_seconds)
        moved = _same_origin_redirect(target.url, response)
        if moved is None:
            break
        path = moved
    try:
        raw = await _initialize_result(target.name, response)
    finally:
        response.close()
    session = StreamableHTTPSession(target, http, path, Welcome.decode(target.name, raw), _session_id(response))
    session.own_headers = headers
    try:
        await session.notify("notifications/initialized", None, headers)
    except BaseException:
        runtime.spawn(session.aclose(), f"close a half-open session of {target.name}")
        raise
    return session


async def _initialize_result(upstream: str, response: Response) -> bytes:
    if response.status != 200:
        error = refusal(upstream, response, named=False)
        if isinstance(error, RpcError):
            raise HttpRefused(upstream, f"it refused initialize: {error}", status=response.status) from error
        raise error
    try:
        return answer_of(upstream, await _first_response(upstream, response))
    except RpcError as error:
        raise HttpRefused(upstream, f"it refused initialize: {error}", status=200) from error


async def _first_response(upstream: str, response: Response) -> jsonrpc.Message:
    if not response.streaming:
        return decode_message(upstream, response.body)
    decoder = sse.Decoder()
    while chunk := await response.chunk():
        for event in decoder.feed(chunk):
            if event.data and (message := decode_message(upstream, event.data)).is_response:
                return message
    raise ConnectionLost(upstream, "it ended the stream before its answer to initialize")


def _session_id(response: Response) -> bytes | None:
    """The session's id, if it is one that may be sent back (visible ASCII)."""
    id = response.headers.get(b"mcp-session-id")
    return id if id and len(id) <= 1024 and all(0x21 <= byte <= 0x7E for byte in id) else None


def _path_of(url: str) -> bytes:
    parts = urlsplit(url)
    return ((parts.path or "/") + ("?" + parts.query if parts.query else "")).encode("ascii", "ignore")


def _same_origin_redirect(url: str, response: Response) -> bytes | None:
    """Where a 307 or 308 points, if it stays on the origin (a missing slash, mostly). Others are not followed."""
    location = response.headers.get(b"location")
    if response.status not in (307, 308) or location is None:
        return None
    here, there = urlsplit(url), urlsplit(urljoin(url, location.decode("latin-1")))
    if (here.scheme, here.netloc) != (there.scheme, there.netloc):
        return None
    return _path_of(there.geturl())
