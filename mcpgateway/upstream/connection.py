"""Our own HTTP/1.1 leg: kept-alive connections to one origin, over asyncio and httptools.

A connection serves one exchange at a time and carries no identity of its own: every header comes with the request. The
ordinary exchange costs one future; deadlines are met by the sweep.
"""

from __future__ import annotations

import asyncio
import os
import re
import select
import socket
import ssl
from urllib.parse import urlsplit

import httptools

from mcpgateway.errors import BadAnswer, ConnectFailed, ConnectionLost, UpstreamError
from mcpgateway.protocol.call import HeaderBlock
from mcpgateway.runtime import Sweep
from mcpgateway.upstream.exchange import Exchange

MAX_HEAD_BYTES = 64 * 1024
IDLE_SECONDS = 4.0
"""How long a connection is kept for reuse. Common servers close theirs after 5 s: who closes first loses no request to that
race."""
IDLE_CONNECTIONS = 256
"""How many are kept. With more calls in flight than that, connections would come and go with the calls."""
FRESH_SECONDS = 0.02
"""An end that came before this turn of the event loop has been seen; the system is asked for one that came during it. Not of
a connection whose server is known to keep it, and that came home less than this ago: so busy ones are, and there a system
call for each call costs more than the odd one it would save."""
COPIED_BYTES = 64 * 1024
"""Up to this size a request is joined to one piece, which costs less than to hand over several."""
_errno = re.compile(r"\[Errno (\d+)\]")


class Connection(asyncio.Protocol):
    """One socket to the origin, one exchange at a time."""

    def __init__(self, origin: Origin) -> None:
        self.loop = asyncio.get_running_loop()
        self._origin = origin
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._exchange: Exchange | None = None
        self._headers: dict[bytes, bytes] = {}
        self._head_bytes = 0
        self._in_head = True
        self._interim = False
        self._until_eof = False
        self._poll: select.poll | None = None
        self.idle_since = 0.0
        self.proven = False
        """Whether the server has kept it open after an answer, at least once."""

    def __repr__(self) -> str:
        return f"<Connection to {self._origin.name} {'busy' if self._exchange else 'idle'}>"

    @property
    def open(self) -> bool:
        """Whether it is not known to be closed."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def usable(self) -> bool:
        """Whether a request may be sent: open, and with nothing to read that nobody asked for (an end, most likely)."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        if self._poll is None:
            sock = transport.get_extra_info("socket")
            if sock is None:
                return True
            self._poll = select.poll()
            self._poll.register(sock.fileno(), select.POLLIN | select.POLLHUP | select.POLLERR)
        return not self._poll.poll(0)

    def send(self, head: bytes, body: bytes, exchange: Exchange) -> None:
        """Begin an exchange. Only on an idle connection."""
        if self._transport is None:
            exchange.failed(ConnectFailed(self._origin.name, "the connection broke before the request was sent"))
            return
        self._exchange = exchange
        self._head_bytes = 0
        self._in_head = True
        if len(body) <= COPIED_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)

    def pause(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close at once; an exchange under way is lost."""
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._origin.made(self)

    def data_received(self, data: bytes) -> None:
        if self._exchange is None:
            # A response that nobody asked for: what follows could be taken for the next request's answer.
            self.abort()
            return
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(BadAnswer(self._origin.name, "it switched to another protocol"))
        except httptools.HttpParserError as error:
            cause = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else None
            self._fail(
                cause if isinstance(cause, UpstreamError) else BadAnswer(self._origin.name, f"its answer is not HTTP: {error}")
            )
        exchange = self._exchange
        if exchange is None:
            return
        # The parser has no limit of its own, neither for headers nor for what may follow a chunked body.
        if self._head_bytes > MAX_HEAD_BYTES:
            self._fail(BadAnswer(self._origin.name, f"the headers of its answer are larger than {MAX_HEAD_BYTES} bytes"))
        elif not self._in_head:
            exchange.heard()

    def eof_received(self) -> bool:
        # httptools never completes a body that ends with the connection; that is legal, so it is completed here.
        if self._exchange is not None and self._until_eof and not self._in_head:
            self._finish(self._exchange, keep=False)
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        del self._parser  # it refers to this object, which would stay until garbage is collected
        self._origin.forget(self)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            why = f" ({error})" if error is not None and str(error) else ""
            exchange.failed(ConnectionLost(self._origin.name, f"the connection broke before the answer was complete{why}"))

    def _fail(self, error: UpstreamError) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.failed(error)
        self.abort()

    # httptools

    def on_message_begin(self) -> None:
        if self._exchange is None:
            # Bytes after the response, of one that nobody asked for: they must not become the next request's answer.
            self.abort()
        self._headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers, which come after the body, are not looked at: they could replace what the head said.
        if self._in_head:
            self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        self._interim = status < 200
        if self._interim:
            return
        self._in_head = False
        headers = self._headers
        self._until_eof = (
            b"content-length" not in headers
            and b"chunked" not in headers.get(b"transfer-encoding", b"").lower()
            and status not in (204, 304)
        )
        if self._exchange is not None:
            self._exchange.keep_alive = self._parser.should_keep_alive() and not self._until_eof
            self._exchange.head(status, headers)

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        if self._exchange is not None:
            self._exchange.data(body)

    def on_message_complete(self) -> None:
        # An interim response (100 Continue) is a message of its own to the parser.
        if self._interim:
            self._interim = False
        elif self._exchange is not None:
            self._finish(self._exchange, keep=self._exchange.keep_alive)
        else:
            self.abort()

    def _finish(self, exchange: Exchange, keep: bool) -> None:
        self._exchange = None
        exchange.complete()
        if keep and self.open:
            self._origin.keep(self)
        elif self._transport is not None:
            self._transport.close()


class Origin:
    """All connections to one upstream's origin; an `upstream.http.HttpClient`.

    `tls` is the context shared by everything with the same TLS settings; building one costs tens of milliseconds.
    """

    def __init__(
        self, name: str, url: str, sweep: Sweep, tls: ssl.SSLContext | None = None, connect_seconds: float = 10.0
    ) -> None:
        parts = urlsplit(url)
        self.name = name
        self._sweep = sweep
        self._tls = tls
        self._connect_seconds = connect_seconds
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        host = parts.netloc.rpartition("@")[2].encode("idna" if not parts.netloc.isascii() else "ascii")
        self._lines = b" HTTP/1.1\r\nHost: " + host + b"\r\n"
        """The rest of the request line, and the next."""
        self._keeping = True
        self._idle: list[Connection] = []
        self._reaping = False
        self.deadline = 0.0
        self._all: set[Connection] = set()

    def __repr__(self) -> str:
        return f"<Origin {self.name} {len(self._all)} connections, {len(self._idle)} idle>"

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._all)

    async def send(self, method: bytes, path: bytes, headers: HeaderBlock, body: bytes, timeout_seconds: float) -> Exchange:
        """Send a request; see `HttpClient.send`."""
        connection = self._reusable() or await self._connect(min(timeout_seconds, self._connect_seconds))
        exchange = Exchange(connection, self.name, timeout_seconds, self._sweep, whole=method == b"POST")
        self._sweep.watch(exchange)
        length = len(body)
        connection.send(b"%b %b%b%bContent-Length: %d\r\n\r\n" % (method, path, self._lines, headers, length), body, exchange)
        try:
            await exchange.future
        except asyncio.CancelledError:
            exchange.close()
            raise
        return exchange

    def _reusable(self) -> Connection | None:
        """The connection used last that is still good. Older ones go: what is idle for long is likely closed over there."""
        now = self._sweep.now()
        while self._idle:
            connection = self._idle.pop()
            idle_seconds = now - connection.idle_since
            fresh = connection.proven and idle_seconds < FRESH_SECONDS
            if connection.open if fresh else idle_seconds <= IDLE_SECONDS and connection.usable:
                connection.proven = True
                return connection
            connection.abort()
        return None

    async def _connect(self, seconds: float) -> Connection:
        connection = Connection(self)
        try:
            await self._connect_as(connection, seconds)
        except BaseException:
            # uvloop closes a transport whose making is cancelled without a word to its protocol.
            connection.abort()
            self.forget(connection)
            raise
        return connection

    async def _connect_as(self, connection: Connection, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(seconds):
                await loop.create_connection(lambda: connection, self._host, self._port, ssl=self._tls)
        except TimeoutError as error:
            raise ConnectFailed(self.name, f"no connection within {seconds:g} s; is it up and reachable?") from error
        except ssl.SSLError as error:
            raise ConnectFailed(self.name, f"the TLS handshake failed: {error.reason or error}") from error
        except OSError as error:
            what = f"cannot connect to {self._host}:{self._port}: {_reason(error)}; {_question(error)}"
            raise ConnectFailed(self.name, what) from error

    def made(self, connection: Connection) -> None:
        """A connection was made."""
        self._all.add(connection)

    def keep(self, connection: Connection) -> None:
        """A connection came free."""
        if len(self._idle) >= IDLE_CONNECTIONS or not self._keeping:
            connection.abort()
            return
        connection.idle_since = now = self._sweep.now()
        self._idle.append(connection)
        if not self._reaping:
            self._reaping = True
            self.deadline = now + IDLE_SECONDS
            self._sweep.watch(self)

    def expire(self) -> None:
        """Close what has been idle for too long, traffic or none. The sweep calls this."""
        now = self._sweep.now()
        while self._idle and now - self._idle[0].idle_since >= IDLE_SECONDS:
            self._idle.pop(0).abort()
        self._reaping = bool(self._idle)
        if self._reaping:
            self.deadline = self._idle[0].idle_since + IDLE_SECONDS
            self._sweep.watch(self)

    def distrust(self) -> None:
        """An answer was another request's: no connection that is idle now is used again."""
        for connection in list(self._idle):
            connection.abort()
        self._idle.clear()

    def let_go(self) -> None:
        """Another origin takes over: connections that are idle close now, those in use when they come home."""
        self._keeping = False
        self.distrust()

    def forget(self, connection: Connection) -> None:
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    async def aclose(self) -> None:
        """Close every connection; exchanges under way are lost."""
        self._sweep.forget(self)
        self._reaping = False
        for connection in list(self._all):
            connection.abort()
        self._idle.clear()


def _question(error: OSError) -> str:
    """What to look at first."""
    return "is the name right?" if isinstance(error, socket.gaierror) else "is it running?"


def _reason(error: OSError) -> str:
    """The system's words for it. The event loop's own repeat the address, and for several addresses hold one text for each."""
    numbers = [error.errno] if error.errno else map(int, _errno.findall(str(error)))
    # Numbers below zero are those of name look-ups, which come with words of their own.
    said = dict.fromkeys(os.strerror(number) for number in numbers if number > 0)
    return " or ".join(said) or error.strerror or str(error) or type(error).__name__
