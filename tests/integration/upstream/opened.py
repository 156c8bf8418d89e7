"""Sessions with real servers, closed when a test is over, and what comes of calls in them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from mcpgateway import runtime
from mcpgateway.protocol.call import Call
from mcpgateway.runtime import Sweep
from mcpgateway.upstream.base import Hello, Target, UpstreamSession
from mcpgateway.upstream.open import Opener
from tests.fakes.peers import Ear
from tests.fakes.until import until


class Sessions:
    """Opens sessions with upstreams of any kind. Once it is closed nothing is left of them."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.opener = Opener(sweep)
        self._opened: list[UpstreamSession] = []

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self._opened)} sessions>"

    async def open_at(self, target: Target, hello: Hello, headers: bytes = b"") -> UpstreamSession:
        async with asyncio.timeout(30):
            self._opened.append(await self.opener.open(target, hello, headers))
        return self._opened[-1]

    async def close(self) -> None:
        async with asyncio.timeout(20):
            await asyncio.gather(*(session.aclose() for session in self._opened))
            await self.opener.aclose()
        await until(lambda: not runtime.running_tasks())
        assert len(self.sweep) == 0
        self.sweep.close()


async def result_of(session: UpstreamSession, asked: Call, channel: Ear | None = None) -> Any:
    """What comes of a call."""
    async with asyncio.timeout(20):
        return json.loads(await session.request(asked, channel or Ear()))


async def text(session: UpstreamSession, asked: Call, channel: Ear | None = None) -> str:
    """What a tool says."""
    return str((await result_of(session, asked, channel))["content"][0]["text"])
