"""Waiting for what has no event of its own: asked again whenever the loop has done other work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], bool], seconds: float = 15) -> None:
    """Wait until something is true; TimeoutError if it never is."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0)
