"""The reaper of the session pool: it closes what is old or idle, without traffic."""

from __future__ import annotations

import random
from collections.abc import Callable

from mcpgateway import runtime

REAP_SECONDS = 5.0


class Reaper:
    """Comes round by the sweep, with no task and no timer of its own. `reap` says whether there is a reason to come again."""

    def __init__(self, sweep: runtime.Sweep, reap: Callable[[], bool]) -> None:
        self._sweep = sweep
        self._reap = reap
        self._running = False
        self.deadline = 0.0

    def __repr__(self) -> str:
        return f"<Reaper {'running' if self._running else 'at rest'}>"

    def start(self) -> None:
        """Come round from now on."""
        if not self._running:
            self._running = True
            self._again()

    def stop(self) -> None:
        """Come round no more."""
        self._running = False
        self._sweep.forget(self)

    def _again(self) -> None:
        self.deadline = self._sweep.now() + REAP_SECONDS * random.uniform(0.8, 1.2)  # noqa: S311
        self._sweep.watch(self)

    def expire(self) -> None:
        """Reap. The sweep calls this."""
        self._running = self._reap()
        if self._running:
            self._again()
