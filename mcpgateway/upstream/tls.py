"""TLS contexts for connections to upstreams: one for all with the same settings, made anew when its files change."""

from __future__ import annotations

import copy
import logging
import os
import ssl
from weakref import WeakValueDictionary

from mcpgateway.config.tls import client_context
from mcpgateway.config.values import TlsConfig
from mcpgateway.errors import ConfigError
from mcpgateway.runtime import Clock

_log = logging.getLogger("mcpgateway.tls")

LOOK_SECONDS = 2.0
"""How often the files are looked at, at most, and only while someone asks."""

Stamp = tuple[tuple[int, int, int] | None, ...]


class TlsContexts:
    """Contexts by their settings. Building one takes tens of milliseconds and most of a megabyte, so they are shared.

    One is dropped when another is made and nobody holds the settings any more with which it was asked for.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._now = (clock or Clock()).now
        self._kept: dict[TlsConfig | None, _Kept] = {}
        self._asked_with: WeakValueDictionary[int, TlsConfig] = WeakValueDictionary()

    def __repr__(self) -> str:
        return f"<TlsContexts {len(self._kept)}>"

    def context(self, settings: TlsConfig | None) -> ssl.SSLContext:
        """The context for these settings, None for the system's. Raises ConfigError where none could ever be made."""
        return self._current(settings).context

    def generation(self, settings: TlsConfig | None) -> int:
        """Goes up with each new context. Raises ConfigError as `context` does."""
        return self._current(settings).generation

    def _current(self, settings: TlsConfig | None) -> _Kept:
        kept = self._kept.get(settings)
        if settings is not None:
            self._asked_with[id(settings)] = settings
        if kept is None:
            self._drop_unused()
            # A copy, or what is kept here would itself be what holds the settings.
            own = copy.copy(settings)
            kept = self._kept[own] = _Kept(own, self._now())
        elif settings is not None and (now := self._now()) >= kept.look_at:
            kept.look(now)
        return kept

    def _drop_unused(self) -> None:
        for settings in self._kept.keys() - {None, *self._asked_with.values()}:
            del self._kept[settings]


class _Kept:
    """One context, and the state of the files that it was made of."""

    def __init__(self, settings: TlsConfig | None, now: float) -> None:
        self._settings = settings
        # Looked at before they are read: what is written meanwhile is found by the next look.
        self._stamp = _stamp(settings)
        self.context = client_context(settings)
        self.generation = 1
        self.look_at = now + LOOK_SECONDS

    def __repr__(self) -> str:
        return f"<_Kept {self._settings!r} generation {self.generation}>"

    def look(self, now: float) -> None:
        """Make a new context if the files changed. While they are no use, the old one stays."""
        self.look_at = now + LOOK_SECONDS
        stamp = _stamp(self._settings)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self.context = client_context(self._settings)
        except ConfigError as error:
            _log.warning("changed TLS files cannot be used, the old ones stay in force: %s", error)
            return
        self.generation += 1
        _log.info("TLS files changed: %r is in its generation %d", self._settings, self.generation)


def _stamp(settings: TlsConfig | None) -> Stamp:
    paths = (settings.ca, settings.cert, settings.key) if settings is not None else ()
    return tuple(_stamp_of(path) for path in paths if path)


def _stamp_of(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
