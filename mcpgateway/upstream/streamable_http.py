"""Streamable HTTP upstream, revisions 2025-03-26 to 2025-11-25.

A session is data: an id, a revision and a few header lines. It owns no socket and no task, unless somebody listens.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections.abc import Callable
from functools import partial
from typing import TypeVar
from urllib.parse import urljoin, urlsplit

import msgspec
from msgspec import Raw

from mcpgateway import runtime
from mcpgateway.errors import (
    BadAnswer,
    ConnectionLost,
    GatewayError,
    HttpRefused,
    RpcError,
    UpstreamError,
    UpstreamTimeout,
)
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
from mcpgateway.upstream.http import HttpClient, Response, path_of
from mcpgateway.upstream.refusal import refusal

_log = logging.getLogger("mcpgateway.upstream")

_ids = itertools.count(1)
"""Request ids, unique in the process rather than in the session: an answer that a confused server or proxy sends late, on a
connection that another session uses by then, is then told from that session's own."""

POST_HEADERS = b"Accept: application/json, text/event-stream\r\nContent-Type: application/json\r\n"
GET_HEADERS = b"Accept: text/event-stream\r\n"
SHORTEST_LISTEN_PAUSE_SECONDS = 0.1
LISTEN_PAUSE_SECONDS = 1.0
LONGEST_LISTEN_PAUSE_SECONDS = 30.0
CANCEL_SECONDS = 5.0
CLOSE_SECONDS = 3.0
MAX_QUESTIONS = 100
"""Questions that may be open on one stream; each holds a task and, downstream, a client's attention."""
MAX_EVENT_ID_BYTES = 1024
T = TypeVar("T")


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

    def __repr__(self) -> str:
        kind = "stateful" if self.stateful else "stateless"
        return (
            f"<StreamableHTTPSession {self.upstream} {self.welcome.protocol_version} {kind}{' closed' if self.closed else ''}>"
        )

    async def request(self, call: Call, channel: Channel) -> bytes:
        """The raw result; see `UpstreamSession.request`."""
        id = next(_ids)
        body, token = outgoing(call, id)
        try:
            response = await self._http.send(b"POST", self._path, self._post_headers + call.headers, body, call.timeout_seconds)
            if response.streaming and response.status == 200:
                return await _Answer(self, id, token, call, channel).read(response)
        except asyncio.CancelledError:
            self._give_up(id, call.headers, b"the client cancelled")
            raise
        except UpstreamTimeout:
            self._give_up(id, call.headers, b"no sign of life in time")
            raise
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
        """Keep a GET stream open, for what the server says outside calls."""
        if self._listening is None and not self.closed:
            self._listening = runtime.spawn(Listening(self, headers).run(), f"listen to {self.upstream}")

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
                response.close()
            except UpstreamError as error:
                _log.debug("ending a session: %s", error)


class _Questions:
    """What the server asks on one stream, each question answered by a task of its own.

    `when_none` is called when the last one is over.
    """

    def __init__(self, session: StreamableHTTPSession, headers: HeaderBlock, when_none: Callable[[], None]) -> None:
        self._session = session
        self._headers = headers
        self._when_none = when_none
        self._tasks: dict[object, asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        return f"<_Questions of {self._session.upstream}, {len(self._tasks)} open>"

    def put(self, message: jsonrpc.Message, ask: Ask | None) -> None:
        """Ask, and post the answer. Raises BadAnswer where the server asks too much."""
        if len(self._tasks) >= MAX_QUESTIONS or message.id in self._tasks:
            raise BadAnswer(self._session.upstream, "it asks one question twice, or too many at once")
        task = runtime.spawn(self._answer(message, ask), f"question of {self._session.upstream}")
        self._tasks[message.id] = task
        task.add_done_callback(lambda done: self._over(message.id))

    async def _answer(self, message: jsonrpc.Message, ask: Ask | None) -> None:
        try:
            await self._session.post(await answer_question(message, ask), self._headers)
        except UpstreamError as error:
            _log.info("answering a question: %s", error)

    def _over(self, id: object) -> None:
        del self._tasks[id]
        if not self._tasks:
            self._when_none()

    def withdraw(self, message: jsonrpc.Message) -> None:
        """The server cancelled a question of its own."""
        try:
            id = msgspec.json.decode(params_of(message).get("requestId", b"null"))
        except (msgspec.DecodeError, RecursionError):
            return
        task = self._tasks.get(id) if isinstance(id, int | str) else None
        if task is not None:
            task.cancel()

    def end(self) -> None:
        """Withdraw them all."""
        self._when_none = _nothing
        for task in tuple(self._tasks.values()):
            task.cancel()


def _nothing() -> None:
    return


class _Answer:
    """Reads the event stream that answers one POST: notifications and questions on the way, the response at the end."""

    def __init__(self, session: StreamableHTTPSession, id: int, token: Raw | None, call: Call, channel: Channel) -> None:
        self._session = session
        self._id = id
        self._token = token
        self._call = call
        self._channel = channel
        self._questions: _Questions | None = None

    async def read(self, response: Response) -> bytes:
        """The raw result. The stream's end before the response is a loss: whether the request ran is not known."""
        upstream = self._session.upstream
        try:
            message = await first_of(upstream, response, lambda event: self._heard(event, response))
        except BaseException:
            response.close()
            raise
        finally:
            if self._questions is not None:
                self._questions.end()
        response.release()
        if message is None:
            # The answer may still come, where the next request on that connection would take it for its own.
            self._session._http.distrust()
            raise ConnectionLost(upstream, "it ended the stream before its answer; the request may have run")
        return answer_of(upstream, message)

    def _heard(self, event: sse.Event, response: Response) -> jsonrpc.Message | None:
        """The response, if this is it."""
        if not event.data:
            return None
        message = decode_message(self._session.upstream, event.data)
        if message.is_request:
            self._ask(message, response)
        elif message.is_notification:
            self._told(message)
        elif message.id == self._id or (message.id is None and isinstance(message.error, Raw)):
            return message
        return None

    def _ask(self, message: jsonrpc.Message, response: Response) -> None:
        if self._questions is None:
            heard_again = partial(response.set_timeout, self._call.timeout_seconds)
            self._questions = _Questions(self._session, self._call.headers, heard_again)
        # A person may have to answer: the upstream's silence meanwhile is ours, not its.
        response.set_timeout(math.inf)
        self._questions.put(message, self._channel.ask)

    def _told(self, message: jsonrpc.Message) -> None:
        if message.method != "notifications/cancelled":
            tell(self._session, message, self._id, self._token, self._channel)
        elif self._questions is not None:
            self._questions.withdraw(message)


def tell(session: StreamableHTTPSession, message: jsonrpc.Message, id: int, token: Raw | None, channel: Channel) -> None:
    """Pass on a notification that came on a call's own stream. Progress gets the client's token back."""
    params = params_of(message)
    if message.method == "notifications/progress":
        if token is not None and bytes(params.get("progressToken", b"")) == b"%d" % id:
            channel.notify("notifications/progress", with_token(params, token))
    elif message.method in CALL_NOTIFICATIONS or session.listener is None:
        channel.notify(str(message.method), bytes(jsonrpc.raw(params)))
    else:
        announce(session, message)


def announce(session: StreamableHTTPSession, message: jsonrpc.Message) -> None:
    """Pass a notification that belongs to no call to whoever listens."""
    if session.listener is None:
        return
    try:
        session.listener.notified(str(message.method), bytes(jsonrpc.raw(params_of(message))))
    except GatewayError as error:  # one malformed notification must not end the stream it came on
        _log.warning("%s of upstream %r was not passed on: %s", str(message.method)[:100], session.upstream, error)


def params_of(message: jsonrpc.Message) -> jsonrpc.Params:
    return message.params if isinstance(message.params, dict) else jsonrpc.NO_PARAMS


CALL_NOTIFICATIONS = frozenset({"notifications/message"})
"""Notifications that belong to the call on whose stream they came. The others speak of the whole server."""


class Listening:
    """The GET stream of one session, opened again when it breaks, with growing pauses."""

    def __init__(self, session: StreamableHTTPSession, headers: HeaderBlock) -> None:
        self._session = session
        self._headers = headers
        self._last_id: bytes | None = None
        self._retry = self.pause_seconds = LISTEN_PAUSE_SECONDS
        self._questions = _Questions(session, headers, _nothing)

    def __repr__(self) -> str:
        return f"<Listening to {self._session.upstream}, again after {self.pause_seconds:g} s>"

    async def run(self) -> None:
        """Until cancelled, or until the server says that there is nothing to hear."""
        try:
            while not self._session.closed and await self._again():
                await asyncio.sleep(self.pause_seconds)
                self.pause_seconds = min(self.pause_seconds * 2, LONGEST_LISTEN_PAUSE_SECONDS)
        finally:
            self._questions.end()

    async def _again(self) -> bool:
        try:
            return await self._once()
        except UpstreamError as error:
            _log.info("listening: %s", error)
            return True

    async def _once(self) -> bool:
        """One stream from its beginning to its end. False where the server offers none, or has lost the session."""
        response = await self._session.get(self._headers, self._last_id)
        try:
            if not response.streaming or response.status != 200:
                return response.status == 429 or response.status >= 500
            response.set_timeout(math.inf)
            await first_of(self._session.upstream, response, self._heard)
        finally:
            response.close()
        return True

    def _heard(self, event: sse.Event) -> None:
        if event.id is not None and len(event.id) <= MAX_EVENT_ID_BYTES:
            self._last_id = event.id or None
        if event.retry_ms is not None:
            wished = max(event.retry_ms / 1000, SHORTEST_LISTEN_PAUSE_SECONDS)
            self._retry = min(wished, LONGEST_LISTEN_PAUSE_SECONDS)
        self.pause_seconds = self._retry
        if event.data:
            self._take(decode_message(self._session.upstream, event.data))

    def _take(self, message: jsonrpc.Message) -> None:
        if message.is_request:
            listener = self._session.listener
            self._questions.put(message, listener.asked if listener is not None else None)
        elif message.method == "notifications/cancelled":
            self._questions.withdraw(message)
        elif message.is_notification:
            announce(self._session, message)


async def first_of(upstream: str, response: Response, take: Callable[[sse.Event], T | None]) -> T | None:
    """What `take` gives for the first event for which it gives something; None at the stream's orderly end."""
    decoder = sse.Decoder()
    try:
        while chunk := await response.chunk():
            for event in decoder.feed(chunk):
                taken = take(event)
                if taken is not None:
                    return taken
    except sse.EventTooLarge as error:
        raise BadAnswer(upstream, str(error)) from error
    return None


async def open_streamable_http(target: Target, http: HttpClient, hello: Hello, headers: HeaderBlock) -> StreamableHTTPSession:
    """A new session. Raises UpstreamError; a refusal of `initialize` by HTTP status is HttpRefused or AuthRefused."""
    path = path_of(target.url)
    id = next(_ids)
    body = jsonrpc.request_raw(id, "initialize", hello.params())
    response = await http.send(b"POST", path, POST_HEADERS + headers, body, target.open_timeout_seconds)
    moved = _same_origin_redirect(target.url, response)
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


def _same_origin_redirect(url: str, response: Response) -> bytes | None:
    """Where a 307 or 308 points, if it stays on the origin (a missing slash, mostly). Others are not followed."""
    location = response.headers.get(b"location")
    if response.status not in (307, 308) or location is None:
        return None
    try:
        there = urljoin(url, location.decode("latin-1"))
        same = urlsplit(there)[:2] == urlsplit(url)[:2]
    except ValueError:
        return None
    return path_of(there) if same else None
