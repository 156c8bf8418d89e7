"""A small HTTP client for many principals: kept-alive connections over plain streams, and answers read as they come.

Ordinary client libraries cost a millisecond a request, which would be most of what a soak measures.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

Message = dict[str, Any]


class Connection:
    """One socket to the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def head(self) -> tuple[int, dict[str, str]]:
        """The status and headers of the next response. Raises asyncio.IncompleteReadError, ConnectionError."""
        first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip().split("\r\n")
        pairs = (line.partition(":") for line in lines)
        return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}


class Wire:
    """The connections of one principal. Whoever makes it calls `aclose`."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()

    def __repr__(self) -> str:
        return f"<Wire {len(self._open)} connections, {len(self._idle)} idle>"

    async def send(self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> Answer:
        """Send a request; its answer from the head on."""
        connection = self._idle.pop() if self._idle else await self._connect()
        lines = [f"{method} {path} HTTP/1.1", f"host: 127.0.0.1:{self._port}", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        connection.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        try:
            status, received = await connection.head()
        except BaseException:
            self.cut(connection)
            raise
        return Answer(self, connection, status, received)

    async def _connect(self) -> Connection:
        connection = Connection(*await asyncio.open_connection("127.0.0.1", self._port))
        self._open.add(connection)
        return connection

    def keep(self, connection: Connection) -> None:
        self._idle.append(connection)

    def cut(self, connection: Connection) -> None:
        """Break a connection off, as a client that crashes would."""
        self._open.discard(connection)
        connection.writer.transport.abort()

    async def aclose(self) -> None:
        """Close all connections."""
        for connection in tuple(self._open):
            self.cut(connection)
        self._idle.clear()


class Answer:
    """One response. It is read to its end, or left."""

    def __init__(self, wire: Wire, connection: Connection, status: int, headers: dict[str, str]) -> None:
        self.status = status
        self.headers = headers
        self._wire = wire
        self._connection = connection
        self._over = False

    def __repr__(self) -> str:
        return f"<Answer {self.status} {self.headers.get('content-type', '')}>"

    async def messages(self) -> AsyncIterator[Message]:
        """What is in it, while it comes. A caller that stops early calls `leave`."""
        if self.headers.get("content-type", "") == "text/event-stream":
            async for message in self._events():
                yield message
        else:
            body = await self._connection.reader.readexactly(int(self.headers.get("content-length", 0)))
            if body:
                yield json.loads(body)
        if self.headers.get("connection") == "close":
            self.leave()
        elif not self._over:
            self._over = True
            self._wire.keep(self._connection)

    async def read(self) -> list[Message]:
        """All of it."""
        try:
            return [message async for message in self.messages()]
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """Go away in the middle of it. One that was read to its end has nothing to leave."""
        if not self._over:
            self._over = True
            self._wire.cut(self._connection)

    async def _events(self) -> AsyncIterator[Message]:
        rest = b""
        while piece := await self._chunk():
            *events, rest = (rest + piece).replace(b"\r\n", b"\n").split(b"\n\n")
            for event in events:
                data = [line[5:] for line in event.split(b"\n") if line.startswith(b"data:")]
                if data:
                    yield json.loads(b"\n".join(data))

    async def _chunk(self) -> bytes:
        reader = self._connection.reader
        size = int(await reader.readuntil(b"\r\n"), 16)
        return (await reader.readexactly(size + 2))[:-2]
