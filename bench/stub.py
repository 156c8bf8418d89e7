"""The bench's upstream: an MCP server over Streamable HTTP, with sessions, that costs as little as Python allows.

It counts what reaches it, so that the bench can tell how many requests a call became, and whether a session met more than
one principal. The tool's name says the form and the size of the answer: `json_small`, `sse_10k`, …
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import secrets
import signal
from collections.abc import Callable
from typing import Any, cast

import msgspec

SIZES = {"small": 48, "10k": 10 * 1024, "1m": 1024 * 1024}
"""Characters of text in a result."""
FORMS = ("json", "sse")
TOOLS = tuple(f"{form}_{size}" for form in FORMS for size in SIZES)
CREDENTIAL = "upstream-of-"
"""What stands before the principal's name in the bearer token that the stub is shown."""

NO_ID = msgspec.Raw(b"null")
_LINE = 'a line of "text" as tools give it\n'
_JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n"
_SSE_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
_BIG = 64 * 1024


class Named(msgspec.Struct, gc=False):
    """The parameters that matter here."""

    name: str = ""
    protocolVersion: str = ""


class Request(msgspec.Struct, gc=False):
    """A JSON-RPC request or notification."""

    method: str = ""
    id: msgspec.Raw = NO_ID
    params: Named | None = None


class Session:
    """One session: how often it was called, and by whom."""

    __slots__ = ("calls", "others", "owner")

    def __init__(self, owner: bytes) -> None:
        self.calls = 0
        self.owner = owner
        self.others: set[bytes] = set()

    def __repr__(self) -> str:
        return f"<Session with {self.calls} calls by {1 + len(self.others)} principals>"


class Answer:
    """The answer to one tool, made beforehand but for the id of the request."""

    def __init__(self, form: str, size: str) -> None:
        text = (_LINE * (SIZES[size] // len(_LINE) + 1))[: SIZES[size]]
        result = {"content": [{"type": "text", "text": text}], "isError": False}
        self._after = b',"result":' + msgspec.json.encode(result) + b"}"
        self._before = b'{"jsonrpc":"2.0","id":'
        self._form = form
        if form == "sse":
            self._before = b"event: message\r\ndata: " + self._before
            self._after += b"\r\n\r\n"
        self._length = len(self._before) + len(self._after)

    def __repr__(self) -> str:
        return f"<Answer in {self._form}, {self._length} bytes>"

    def write(self, transport: asyncio.WriteTransport, id: bytes) -> None:
        """Send the whole response."""
        length = self._length + len(id)
        if self._form == "json":
            head, after = _JSON_HEAD % (b"", length), self._after
        else:
            head, after = b"%b%x\r\n" % (_SSE_HEAD, length), self._after + b"\r\n0\r\n\r\n"
        if length > _BIG:  # what is big is not copied once more
            transport.write(head + self._before + id)
            transport.write(after)
        else:
            transport.write(b"%b%b%b%b" % (head, self._before, id, after))


class Book:
    """What has reached the stub so far."""

    def __init__(self) -> None:
        self.requests = 0
        self.nobodys = 0
        """Requests in no principal's name: what the gateway asks for itself, to know how the upstream is."""
        self.initializes = 0
        self.notifications = 0
        self.calls = 0
        self.ended = 0
        self.sessions: dict[bytes, Session] = {}

    def __repr__(self) -> str:
        return f"<Book of {self.requests} requests, {len(self.sessions)} sessions>"

    def as_dict(self) -> dict[str, Any]:
        """All counts, as `/stats` tells them."""
        calls = [session.calls for session in self.sessions.values()]
        return {
            "requests": self.requests,
            "nobodys": self.nobodys,
            "initializes": self.initializes,
            "notifications": self.notifications,
            "calls": self.calls,
            "sessions": len(self.sessions),
            "ended": self.ended,
            "most_calls_per_session": max(calls, default=0),
            "most_principals_per_session": max((1 + len(each.others) for each in self.sessions.values()), default=0),
            "principals": len({session.owner for session in self.sessions.values()}),
        }


class Connection(asyncio.Protocol):
    """One client's connection. Heads are searched, not parsed: a parser would call back for each header."""

    def __init__(self, book: Book, answers: dict[str, Answer]) -> None:
        self._book = book
        self._answers = answers
        self._rest = b""
        self._transport: asyncio.WriteTransport
        self._others: dict[str, Callable[[Request, bytes], None]] = {
            "initialize": self._initialize,
            "tools/list": self._list,
            "ping": lambda request, owner: self._result(request, b"{}"),
        }

    def __repr__(self) -> str:
        return f"<Connection with {len(self._rest)} bytes left over>"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's are no subclass

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        while data:
            end = data.find(b"\r\n\r\n") + 4
            if end < 4:
                break
            head = data[:end]
            lower = head.lower()
            whole = end + int(_field(head, lower, b"\r\ncontent-length:") or 0)
            if len(data) < whole:
                break
            self._serve(head, lower, data[end:whole])
            data = data[whole:]
        self._rest = data

    def _serve(self, head: bytes, lower: bytes, body: bytes) -> None:
        if head.startswith(b"POST"):
            self._book.requests += 1
            self._post(head, lower, body)
        elif head.startswith(b"GET /stats"):
            text = json.dumps(self._book.as_dict()).encode()
            self._transport.write(_JSON_HEAD % (b"", len(text)) + text)
        elif head.startswith(b"DELETE"):
            self._book.requests += 1
            self._book.ended += self._book.sessions.pop(_session_id(head, lower), None) is not None
            self._refuse(b"204 No Content")
        else:
            self._book.requests += 1
            self._refuse(b"405 Method Not Allowed")

    def _post(self, head: bytes, lower: bytes, body: bytes) -> None:
        request = _decode(body)
        owner = _field(head, lower, b"\r\nauthorization:")
        if not owner:
            self._book.nobodys += 1
        if request.method == "initialize":
            self._initialize(request, owner)
            return
        session = self._book.sessions.get(_session_id(head, lower))
        if session is None:
            self._refuse(b"404 Not Found")
        elif request.method == "tools/call":
            self._call(request, session, owner)
        elif request.id is NO_ID:
            self._book.notifications += 1
            self._transport.write(_ACCEPTED)
        else:
            self._others.get(request.method, self._unknown)(request, owner)

    def _call(self, request: Request, session: Session, owner: bytes) -> None:
        self._book.calls += 1
        session.calls += 1
        if owner != session.owner:
            session.others.add(owner)
        answer = self._answers.get(request.params.name if request.params is not None else "")
        if answer is None:
            self._unknown(request, owner)
        else:
            answer.write(self._transport, bytes(request.id))

    def _initialize(self, request: Request, owner: bytes) -> None:
        self._book.initializes += 1
        id = secrets.token_hex(16).encode()
        self._book.sessions[id] = Session(owner)
        welcome = {
            "protocolVersion": request.params.protocolVersion if request.params is not None else "2025-11-25",
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "bench", "version": "1"},
        }
        self._result(request, msgspec.json.encode(welcome), b"Mcp-Session-Id: %b\r\n" % id)

    def _list(self, request: Request, owner: bytes) -> None:
        tools = [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]
        self._result(request, msgspec.json.encode({"tools": tools}))

    def _unknown(self, request: Request, owner: bytes) -> None:
        self._message(request, b'"error":{"code":-32601,"message":"the bench knows no such thing"}')

    def _result(self, request: Request, result: bytes, headers: bytes = b"") -> None:
        self._message(request, b'"result":' + result, headers)

    def _message(self, request: Request, outcome: bytes, headers: bytes = b"") -> None:
        body = b'{"jsonrpc":"2.0","id":%b,%b}' % (bytes(request.id), outcome)
        self._transport.write(_JSON_HEAD % (headers, len(body)) + body)

    def _refuse(self, status: bytes) -> None:
        self._transport.write(b"HTTP/1.1 %b\r\nContent-Length: 0\r\n\r\n" % status)


_decode = msgspec.json.Decoder(Request).decode


def _session_id(head: bytes, lower: bytes) -> bytes:
    return _field(head, lower, b"\r\nmcp-session-id:")


def _field(head: bytes, lower: bytes, name: bytes) -> bytes:
    at = lower.find(name)
    if at < 0:
        return b""
    at += len(name)
    return head[at : head.find(b"\r\n", at)].strip()


async def listening(ports: int) -> list[asyncio.Server]:
    """A stub on that many ports of the system's choice, as if it were as many servers. One `/stats` counts them all."""
    book = Book()
    answers = {f"{form}_{size}": Answer(form, size) for form, size in itertools.product(FORMS, SIZES)}
    loop = asyncio.get_running_loop()
    return [await loop.create_server(lambda: Connection(book, answers), "127.0.0.1", 0, backlog=1024) for _ in range(ports)]


def port_of(server: asyncio.Server) -> int:
    """The port that a server listens on."""
    port: int = server.sockets[0].getsockname()[1]
    return port


async def _serve(ports: int) -> None:
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    servers = await listening(ports)
    gc.disable()  # nothing here makes cycles, and a collection would be measured as somebody's latency
    print(json.dumps({"ports": [port_of(server) for server in servers]}), flush=True)
    await over.wait()


def main() -> None:
    """Serve until SIGTERM, having said on which ports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ports", type=int, default=1)
    ports = parser.parse_args().ports
    try:
        import uvloop
    except ImportError:
        asyncio.run(_serve(ports))
    else:
        uvloop.run(_serve(ports))


if __name__ == "__main__":
    main()
