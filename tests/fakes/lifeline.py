"""How a test learns that processes have begun, and that all of them are gone, whoever started them."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any, Self


class Lifeline:
    """A FIFO that processes hold open for writing: reading it ends when all of them are gone, not before.

    Each says `begun` there when it has begun. Use it as an async context manager.
    """

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._reader = asyncio.StreamReader()
        os.mkfifo(path)

    def __repr__(self) -> str:
        return f"<Lifeline {self.path}>"

    async def __aenter__(self) -> Self:
        # Without waiting for a writer, so that a test that fails cannot hang here.
        pipe = os.fdopen(os.open(self.path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0)
        protocol = asyncio.StreamReaderProtocol(self._reader)
        self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, pipe)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._transport.close()

    def server(self, script: str) -> dict[str, Any]:
        """The configuration of a stdio server that is this shell script, which finds the FIFO in $FIFO, and $PYTHON."""
        return {"command": "sh", "args": ["-c", script], "env": {"FIFO": self.path, "PYTHON": sys.executable}}

    async def begun(self) -> None:
        """Wait until one process more has begun."""
        async with asyncio.timeout(20):
            await self._reader.readline()

    async def all_gone(self) -> bytes:
        """Wait until nobody holds it any more. What was said meanwhile, and before, that no `begun` has read."""
        async with asyncio.timeout(20):
            return await self._reader.read()
