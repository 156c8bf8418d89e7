"""Our own HTTP/1.1 protocol class: from the socket to the edges without a layer between.

uvicorn makes one for each connection (its `http` setting) and keeps what is its own: sockets, TLS, signals, the graceful end.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import cast
from urllib.parse import unquote

import httptools
from uvicorn.config import Config
from uvicorn.server import ServerState

from mcpgateway.downstream.exchange import Exchange
from mcpgateway.downstream.guard import HEAD_TOO_LARGE, LINGER_SECONDS, NOT_HTTP, TOO_LATE, Guard, Refusal, Stalled, refuse
from mcpgateway.downstream.http_exchange import HttpExchange

KEEP_ALIVE_SECONDS = 75.0
"""How long a client's connection may idle between two requests."""

QUEUED_BYTES = 256 * 1024
"""What may come behind a request that is being answered, where reading cannot wait for its end."""

REMEMBERED_BYTES = 256
"""Request targets up to this length are read once, not with each request: there are few."""

Serve = Callable[[Exchange], Awaitable[None]]
"""Answers one request."""


class HttpProtocol(asyncio.Protocol):
    """One client's connection. Its requests are answered one after the other.

    It is watched by the sweep for its whole life: `deadline` is when the request that is arriving must be complete, or when
    a client that says nothing is left.
    """

    def __init__(
        self,
        *,
        serve: Serve,
        guard: Guard,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.closing = False
        self.writable: asyncio.Event | None = None
        self.deadline = 0.0
        self._serve = serve
        self._guard = guard
        self._server = server_state
        self._loop = _loop or asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._url = b""
        self._header_list: list[tuple[bytes, bytes]] = []
        self._bodiless = 0
        """Bytes since the request began, or since its last byte of body: head, chunk extensions, trailers."""
        self._received = 0
        """At least as many bytes as there came of the request that is arriving; 0 between requests."""
        self._timed = False
        """Whether `deadline` is that of the request that is arriving."""
        self._arriving: HttpExchange | None = None
        """The request whose head is complete and whose body is not."""
        self._answering: HttpExchange | None = None
        self._task: asyncio.Task[None] | None = None
        """Answers the connection's requests. A call that outlasts its response takes the task with it, and the connection goes
        on with another: a task that finds another request being answered than its own belongs to nobody."""
        self._turn: asyncio.Future[None] | None = None
        """What the task waits for while there is nothing to answer."""
        self._waiting: deque[HttpExchange] = deque()
        """Requests that came behind the one that is being answered."""
        self._deaf = False
        """Nothing that still comes is a request."""
        self._refusal: Refusal | None = None
        """What is said last, after the answers to the requests that came before."""
        self._refused = False
        self._reading = True
        self._heard_behind: int | None = None
        """How many bytes came behind a request whose client must be seen when it leaves; None for other requests."""
        self._stalled: Stalled | None = None

    def __repr__(self) -> str:
        state = "refused" if self._refused else "busy" if self._answering else "arriving" if self._received else "idle"
        return f"<HttpProtocol {state}, {len(self._waiting)} waiting>"

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass
        # uvicorn's graceful end waits until both are empty, and cancels what is left among the tasks when it waited enough.
        self._server.connections.add(self)  # type: ignore[arg-type]
        self._server.tasks.add(self)  # type: ignore[arg-type]
        self._give_time(self._guard.read_seconds)
        self._guard.sweep.watch(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._server.connections.discard(self)
        self._server.tasks.discard(self)
        self._guard.sweep.forget(self)
        self._deaf = True
        self._waiting.clear()
        self._arriving = None
        self._parser = None  # it refers to this object, which would stay until garbage is collected
        self.resume_writing()
        if self._answering is not None:
            self._answering.leave()
        self._wake()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._part_if_answered()
        self._bodiless += len(data)
        self._received += len(data)
        if self._heard_behind is not None:
            self._count_behind(len(data))
        try:
            self._feed(data)
        except httptools.HttpParserCallbackError:
            raise  # a fault of ours, which must not pass for one of the client's
        except httptools.HttpParserError:
            self._refuse(NOT_HTTP)
        if self._bodiless > self._guard.header_bytes:
            self._refuse(HEAD_TOO_LARGE)
        self._go_on()

    def pause_writing(self) -> None:
        self.writable = asyncio.Event()
        self._stalled = self._guard.watch_stalled(self._transport)

    def resume_writing(self) -> None:
        if self._stalled is not None:
            self._guard.sweep.forget(self._stalled)
            self._stalled = None
        if self.writable is not None:
            self.writable.set()
            self.writable = None

    # Called by uvicorn when the server ends.

    def shutdown(self) -> None:
        """Take no more requests. The one that is being answered is finished."""
        self.closing = True
        if self._answering is None:
            self._transport.close()
        self._part_if_answered()

    def cancel(self, msg: str | None = None) -> None:
        """Break off what is being answered."""
        if self._task is not None:
            self._task.cancel(msg)
        self._transport.abort()

    # Called by the sweep.

    def expire(self) -> None:
        """The request did not arrive in time, the client said nothing for long, or was refused and had time to read it."""
        if self._transport.is_closing():
            return
        if self._refused:
            self._transport.abort()
        elif self._answering is not None and self._answering is not self._arriving:
            self._give_time(self._guard.read_seconds)  # what is not read because another is being answered is not late
            self._part_if_answered()
        elif self._received == 0:
            self._transport.close()
        else:
            self._refuse(TOO_LATE)
        self._guard.sweep.watch(self)

    def _give_time(self, seconds: float) -> None:
        self.deadline = self._guard.sweep.now() + seconds

    # Reading requests.

    def _feed(self, data: bytes) -> None:
        while data and self._parser is not None:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as stopped:
                data = b"" if self._deaf else self._without_upgrade(self._parser) + data[stopped.args[0] :]
            else:
                return

    def _without_upgrade(self, parser: httptools.HttpRequestParser) -> bytes:
        """The head of a request that offered another protocol, as if it had not: some clients do with each request.

        The parser takes what follows such a head for the other protocol, and leaves the body unread.
        """
        line = b"%b %b HTTP/%b\r\n" % (parser.get_method(), self._url, parser.get_http_version().encode())
        self._parser = httptools.HttpRequestParser(self)
        return line + b"".join(b"%b: %b\r\n" % header for header in self._header_list if header[0] != b"upgrade") + b"\r\n"

    def on_message_begin(self) -> None:
        self._url = b""
        self._header_list = []
        if not self._received:
            # It stands behind another in what came at once, so that nobody has counted its bytes.
            self._received = self._guard.header_bytes + 1

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_list.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        if self._deaf or parser is None:
            return
        method = parser.get_method()
        if parser.should_upgrade() and method != b"CONNECT":
            return  # it is read again without its offer
        path = _known_path(self._url) if len(self._url) <= REMEMBERED_BYTES else _path_of(self._url)
        if method == b"CONNECT" or path is None:
            self._refuse(NOT_HTTP)
        elif self._received > self._guard.header_bytes and self._head_bytes() > self._guard.header_bytes:
            self._refuse(HEAD_TOO_LARGE)
        else:
            said = self._header_list
            # Trailers are no headers: they come when the request has been let in already.
            self._header_list = []
            headers = dict(said)
            lasts = parser.should_keep_alive()
            # Without a header that says so, only the connections of later versions last. To ask for the version is dear.
            later = (lasts and b"connection" not in headers) or parser.get_http_version() != "1.0"
            self._arriving = HttpExchange(self, method.decode(), path, headers, said, keep_alive=lasts and later, chunked=later)
            self._waiting.append(self._arriving)

    def _head_bytes(self) -> int:
        """Four bytes more for each header are its punctuation."""
        return len(self._url) + sum(len(name) + len(value) + 4 for name, value in self._header_list)

    def on_body(self, piece: bytes) -> None:
        self._bodiless = 0
        if self._arriving is not None:
            self._arriving.feed(piece)

    def on_message_complete(self) -> None:
        self._bodiless = self._received = 0
        self._timed = False
        arrived, self._arriving = self._arriving, None
        if arrived is not None:
            arrived.finish()
            self._deaf = not arrived.keep_alive  # what follows the last request is none

    def _go_on(self) -> None:
        """Answer what has arrived, when it is its turn, and see that the rest arrives."""
        if self._waiting:
            self._part_if_answered()
        if self._waiting and self._answering is None:
            self._answer(self._waiting.popleft())
        if self._waiting:
            self.pause_reading()
        if self._received and not self._timed and not self._refused:
            self._timed = True
            self._give_time(self._guard.read_seconds)

    def pause_reading(self) -> None:
        """Read no more for now, unless that must go on."""
        if self._reading and self._heard_behind is None and not self._transport.is_closing():
            self._reading = False
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if not self._reading and not self._transport.is_closing():
            self._reading = True
            self._transport.resume_reading()

    def hear_leaving(self) -> None:
        """Read on whatever waits already: only so it is seen when the client leaves."""
        self._heard_behind = 0
        self.resume_reading()

    def _count_behind(self, count: int) -> None:
        self._heard_behind = (self._heard_behind or 0) + count
        if self._heard_behind > QUEUED_BYTES:
            self._deaf = True
            self._transport.abort()

    # Answering them.

    def _answer(self, exchange: HttpExchange) -> None:
        self._answering = exchange
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._serve_in_turn(exchange))
        else:
            self._wake()

    def _wake(self) -> None:
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    async def _serve_in_turn(self, exchange: HttpExchange | None) -> None:
        """Answer this request and those that follow it. One task for all: each call would pay for one."""
        while exchange is not None:
            try:
                await self._serve(exchange)
            except BaseException:
                if self._answering is exchange:
                    self._task = None
                    self._served(exchange)
                raise
            if self._answering is not exchange:
                return  # the connection has gone on without this task
            self._served(exchange)
            exchange = None  # its body must not stay for as long as the connection idles
            if self._answering is not None:
                await asyncio.sleep(0)  # others, too, have their turn
            elif not self._transport.is_closing():
                self._turn = self._loop.create_future()
                await self._turn
                self._turn = None
            exchange = self._answering

    def complete(self, exchange: HttpExchange) -> None:
        """See `Wire`. Mostly the serving ends with the response, and nothing waits for that: then nothing is left to do."""
        if self._waiting or self.closing or self._refusal is not None or not exchange.keep_alive:
            self._loop.call_soon(self._part, exchange)

    def _part(self, exchange: HttpExchange) -> None:
        """Go on without waiting for what serves an exchange whose response is complete: a call may outlast its stream."""
        # Whoever still reads its body must hear when the client leaves.
        if self._answering is exchange and exchange.arrived and self._task is not None:
            self._server.tasks.add(self._task)  # uvicorn's graceful end waits for it
            self._task.add_done_callback(self._server.tasks.discard)
            self._task = None
            self._served(exchange)

    def _part_if_answered(self) -> None:
        if self._answering is not None and self._answering.answered:
            self._part(self._answering)

    def _served(self, exchange: HttpExchange) -> None:
        """An exchange is over: the next one's turn."""
        self._answering = self._heard_behind = None
        if self._transport.is_closing() or self._refused:
            return
        if self.closing or not exchange.answered or not exchange.keep_alive:
            self._transport.close()
        elif self._refusal is not None and not self._waiting:
            self._say_refusal(self._refusal)
        else:
            self._give_time(self._guard.read_seconds if self._received else KEEP_ALIVE_SECONDS)
            if self._waiting or self._received:
                self._go_on()
            if not self._waiting:
                self.resume_reading()

    def write(self, *pieces: bytes) -> None:
        """Send, unless the client has gone or was refused."""
        if not self._refused and not self._transport.is_closing():
            for piece in pieces:
                self._transport.write(piece)

    def _refuse(self, refusal: Refusal) -> None:
        """Take no more requests, and say why: in the place of the one that is wrong, after the answers to earlier ones."""
        if self._deaf or self._transport.is_closing():
            return
        self._deaf = True
        self._refusal = refusal
        wrong, self._arriving = self._arriving, None
        if wrong is not None and self._waiting:
            self._waiting.pop()
        earlier = self._answering if self._answering is not wrong else None
        if (wrong is not None and wrong.begun) or (earlier is not None and earlier.begun):
            self._transport.close()  # the refusal would read like a part of that response
        elif earlier is None and not self._waiting:
            self._say_refusal(refusal)
            if wrong is not None:
                wrong.leave()

    def _say_refusal(self, refusal: Refusal) -> None:
        self._refused = True
        if refuse(self._transport, refusal):
            self._give_time(LINGER_SECONDS)


@lru_cache(maxsize=256)
def _known_path(url: bytes) -> str | None:
    return _path_of(url)


def _path_of(url: bytes) -> str | None:
    """The path in a request's target, with its escapes undone; None where there is none."""
    try:
        path = httptools.parse_url(url).path
    except httptools.HttpParserInvalidURLError:
        return None
    return unquote(path.decode("latin-1")) if path else None
