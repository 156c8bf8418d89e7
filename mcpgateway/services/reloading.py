"""Follows the configuration file: a changed one is taken up while the gateway runs, a broken one is refused."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable

from mcpgateway import config, logs, runtime
from mcpgateway.config import Config
from mcpgateway.errors import ConfigError
from mcpgateway.runtime import Sweep

_log = logging.getLogger("mcpgateway.config")

LOOK_SECONDS = 1.0

Stamp = tuple[int, int, int]


class ConfigFile:
    """Looks at the file every second by the sweep, and loads it when it was written and has then come to rest.

    So it does with the files of credentials and keys that it names. `apply` puts a new configuration into force. Whatever is
    wrong with the files, the old one stays in force.
    """

    def __init__(self, path: str, apply: Callable[[Config], Awaitable[None]], sweep: Sweep) -> None:
        self._path = path
        self._named: frozenset[str] = frozenset()
        self._apply = apply
        self._sweep = sweep
        self._loaded = self._seen = self._stamps()
        self._one_at_a_time = asyncio.Lock()
        self.deadline = 0.0

    def __repr__(self) -> str:
        return f"<ConfigFile {self._path} and {len(self._named)} that it names>"

    def follow(self) -> None:
        """Begin to look."""
        runtime.spawn(self.find_named(), "see which files the configuration names")
        self._look_later()

    async def find_named(self) -> None:
        """Find out which files the configuration names. They are followed as well from now on."""
        async with self._one_at_a_time:
            with contextlib.suppress(ConfigError):
                await self._read()

    def _look_later(self) -> None:
        self.deadline = self._sweep.now() + LOOK_SECONDS
        self._sweep.watch(self)

    def expire(self) -> None:
        """Look once."""
        stamps = self._stamps()
        # An editor may write in steps: what changed since the last look is not read yet.
        if stamps == self._seen and stamps != self._loaded and stamps[self._path] is not None:
            self._loaded = stamps
            runtime.spawn(self.reload(), "reload the configuration")
        self._seen = stamps
        self._look_later()

    def _stamps(self) -> dict[str, Stamp | None]:
        return {path: _stamp_of(path) for path in (self._path, *self._named)}

    async def reload(self) -> bool:
        """Load the file now. False if it was refused."""
        async with self._one_at_a_time:
            self._loaded = self._stamps()
            try:
                loaded = await self._read()
                logs.hide(*loaded.secrets)
                await self._apply(loaded)
            except ConfigError as error:
                _log.error("the new configuration is refused, the old one stays in force:\n%s", error)
                return False
            return True

    async def _read(self) -> Config:
        """Raises ConfigError; the files that a refused one names are followed all the same, as the fault may be theirs."""
        files: set[str] = set()
        try:
            # In a thread: a long file would hold up every call.
            return await asyncio.to_thread(config.load, self._path, files=files)
        finally:
            self._named = frozenset(files)
            # What was known before counts as it was then, so that what is written meanwhile is found by the next look.
            stamps = self._stamps()
            self._loaded = {path: self._loaded.get(path, stamp) for path, stamp in stamps.items()}


def _stamp_of(path: str) -> Stamp | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
