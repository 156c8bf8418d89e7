"""A token endpoint in the test's own event loop: it keeps every request, and answers as it is told."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Self
from urllib.parse import parse_qsl

from tests.servers.http11 import Request, read_request, reply


class TokenServer:
    """Gives out `token-1`, `token-2` and so on. Use it as an async context manager.

    Set `expires_in`, or `answer` (status and body) to answer something else; clear `answers` to keep requests waiting.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.asked = asyncio.Event()
        """Set when a request has come."""
        self.answers = asyncio.Event()
        self.answers.set()
        self.answer: tuple[int, bytes] | None = None
        self.expires_in: object = 3600
        self.port = 0
        self._given = 0
        self._server: asyncio.Server | None = None
        self._serving: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    def __repr__(self) -> str:
        return f"<TokenServer {len(self.requests)} requests>"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self.answers.set()
        self._server.close()
        for writer in self._serving.values():
            writer.close()
        async with asyncio.timeout(5):
            await asyncio.gather(*self._serving)
            await self._server.wait_closed()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/token?realm=main"

    def form(self, index: int = -1) -> dict[str, str]:
        """What a request asked for."""
        return dict(parse_qsl(self.requests[index].body.decode(), strict_parsing=True))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving[task] = writer
        try:
            while (request := await read_request(reader)) is not None:
                self.requests.append(request)
                self.asked.set()
                await self.answers.wait()
                await reply(writer, *(self.answer or (200, self._token())))
        except ConnectionError:
            pass  # the client is gone; so is whoever would hear of it
        finally:
            writer.close()
            del self._serving[task]

    def _token(self) -> bytes:
        self._given += 1
        given: dict[str, Any] = {"access_token": f"token-{self._given}", "token_type": "bearer", "expires_in": self.expires_in}
        return json.dumps({name: value for name, value in given.items() if value is not None}).encode()
