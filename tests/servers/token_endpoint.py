"""A token endpoint in the test's own event loop: it keeps every request, and answers as it is told."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import parse_qsl

from tests.servers.answering import AnsweringServer
from tests.servers.http11 import Request, reply


class TokenServer(AnsweringServer):
    """Gives out `token-1`, `token-2` and so on.

    Set `expires_in`, or `answer` (status and body) to answer something else; clear `answers` to keep requests waiting.
    """

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Request] = []
        self.asked = asyncio.Event()
        """Set when a request has come."""
        self.answers = asyncio.Event()
        self.answers.set()
        self.answer: tuple[int, bytes] | None = None
        self.expires_in: object = 3600
        self._given = 0

    def __repr__(self) -> str:
        return f"<TokenServer {len(self.requests)} requests>"

    async def __aexit__(self, *exc: object) -> None:
        self.answers.set()
        await super().__aexit__(*exc)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/token?realm=main"

    def form(self, index: int = -1) -> dict[str, str]:
        """What a request asked for."""
        return dict(parse_qsl(self.requests[index].body.decode(), strict_parsing=True))

    async def _respond(self, request: Request, writer: asyncio.StreamWriter) -> None:
        self.requests.append(request)
        self.asked.set()
        await self.answers.wait()
        await reply(writer, *(self.answer or (200, self._token())))

    def _token(self) -> bytes:
        self._given += 1
        given: dict[str, Any] = {"access_token": f"token-{self._given}", "token_type": "bearer", "expires_in": self.expires_in}
        return json.dumps({name: value for name, value in given.items() if value is not None}).encode()
