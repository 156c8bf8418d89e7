"""The sessions of one key, and who waits for one."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from mcpgateway.pool.key import PoolKey, Terms
from mcpgateway.pool.session import Lease, PooledSession


class Waiter(Protocol):
    """Somebody who wants a lease. `done` is true once it was served or gave up."""

    def done(self) -> bool: ...

    def grant(self, lease: Lease) -> None: ...

    def refuse(self, error: BaseException) -> None: ...


class Shelf:
    """Holds the sessions of one key. Idle ones are taken last in first out, so that spares of a burst age out."""

    __slots__ = ("busy", "idle", "key", "opening", "terms", "waiters")

    def __init__(self, key: PoolKey, terms: Terms) -> None:
        self.key = key
        self.terms = terms
        self.idle: list[PooledSession] = []
        self.busy: set[PooledSession] = set()
        self.opening = 0
        self.waiters: deque[Waiter] = deque()

    def __repr__(self) -> str:
        return f"<Shelf {len(self.busy)} leased, {len(self.idle)} idle, {self.opening} opening, {len(self.waiters)} waiting>"

    @property
    def size(self) -> int:
        """Sessions that take a place of this key: leased, idle and opening."""
        return len(self.busy) + len(self.idle) + self.opening

    @property
    def empty(self) -> bool:
        return not (self.idle or self.busy or self.opening or self.waiters)

    def sharable(self) -> PooledSession | None:
        """A leased session that takes one more lease, where this key's sessions are shared among its calls."""
        if not self.terms.exclusive:
            for session in self.busy:
                if not session.retired and session.session.closed is not True:
                    return session
        return None

    def first_waiter(self) -> Waiter | None:
        """The first in line who has not given up. Those who have are dropped from the line."""
        while self.waiters:
            if not self.waiters[0].done():
                return self.waiters[0]
            self.waiters.popleft()
        return None

    def wanted(self) -> int:
        """How many more sessions the waiters need than are opening now."""
        waiting = sum(not waiter.done() for waiter in self.waiters)
        return waiting - self.opening if self.terms.exclusive else min(waiting, 1) - self.opening
