"""Server-sent events: an incremental decoder and an encoder (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import re

from mcpgateway.errors import GatewayError

# Only what is an answer beyond doubt, in the two ways in which servers begin one.
_lone_answer = re.compile(
    rb"""(?:event:\ ?message\r?\n)?
         data:\ ?(?=\{(?:"jsonrpc":\ ?"2\.0",\ ?"id":\ ?\d+,\ ?)?"result":)""",
    re.VERBOSE,
)

KEEPALIVE = b": keep-alive\n\n"


class EventTooLarge(GatewayError):
    """A server-sent event grew over the limit."""


class Event:
    """One event: its type (`message` unless named), its data, its id and the reconnection time if it set one."""

    __slots__ = ("data", "id", "retry_ms", "type")

    def __init__(self, type: bytes, data: bytes, id: bytes | None, retry_ms: int | None) -> None:
        self.type = type
        self.data = data
        self.id = id
        self.retry_ms = retry_ms

    def __repr__(self) -> str:
        return f"<Event {self.type.decode('utf-8', 'replace')} id={self.id!r} {len(self.data)} bytes>"


class Decoder:
    """Turns chunks of a stream, cut anywhere, into events.

    Events without data but with an id or a retry time are given too (2025-11-25 primes streams with them); comments are not.
    """

    def __init__(self, max_event_bytes: int = 64 * 1024 * 1024) -> None:
        self._max = max_event_bytes
        self._buffer = bytearray()
        self._scanned = 0
        self._newline = -1
        self._started = False
        self._reset()

    def __repr__(self) -> str:
        return f"<sse.Decoder {len(self._buffer)} bytes buffered>"

    def _reset(self) -> None:
        self._type = b""
        self._data: list[bytes] = []
        self._size = 0
        self._id: bytes | None = None
        self._retry: int | None = None
        self._touched = False

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that `chunk` completes, in order. Raises EventTooLarge."""
        buffer = self._buffer
        buffer += chunk
        if not self._started:
            self._skip_byte_order_mark()
        self._newline = -1
        events: list[Event] = []
        start = 0
        while (end := self._line_end(start)) >= 0:
            line = bytes(buffer[start:end])
            start = end + (2 if buffer[end : end + 2] == b"\r\n" else 1)
            self._scanned = start
            self._line(line, events)
        if start:
            del buffer[:start]
            self._scanned -= start
        if len(buffer) + self._size > self._max:
            raise EventTooLarge(f"a server-sent event is larger than {self._max} bytes")
        return events

    def _skip_byte_order_mark(self) -> None:
        buffer = self._buffer
        if buffer[:3] == b"\xef\xbb\xbf":
            del buffer[:3]
            self._scanned = 0
            self._started = True
        elif len(buffer) >= 3 or not b"\xef\xbb\xbf".startswith(buffer):
            self._started = True

    def _line_end(self, start: int) -> int:
        """Where the line at `start` ends, or -1. A carriage return at the very end waits for what follows it."""
        buffer = self._buffer
        begin = max(start, self._scanned)
        # Found once and kept: where lines end in bare returns, each search would else go to the next line feed or the end.
        if self._newline < begin:
            found = buffer.find(b"\n", begin)
            self._newline = found if found >= 0 else len(buffer)
        newline = self._newline
        cr = buffer.find(b"\r", begin, newline)
        if cr >= 0:
            if cr + 1 == len(buffer):
                self._scanned = cr
                return -1
            return cr
        if newline == len(buffer):
            self._scanned = newline
            return -1
        return newline

    def _line(self, line: bytes, events: list[Event]) -> None:
        if not line:
            if self._touched:
                events.append(Event(self._type or b"message", b"\n".join(self._data), self._id, self._retry))
            self._reset()
            return
        name, colon, value = line.partition(b":")
        if not name and colon:
            return
        if value[:1] == b" ":
            value = value[1:]
        self._field(name, value)

    def _field(self, name: bytes, value: bytes) -> None:
        if name == b"data":
            self._data.append(value)
            self._size += len(value) + 1  # an empty line of data takes room too
            self._touched = True
        elif name == b"event":
            self._type = value
        elif name == b"id" and b"\0" not in value:
            self._id = value
            self._touched = True
        elif name == b"retry" and value.isdigit() and len(value) < 10:
            self._retry = int(value)
            self._touched = True


def lone_answer(stream: bytes) -> bytes | None:
    """The data of a whole stream that consists of one JSON-RPC result and nothing else, without an id; None for all others.

    Most answered calls look like this: what it says is then had without decoding it as a stream.
    """
    begun = _lone_answer.match(stream)
    if begun is None or not stream.endswith((b"\n\n", b"\r\n\r\n")):
        return None
    data = stream[begun.end() : -4 if stream.endswith(b"\r\n\r\n") else -2]
    # Another line is another field, or the rest of the data. Looked for like this, for a pattern takes long over large ones.
    return data if b"\n" not in data and b"\r" not in data else None


def encode(data: bytes, *, event: bytes = b"message", id: bytes | None = None) -> bytes:
    """One event. `data` is JSON, which holds no bare line breaks after encoding; any it does hold are split over lines."""
    head = b"event: " + event + b"\n" + (b"id: " + id + b"\n" if id is not None else b"")
    if b"\n" in data or b"\r" in data:
        data = b"\ndata: ".join(data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"))
    return head + b"data: " + data + b"\n\n"
