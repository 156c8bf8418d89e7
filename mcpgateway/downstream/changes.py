"""Changed lists, which clients are told of a moment later: servers that change several things often say so each time."""

from __future__ import annotations

from collections.abc import Callable

from mcpgateway.runtime import Sweep

DEBOUNCE_SECONDS = 0.05


class Changes:
    """Lists, by kind, whose change is yet to be told one client. `say` is given each kind once, when the moment has passed."""

    def __init__(self, say: Callable[[str], None], sweep: Sweep) -> None:
        self._say = say
        self._sweep = sweep
        self._kinds: set[str] = set()
        self.deadline = 0.0

    def __repr__(self) -> str:
        return f"<Changes of {', '.join(sorted(self._kinds)) or 'nothing'}>"

    def add(self, kind: str) -> None:
        """A list of this kind has changed. The first to be added begins the moment; none prolongs it."""
        if not self._kinds:
            self.deadline = self._sweep.now() + DEBOUNCE_SECONDS
            self._sweep.watch(self)
        self._kinds.add(kind)

    def expire(self) -> None:
        kinds, self._kinds = self._kinds, set()
        for kind in sorted(kinds):
            self._say(kind)
