"""Who waits for a place that only others can free."""

from __future__ import annotations

from collections.abc import Iterator

from mcpgateway.pool.key import PoolKey, place_of
from mcpgateway.pool.shelf import Shelf

Gate = tuple[str, str]
"""A limit that is full: the scope, and whose it is."""


class Blocked:
    """Shelves with callers in line, by the limit that holds them up. First come, first served across shelves."""

    def __init__(self) -> None:
        self.gate_of: dict[Shelf, Gate] = {}
        self._behind: dict[Gate, dict[Shelf, None]] = {}

    def __repr__(self) -> str:
        return f"<Blocked {len(self.gate_of)} shelves at {len(self._behind)} gates>"

    def put(self, shelf: Shelf, scope: str) -> None:
        """The shelf is held up by `scope`, and by nothing else."""
        gate = _gate(shelf.key, scope)
        if self.gate_of.get(shelf) != gate:
            self.drop(shelf)
            self.gate_of[shelf] = gate
            self._behind.setdefault(gate, {})[shelf] = None

    def drop(self, shelf: Shelf) -> None:
        """The shelf is not held up any more."""
        gate = self.gate_of.pop(shelf, None)
        if gate is not None:
            del self._behind[gate][shelf]
            if not self._behind[gate]:
                del self._behind[gate]

    def next_for_place(self, key: PoolKey, tried: set[str]) -> Shelf | None:
        """Whose turn it is when a place of `key` came free, leaving out the scopes that were `tried` in vain."""
        return min(self._helped_by(key, tried), key=_turn, default=None)

    def next_for_eviction(self, key: PoolKey) -> Shelf | None:
        """Whose turn it is when a session of `key` may be closed to make room."""
        return min((shelf for shelf in self._helped_by(key, set()) if shelf.wanted() > shelf.evicting), key=_turn, default=None)

    def _helped_by(self, key: PoolKey, tried: set[str]) -> Iterator[Shelf]:
        for scope in ("total", "upstream", "principal"):
            if scope not in tried:
                yield from self._behind.get(_gate(key, scope), ())


def _gate(key: PoolKey, scope: str) -> Gate:
    if scope == "upstream":
        return scope, place_of(key)
    return scope, key.user if scope == "principal" else ""


def _turn(shelf: Shelf) -> float:
    waiter = shelf.first_waiter()
    return waiter.turn if waiter is not None else float("inf")
