"""Limits are reservations, made before a session is opened and given back when it is gone."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from mcpgateway.pool.key import PoolKey, place_of


class Limits(NamedTuple):
    """How many sessions may exist at once, idle ones and those being opened included."""

    total: int = 10_000
    per_upstream: int = 1_000
    per_principal: int = 100


class Reservations:
    """Counts the places that are taken. What is taken is given back exactly once: never fewer than zero, never too many."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.total = 0
        self._upstreams: Counter[str] = Counter()
        self._principals: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Reservations {self.total}/{self.limits.total}, {len(self._principals)} principals>"

    def full(self, key: PoolKey) -> str | None:
        """The scope that has no place left for `key`: 'total', 'upstream', 'principal', or None."""
        if self.total >= self.limits.total:
            return "total"
        if self._upstreams[place_of(key)] >= self.limits.per_upstream:
            return "upstream"
        if self._principals[key.user] >= self.limits.per_principal:
            return "principal"
        return None

    def take(self, key: PoolKey) -> None:
        self.total += 1
        self._upstreams[place_of(key)] += 1
        self._principals[key.user] += 1

    def give_back(self, key: PoolKey) -> None:
        self.total -= 1
        for counter, name in ((self._upstreams, place_of(key)), (self._principals, key.user)):
            counter[name] -= 1
            if not counter[name]:
                del counter[name]

    def of_upstream(self, name: str) -> int:
        return self._upstreams.get(name, 0)
