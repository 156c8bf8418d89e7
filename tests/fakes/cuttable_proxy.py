"""A TCP proxy before an upstream that breaks what passes through it, in one way and at one stage, until it is healed.

It takes whole answers from the upstream, so that it can spoil them at a chosen byte. In `stage` and `fault` a test says what
breaks: 'connect' and 'tls' begin with the connection, the others with a request of their kind.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from typing import Self

from tests.servers.http11 import CRLF, Request, read_request, reply

GARBAGE = b"\x00\xffthese bytes are no answer\r\n\r\n\x16\x03"
OVERSIZED = b"X-Much: " + b"m" * 8000 + CRLF
SAID = b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}'
EVENT = b"event: message\r\ndata: " + SAID + b"\r\n\r\n"


class Answer:
    """An upstream's whole answer to one request, as it would go over the wire."""

    def __init__(self, head: bytes, body: bytes) -> None:
        self.head = head
        self.body = body

    @property
    def bytes(self) -> bytes:
        return self.head + self.body

    def declaring(self, length: int, body: bytes | None = None) -> bytes:
        """The answer, or `body` under its head, with a Content-Length of its own choice."""
        return self._framed(b"Content-Length: %d" % length, self.body if body is None else body)

    def chunked(self, body: bytes) -> bytes:
        """The answer's head, announcing chunks, and a body that should be some."""
        return self._framed(b"Transfer-Encoding: chunked", body)

    def _framed(self, framing: bytes, body: bytes) -> bytes:
        others = (b"content-length", b"transfer-encoding")
        lines = [line for line in self.head.split(CRLF) if line and not line.lower().startswith(others)]
        return CRLF.join([*lines, framing, b"", b""]) + body


class Line:
    """The proxy's side of one connection from the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def say_slowly(self, data: bytes) -> None:
        """Byte for byte, each in a packet of its own as far as the network lets it."""
        for byte in data:
            await self.say(bytes([byte]))
            await asyncio.sleep(0)

    async def never_end(self, start: bytes) -> None:
        """Say `start`, and then a byte at a time, until the gateway has enough of it."""
        await self.say(start)
        while not self.reader.at_eof() and not self.writer.is_closing():
            await self.say(b"x")
            await asyncio.sleep(0.02)  # what is slow here is the fault itself; nothing waits for it

    async def until_left(self) -> None:
        """Say nothing more, until the gateway closes the connection."""
        await self.reader.read()

    def end(self) -> None:
        """Say that nothing more will be said, and go on reading."""
        self.writer.write_eof()

    def reset(self) -> None:
        """Break off with a RST."""
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Fault = Callable[[Line, Answer], Awaitable[bool]]
"""Answers one request wrongly, or not at all. True if the connection may go on to be used, else it is closed."""


async def _reset(line: Line, answer: Answer) -> bool:
    line.reset()
    return False


async def _reset_midway(line: Line, answer: Answer) -> bool:
    await line.say(answer.bytes[: -len(answer.body) // 2 or None])
    line.reset()
    return False


async def _stall(line: Line, answer: Answer) -> bool:
    await line.until_left()
    return False


async def _half_close(line: Line, answer: Answer) -> bool:
    line.end()
    await line.until_left()
    return False


async def _slow(line: Line, answer: Answer) -> bool:
    await line.never_end(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    return False


async def _garbage(line: Line, answer: Answer) -> bool:
    await line.say(GARBAGE)
    await line.until_left()
    return False


async def _truncated_chunk(line: Line, answer: Answer) -> bool:
    await line.say(answer.chunked(b"%x\r\n" % (len(answer.body) + 50) + answer.body))
    return False


async def _chunk_of_no_size(line: Line, answer: Answer) -> bool:
    await line.say(answer.chunked(b"zz\r\n" + answer.body))
    await line.until_left()
    return False


async def _length_too_long(line: Line, answer: Answer) -> bool:
    await line.say(answer.declaring(len(answer.body) + 50))
    return False


async def _length_too_short(line: Line, answer: Answer) -> bool:
    body = answer.body or b"extra"
    await line.say(answer.declaring(len(body) - 5, body))
    await line.until_left()
    return False


async def _oversized_headers(line: Line, answer: Answer) -> bool:
    await line.say(b"HTTP/1.1 200 OK\r\n" + OVERSIZED * 100 + CRLF)
    await line.until_left()
    return False


async def _continue_first(line: Line, answer: Answer) -> bool:
    await line.say(b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + answer.bytes)
    return True


async def _continue_only(line: Line, answer: Answer) -> bool:
    await line.say(b"HTTP/1.1 100 Continue\r\n\r\n")
    await line.until_left()
    return False


async def _two_answers(line: Line, answer: Answer) -> bool:
    await line.say(answer.bytes * 2)
    return True


async def _slow_but_sure(line: Line, answer: Answer) -> bool:
    await line.say_slowly(answer.bytes)
    return True


ANSWERS: dict[str, Fault] = {
    "reset": _reset,
    "reset_midway": _reset_midway,
    "stall": _stall,
    "half_close": _half_close,
    "slow": _slow,
    "slow_but_sure": _slow_but_sure,
    "garbage": _garbage,
    "truncated_chunk": _truncated_chunk,
    "chunk_of_no_size": _chunk_of_no_size,
    "length_too_long": _length_too_long,
    "length_too_short": _length_too_short,
    "oversized_headers": _oversized_headers,
    "continue_first": _continue_first,
    "continue_only": _continue_only,
    "two_answers": _two_answers,
}
"""What may happen instead of an answer, at 'initialize', 'call' and 'close'."""


async def _answers_that_lag(line: Line, answer: Answer) -> bool:
    await line.say(answer.bytes)
    while await read_request(line.reader) is not None:
        await line.say(answer.bytes)
    return False


LAGGING: dict[str, Fault] = {"answers_that_lag": _answers_that_lag}
"""A sound answer, with which all that is asked later on its connection is answered as well."""


def _in_stream(after: bytes, then: Callable[[Line], Awaitable[bool]]) -> Fault:
    """An event stream that begins well and goes on with `after`; `then` says what becomes of the connection."""

    async def answer_with(line: Line, answer: Answer) -> bool:
        event = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
        await line.say(answer.chunked(event + after))
        return await then(line)

    return answer_with


async def _breaks(line: Line) -> bool:
    line.reset()
    return False


async def _ends(line: Line) -> bool:
    return False


async def _stays(line: Line) -> bool:
    await line.until_left()
    return False


async def _goes_on(line: Line) -> bool:
    return True


async def _stream_too_long(line: Line, answer: Answer) -> bool:
    await line.say(answer.declaring(len(EVENT) + 50, EVENT))
    return False


async def _stream_too_short(line: Line, answer: Answer) -> bool:
    await line.say(answer.declaring(len(EVENT) - 5, EVENT))
    await line.until_left()
    return False


STREAMS: dict[str, Fault] = {
    "reset": _in_stream(b"", _breaks),
    "stall": _in_stream(b"", _stays),
    "half_close": _in_stream(b"", _ends),
    "slow_but_sure": _slow_but_sure,
    "garbage": _in_stream(b"zz\r\n" + GARBAGE, _stays),
    "garbage_event": _in_stream(b"0f\r\ndata: \xff\x00{[}\r\n\r\n\r\n0\r\n\r\n", _goes_on),
    "garbage_event_that_stays": _in_stream(b"0f\r\ndata: \xff\x00{[}\r\n\r\n\r\n", _stays),
    "truncated_chunk": _in_stream(b"50\r\ndata: {", _ends),
    "length_too_long": _stream_too_long,
    "length_too_short": _stream_too_short,
    "oversized_trailers": _in_stream(b"0\r\n" + OVERSIZED * 100 + CRLF, _stays),
    "end_without_answer": _in_stream(b"0\r\n\r\n", _goes_on),
    "two_answers": _two_answers,
}
"""What may happen to an answer that is an event stream and has begun."""


async def _trickle(line: Line) -> None:
    # The head of a TLS record, of which the rest takes for ever.
    await line.never_end(b"\x16\x03\x03\x20\x00")


async def _say_nothing(line: Line) -> None:
    await line.until_left()


async def _say_garbage(line: Line) -> None:
    await line.say(GARBAGE)
    await line.until_left()


async def _end_at_once(line: Line) -> None:
    line.end()
    await line.until_left()


async def _reset_at_once(line: Line) -> None:
    line.reset()


CONNECTIONS: dict[str, Callable[[Line], Awaitable[None]]] = {
    "reset": _reset_at_once,
    "stall": _say_nothing,
    "half_close": _end_at_once,
    "slow": _trickle,
    "garbage": _say_garbage,
}
"""What may happen to a connection that was accepted, before anything is asked on it."""


class CuttableProxy:
    """Serves on loopback and passes on to `upstream_port` there. `struck` is set when a fault is met.

    It offers no GET stream, so that a gateway holds no connection to it but for calls. With `tls` it serves TLS.
    """

    def __init__(self, upstream_port: int, tls: ssl.SSLContext | None = None) -> None:
        self.port = 0
        self.struck = asyncio.Event()
        self.stage = self.fault = ""
        self._upstream_port = upstream_port
        self._tls = tls
        self._lines: dict[asyncio.Task[None], Line] = {}
        self._server: asyncio.Server | None = None
        self._plug: list[socket.socket] = []

    def __repr__(self) -> str:
        return f"<CuttableProxy on {self.port}, {f'{self.fault} at {self.stage}' if self.fault else 'sound'}>"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    @property
    def scheme(self) -> str:
        return "https" if self._tls is not None else "http"

    @property
    def lines(self) -> int:
        """How many connections are open."""
        return len(self._lines)

    async def start(self) -> None:
        """Serve, at the port of the last time if there was one."""
        # A fault in the handshake stands in its place: what is served then is plain TCP.
        tls = None if self.stage == "tls" else self._tls
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def break_at(self, stage: str, fault: str) -> None:
        """From now on this goes wrong. What breaks connections cuts those that are open too, so that new ones are made."""
        self.stage, self.fault = stage, fault
        self.struck.clear()
        if stage in ("connect", "tls"):
            await self._stop_serving()
            self.cut()
            if fault == "stall" and stage == "connect":
                self._plug_up()
            elif fault != "refuse":
                await self.start()

    async def serve_with(self, tls: ssl.SSLContext) -> None:
        """From now on new connections get this context, and there are only new ones."""
        self._tls = tls
        await self._stop_serving()
        self.cut()
        await self.start()

    async def heal(self) -> None:
        """Nothing goes wrong from now on."""
        self.stage = self.fault = ""
        for sock in self._plug:
            sock.close()
        self._plug.clear()
        await self._stop_serving()
        await self.start()

    async def _stop_serving(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _plug_up(self) -> None:
        """Listen, accept nobody, and fill the line of those who wait: who comes now is not even refused."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(0)
        self._plug.append(listener)
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.connect(("127.0.0.1", self.port))
            self._plug.append(sock)

    def cut(self) -> None:
        """Break off every connection."""
        for line in list(self._lines.values()):
            line.writer.transport.abort()

    async def aclose(self) -> None:
        """Stop, and break off every connection."""
        for sock in self._plug:
            sock.close()
        await self._stop_serving()
        for task in list(self._lines):
            task.cancel()
        await asyncio.gather(*self._lines, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        line = self._lines[task] = Line(reader, writer)
        try:
            if self.stage in ("connect", "tls"):
                self.struck.set()
                await CONNECTIONS[self.fault](line)
            else:
                await self._pass_on(line)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError, ValueError):
            pass  # the gateway or the upstream has gone, or the proxy is being closed: this connection is over
        finally:
            del self._lines[task]
            writer.close()

    async def _pass_on(self, line: Line) -> None:
        while (request := await read_request(line.reader)) is not None:
            if request.method == "GET":
                await reply(line.writer, 405)
                continue
            answer = await self._asked(request)
            if (fault := self._fault_for(request)) is not None:
                self.struck.set()
                if not await fault(line, answer):
                    return
            else:
                await line.say(answer.bytes)

    def _fault_for(self, request: Request) -> Fault | None:
        asked = stage_of(request)
        if self.stage == "stream" and asked == "call":
            return STREAMS[self.fault]
        return (ANSWERS | LAGGING)[self.fault] if self.stage == asked else None

    async def _asked(self, request: Request) -> Answer:
        """What the upstream answers."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        try:
            lines = [f"{request.method} {request.path} HTTP/1.1".encode()]
            lines += [f"{name}: {value}".encode("latin-1") for name, value in request.headers.items()]
            writer.write(CRLF.join([*lines, b"", b""]) + request.body)
            return await _read_answer(reader)
        finally:
            writer.close()


def stage_of(request: Request) -> str:
    """At which stage of a session's life the gateway sends such a request."""
    if request.method == "DELETE":
        return "close"
    method = json.loads(request.body).get("method", "")
    return {"initialize": "initialize", "tools/call": "call"}.get(method, "another")


async def _read_answer(reader: asyncio.StreamReader) -> Answer:
    top = await reader.readuntil(CRLF + CRLF)
    low = top.lower()
    if b"transfer-encoding: chunked" in low:
        return Answer(top, await reader.readuntil(CRLF + b"0" + CRLF + CRLF))
    length = low.partition(b"content-length:")[2].partition(CRLF)[0].strip()
    return Answer(top, await reader.readexactly(int(length or b"0")))
