"""A server on loopback that sends exactly the bytes that a test tells it to, in the test's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

from tests.servers.http11 import Request, read_request


class Talk:
    """One connection, as the server sees it. Reading or writing after the client has gone ends the script quietly."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self._reader = reader
        self._writer = writer
        self.number = number

    def __repr__(self) -> str:
        return f"<Talk {self.number}>"

    async def request(self) -> Request:
        """The next request. Raises ConnectionResetError where there is none."""
        request = await read_request(self._reader)
        if request is None:
            raise ConnectionResetError("the client has gone")
        return request

    async def say(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def gone(self) -> None:
        """Wait until the client has closed the connection."""
        while await self._reader.read(65536):
            pass

    def end_now(self) -> None:
        """End the connection before the loop takes another turn, so that the client cannot have seen it."""
        with socket.socket(fileno=os.dup(self._writer.get_extra_info("socket").fileno())) as same:
            same.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """Break the connection off at once."""
        self._writer.transport.abort()


Script = Callable[[Talk], Awaitable[None]]


class ScriptedServer:
    """Plays `script` on every connection, and closes it when the script ends."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._playing: set[asyncio.Task[None]] = set()
        self.connections = 0
        self.port = 0

    def __repr__(self) -> str:
        return f"<ScriptedServer on {self.port}, {self.connections} connections so far>"

    @property
    def open_connections(self) -> int:
        return len(self._playing)

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._playing.add(task)
        self.connections += 1
        try:
            await self._script(Talk(reader, writer, self.connections))
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has gone, or the test is over
        finally:
            self._playing.discard(task)
            writer.close()

    async def stop(self) -> None:
        self._server.close()
        playing = list(self._playing)
        for task in playing:
            task.cancel()
        await asyncio.gather(*playing, return_exceptions=True)


@contextlib.asynccontextmanager
async def scripted(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[ScriptedServer]:
    """A server that plays `script`, for the length of the block."""
    server = ScriptedServer(script)
    await server.start(tls)
    try:
        yield server
    finally:
        await server.stop()


def once(*pieces: bytes) -> Script:
    """Answers one request with these pieces, one after the other, and closes the connection."""

    async def play(talk: Talk) -> None:
        await talk.request()
        for piece in pieces:
            await talk.say(piece)

    return play


def answer(body: bytes = b"{}", *headers: bytes, status: bytes = b"200 OK") -> bytes:
    """A whole response with a length, of JSON where `headers` say nothing else."""
    lines = [b"Content-Type: application/json", b"Content-Length: %d" % len(body), *headers]
    return b"HTTP/1.1 %b\r\n%b\r\n\r\n%b" % (status, b"\r\n".join(lines), body)


EVENT_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
