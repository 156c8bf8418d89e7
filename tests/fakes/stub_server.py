"""The recording stub of `tests/servers/raw_stub.py`, as a process that a test can ask and command."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import httpx

from tests.fakes.process import Server


class StubServer(Server):
    """The recording stub as a process (see tests/servers/raw_stub.py)."""

    def __init__(self) -> None:
        super().__init__([sys.executable, "-m", "tests.servers.raw_stub"])

    async def seen(self) -> dict[str, Any]:
        """What has reached it so far: the fields of raw_stub.Seen."""
        async with httpx.AsyncClient(trust_env=False) as http:
            found: dict[str, Any] = (await http.get(f"http://127.0.0.1:{self.port}/_seen")).json()
        return found

    async def of(self, rpc: str) -> list[dict[str, Any]]:
        """The requests of this method that have reached it so far, as in raw_stub.Seen."""
        return [request for request in (await self.seen())["requests"] if request["rpc"] == rpc]

    async def until_running(self, calls: int = 1) -> None:
        """Wait until that many tool calls have begun in it and not ended."""
        async with asyncio.timeout(5):
            while (await self.seen())["running"] < calls:
                pass  # asking again takes a round trip; there is nothing to wait for in between

    async def do(self, **orders: Any) -> None:
        """Give it orders: the fields of raw_stub.Orders, and those that raw_stub.Stub.do names."""
        async with httpx.AsyncClient(trust_env=False) as http:
            (await http.post(f"http://127.0.0.1:{self.port}/_do", json=orders)).raise_for_status()
