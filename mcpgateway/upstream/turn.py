"""Work that several want done at the same time, and that one of them does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

PATIENCE_SECONDS = 5.0


class Turn:
    """Lets the first one through at once, and the others when that one is done, however it ended. None waits twice, and none
    for long: what holds up the first may be its affair alone."""

    def __init__(self) -> None:
        self._over: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<Turn {'free' if self._over is None else 'taken'}>"

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Enter as the first, or after it. What is then still to be done, all who waited do at the same time."""
        if self._over is not None:
            await asyncio.wait([self._over], timeout=PATIENCE_SECONDS)
            yield
            return
        over = self._over = asyncio.get_running_loop().create_future()
        try:
            yield
        finally:
            self._over = None
            over.set_result(None)
