"""The recording stub with one tool more, `wait`, which ends when the test says so."""

from __future__ import annotations

import asyncio

from tests.servers.http11 import Request
from tests.servers.raw_stub import Message, Stub


class WaitingStub(Stub):
    """Set `release` to let every `wait` end, now and later."""

    def __init__(self) -> None:
        super().__init__()
        self.release = asyncio.Event()

    async def _tool_text(self, request: Request, name: str, arguments: Message) -> str:
        if name == "wait":
            await self.release.wait()
            return "released"
        return await super()._tool_text(request, name, arguments)
