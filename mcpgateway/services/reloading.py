"""Follows the configuration file: a changed one is taken up while the gateway runs, a broken one is refused."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable

from mcpgateway import config, runtime
from mcpgateway.config import Config
from mcpgateway.errors import ConfigError
from mcpgateway.runtime import Sweep

_log = logging.getLogger("mcpgateway.config")

LOOK_SECONDS = 1.0

Stamp = tuple[int, int, int]


class ConfigFile:
    """Looks at the file every second by the sweep, and loads it when it was written and has then come to rest.

    `apply` puts a new configuration into force. Whatever is wrong with the file, the old one stays in force.
    """

    def __init__(self, path: str, apply: Callable[[Config], Awaitable[None]], sweep: Sweep) -> None:
        self._path = path
        self._apply = apply
        self._sweep = sweep
        self._loaded = self._seen = self._stamp()
        self._one_at_a_time = asyncio.Lock()
        self.deadline = 0.0

    def __repr__(self) -> str:
        return f"<ConfigFile {self._path}>"

    def follow(self) -> None:
        """Begin to look."""
        self.deadline = self._sweep.now() + LOOK_SECONDS
        self._sweep.watch(self)

    def expire(self) -> None:
        """Look once."""
        stamp = self._stamp()
        # An editor may write in steps: what changed since the last look is not read yet.
        if stamp is not None and stamp == self._seen and stamp != self._loaded:
            self._loaded = stamp
            runtime.spawn(self.reload(), "reload the configuration")
        self._seen = stamp
        self.follow()

    def _stamp(self) -> Stamp | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    async def reload(self) -> bool:
        """Load the file now. False if it was refused."""
        async with self._one_at_a_time:
            try:
                loaded = config.load(self._path)
            except ConfigError as error:
                _log.error("the new configuration is refused, the old one stays in force:\n%s", error)
                return False
            await self._apply(loaded)
            return True
