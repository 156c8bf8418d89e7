"""A stateful Streamable HTTP server written by hand: it records all that reaches it and misbehaves as it is told.

    python -m tests.servers.raw_stub

It serves on loopback, on the port in PORT or on one of the system's choice, and prints which as one JSON line. Its MCP
endpoint is any path but the two of its control: `GET /_seen` answers what `Seen` holds, `POST /_do` changes `Orders`.
It reads HTTP itself: what it records must not depend on how somebody's server tidies it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from tests.servers.http11 import CRLF, Request, chunk, head, read_request, reply

Message = dict[str, Any]


@dataclass
class Orders:
    """How the server behaves. `POST /_do` sets these by name."""

    answer: str = "json"
    """'json' or 'sse': how requests are answered."""
    raw_result: str | None = None
    """The exact text that every tools/call has as its result."""
    status: int | None = None
    """An HTTP status to answer every MCP request with, `times` times (for ever where that is None)."""
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    times: int | None = None
    hang: bool = False
    """Read requests and never answer."""
    cut: bool = False
    """Close the connection in the middle of each answer."""
    stateful: bool = True
    """Whether initialize gives out session ids."""
    lost_as: str = "404"
    """'404' or '400': how an unknown session is answered."""


@dataclass
class Seen:
    """What reached the server. `requests` has one entry for each HTTP request to the MCP endpoint, in order."""

    connections: int = 0
    initializes: int = 0
    running: int = 0
    """Tool calls that have begun and not ended."""
    streams: int = 0
    """GET streams ever opened."""
    open_streams: int = 0
    deletes: list[str] = field(default_factory=list)
    sessions: dict[str, Message] = field(default_factory=dict)
    """Session id → {requests, initialize: its params, headers: those of its last request}."""
    requests: list[Message] = field(default_factory=list)
    """{http, rpc, session, headers, message}"""


TOOLS: list[Message] = [
    {"name": "echo", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}},
    {"name": "counter", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": False, "idempotentHint": False}},
    {"name": "slow", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": False, "idempotentHint": True}},
    {"name": "whoami", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}},
]


class Stub:
    """The server. Use it as an async context manager, read `seen`, write `orders`; or run this file as a program.

    `start` and `aclose` are for those who end it at another time.
    """

    def __init__(self) -> None:
        self.seen = Seen()
        self.orders = Orders()
        self.port = 0
        self._counts: dict[str, int] = {}
        self._streams: dict[asyncio.StreamWriter, str | None] = {}
        self._handlers: set[asyncio.Task[Any]] = set()
        self._minted = 0

    def __repr__(self) -> str:
        return f"<Stub on {self.port}: {len(self._counts)} sessions, {len(self.seen.requests)} requests>"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def of(self, rpc: str | None) -> list[Message]:
        """The entries of `seen.requests` that are of this method."""
        return [entry for entry in self.seen.requests if entry["rpc"] == rpc]

    def told(self, method: str) -> list[Message]:
        """The params of each notification of that method that has come."""
        return [entry["message"]["params"] for entry in self.of(method)]

    async def start(self, port: int = 0) -> None:
        """Serve on loopback, on any port where `port` is 0."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def aclose(self) -> None:
        """Stop serving and break off every connection."""
        self._server.close()
        handlers = [task for task in self._handlers if task is not asyncio.current_task()]
        for task in handlers:
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)

    def do(self, orders: Message) -> None:
        """Carry out the body of a `POST /_do`: a field of Orders, or forget_sessions, notify (with session), die."""
        for name, value in orders.items():
            match name:
                case "forget_sessions":
                    self._counts.clear()
                    self.orders.lost_as = value
                case "notify":
                    self._notify(value, orders.get("session"))
                case "die":
                    os.kill(os.getpid(), signal.SIGKILL)
                case _ if name in {entry.name for entry in fields(Orders)}:
                    setattr(self.orders, name, value)
                case "session":
                    pass
                case _:
                    raise ValueError(f"no order {name!r}")

    def _notify(self, message: Message, session: str | None) -> None:
        for writer, owner in self._streams.items():
            if session in (None, owner):
                writer.write(chunk(event(message)))

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        self.seen.connections += 1
        try:
            while (request := await read_request(reader)) is not None:
                await self._serve(request, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has gone, or the stub is being closed; either way this connection is over
        finally:
            self._handlers.discard(task)
            writer.close()

    async def _serve(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if request.path == "/_seen":
            await reply(writer, 200, json.dumps(asdict(self.seen)).encode())
        elif request.path == "/_do":
            self.do(json.loads(request.body))
            await reply(writer, 200, b"{}")
        else:
            await self._serve_mcp(request, reader, writer)

    async def _serve_mcp(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        message = json.loads(request.body) if request.body else {}
        self._record(request, message)
        if self.orders.hang:
            await asyncio.Event().wait()
        if self._told_to_fail():
            await reply(writer, self.orders.status or 500, self.orders.body.encode(), self.orders.headers)
        elif self._is_lost(request, message):
            await reply(writer, int(self.orders.lost_as), lost(message.get("id"), self.orders.lost_as))
        elif request.method == "GET":
            await self._stream(request, reader, writer)
        elif request.method == "DELETE":
            self._counts.pop(request.session or "", None)
            self.seen.deletes.append(request.session or "")
            await reply(writer, 200)
        elif "id" in message and "method" in message:
            await self._answer(request, message, writer)
        else:
            await reply(writer, 202)

    def _record(self, request: Request, message: Message) -> None:
        record = {"http": request.method, "rpc": message.get("method"), "session": request.session}
        self.seen.requests.append({**record, "headers": request.headers, "message": message})
        if request.session in self.seen.sessions:
            session = self.seen.sessions[request.session]
            session["requests"] += 1
            session["headers"] = request.headers

    def _told_to_fail(self) -> bool:
        if self.orders.status is None or self.orders.times == 0:
            return False
        if self.orders.times is not None:
            self.orders.times -= 1
        return True

    def _is_lost(self, request: Request, message: Message) -> bool:
        known = request.session in self._counts
        return self.orders.stateful and message.get("method") != "initialize" and not known

    async def _stream(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A GET stream, until the client goes away."""
        self.seen.streams += 1
        self.seen.open_streams += 1
        self._streams[writer] = request.session
        try:
            writer.write(head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"}))
            await writer.drain()
            await reader.read()
        finally:
            del self._streams[writer]
            self.seen.open_streams -= 1

    async def _answer(self, request: Request, message: Message, writer: asyncio.StreamWriter) -> None:
        extra: dict[str, str] = {}
        if message["method"] == "initialize":
            extra = self._open_session(request, message)
        response = await self._response(request, message)
        if self.orders.cut:
            writer.write(head(200, {"content-type": "application/json", "content-length": str(len(response))}))
            writer.write(response[: len(response) // 2])
            raise ConnectionResetError("told to cut")
        if self.orders.answer == "json":
            await reply(writer, 200, response, extra)
        else:
            extra |= {"content-type": "text/event-stream", "transfer-encoding": "chunked"}
            writer.write(head(200, extra) + chunk(b"event: message\r\ndata: %b\r\n\r\n" % response) + chunk(b""))
            await writer.drain()

    def _open_session(self, request: Request, message: Message) -> dict[str, str]:
        self.seen.initializes += 1
        if not self.orders.stateful:
            return {}
        self._minted += 1
        # The port makes it differ from ids of another stub, the process id from those before a restart.
        id = f"stub-{self.port}-{os.getpid()}-{self._minted}"
        self._counts[id] = 0
        self.seen.sessions[id] = {"requests": 0, "initialize": message["params"], "headers": request.headers}
        return {"mcp-session-id": id}

    async def _response(self, request: Request, message: Message) -> bytes:
        """The bytes of the JSON-RPC response, the result in exactly the text that was ordered."""
        id = json.dumps(message["id"])
        result = await self._result(request, message)
        if result is None:
            return f'{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32601,"message":"Method not found"}}}}'.encode()
        return f'{{"jsonrpc":"2.0","id":{id},"result":{result}}}'.encode()

    async def _result(self, request: Request, message: Message) -> str | None:
        params = message.get("params", {})
        match message["method"]:
            case "initialize":
                info = {"name": "raw-stub", "version": "1"}
                revision = params["protocolVersion"]
                return json.dumps({"protocolVersion": revision, "capabilities": {"tools": {}}, "serverInfo": info})
            case "ping":
                return "{}"
            case "tools/list":
                return json.dumps({"tools": TOOLS})
            case "tools/call":
                return await self._tool(request, params["name"], params.get("arguments", {}))
        return None

    async def _tool(self, request: Request, name: str, arguments: Message) -> str:
        self.seen.running += 1
        try:
            text = await self._tool_text(request, name, arguments)
        finally:
            self.seen.running -= 1
        return self.orders.raw_result or json.dumps({"content": [{"type": "text", "text": text}]})

    async def _tool_text(self, request: Request, name: str, arguments: Message) -> str:
        match name:
            case "counter":
                session = request.session or ""
                self._counts[session] = self._counts.get(session, 0) + 1
                return json.dumps({"count": self._counts[session], "session": session})
            case "slow":
                await asyncio.sleep(arguments["ms"] / 1000)
                return f"slept {arguments['ms']} ms"
            case "whoami":
                return json.dumps(request.headers)
        return str(arguments.get("text", ""))


def event(message: Message) -> bytes:
    return b"event: message\r\ndata: " + json.dumps(message).encode() + CRLF + CRLF


def lost(id: object, status: str) -> bytes:
    """The body that goes with an unknown session: 404 as Python servers word it, 400 as those of the TypeScript SDK do."""
    code, text = (-32600, "Session not found") if status == "404" else (-32000, "Bad Request: No valid session ID provided")
    return json.dumps({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": text}}).encode()


async def main() -> None:
    stub = Stub()
    await stub.start(int(os.environ.get("PORT") or 0))
    print(json.dumps({"port": stub.port}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
