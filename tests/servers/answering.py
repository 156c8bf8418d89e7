"""A small HTTP server in the test's own loop, to be given what it answers."""

from __future__ import annotations

import asyncio
import ssl
from typing import Self

from tests.servers.http11 import Request, read_request


class AnsweringServer:
    """Serves on loopback. A subclass says in `_respond` what each request gets.

    Use it as an async context manager: in the end no connection is left.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.port = 0
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._serving: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self.port}, {len(self._serving)} connections>"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._serving.values():
            writer.close()
        async with asyncio.timeout(5):
            await asyncio.gather(*self._serving)
            await self._server.wait_closed()

    async def _respond(self, request: Request, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving[task] = writer
        try:
            while (request := await read_request(reader)) is not None:
                await self._respond(request, writer)
        except ConnectionError:
            pass  # the client is gone; so is whoever would hear of it
        finally:
            writer.close()
            del self._serving[task]
