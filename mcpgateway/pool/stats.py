"""The pool's figures."""

from __future__ import annotations


class PoolStats:
    """Counters since the pool began. Plain integers: counting costs nothing on the path."""

    __slots__ = ("closed", "evicted", "failed", "hits", "lost", "misses", "opened", "probes", "timeouts", "waits")

    def __init__(self) -> None:
        self.hits = 0
        self.misses = 0
        self.waits = 0
        self.opened = 0
        self.failed = 0
        self.closed = 0
        self.evicted = 0
        self.lost = 0
        self.probes = 0
        self.timeouts = 0

    def __repr__(self) -> str:
        return f"<PoolStats {self.as_dict()}>"

    def as_dict(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in self.__slots__}
