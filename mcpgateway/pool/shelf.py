"""The sessions of one key, and who waits for one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Protocol

from mcpgateway.pool.key import PoolKey, Terms
from mcpgateway.pool.session import Lease, PooledSession


class Waiter(Protocol):
    """Somebody who wants a lease. `done` is true once it was served or gave up; `turn` says who came first.

    `generation` is that of a session which is opened in the way this one asks for.
    """

    turn: int
    generation: int

    def done(self) -> bool: ...

    def grant(self, lease: Lease) -> None: ...

    def refuse(self, error: BaseException) -> None: ...


class Shelf:
    """Holds the sessions of one key. Idle ones are taken last in first out, so that spares of a burst age out."""

    __slots__ = (
        "blocked_by",
        "busy",
        "closing",
        "dropped",
        "ends",
        "evicting",
        "idle",
        "key",
        "opening",
        "probing",
        "restock",
        "terms",
        "waiters",
    )

    def __init__(self, key: PoolKey, terms: Terms) -> None:
        self.key = key
        self.terms = terms
        self.idle: list[PooledSession] = []
        self.busy: set[PooledSession] = set()
        self.probing: set[PooledSession] = set()
        """Those of the busy ones that nobody uses: they are being asked whether they are alive."""
        self.opening = 0
        self.closing = 0
        self.waiters: OrderedDict[Waiter, None] = OrderedDict()
        self.blocked_by: str | None = None
        """The limit that keeps those in line from a session of their own: 'key', or a scope of `Reservations.full`."""
        self.evicting = 0
        """Sessions of others that are being closed to make room here."""
        self.ends = 0
        self.dropped = False
        """Whether the ledger has let go of it: its key may have another one by now."""
        self.restock: Callable[[], Awaitable[PooledSession]] | None = None
        """How a spare is opened, once it is known."""

    def __repr__(self) -> str:
        return f"<Shelf {len(self.busy)} leased, {len(self.idle)} idle, {self.opening} opening, {len(self.waiters)} waiting>"

    @property
    def size(self) -> int:
        """Sessions that take a place of this key: leased, idle, opening and closing."""
        return len(self.busy) + len(self.idle) + self.opening + self.closing

    @property
    def empty(self) -> bool:
        return not (self.idle or self.busy or self.opening or self.closing or self.waiters)

    def sharable(self, now: float) -> PooledSession | None:
        """A leased session that takes one more lease, where this key's sessions are shared among its calls."""
        if not self.terms.exclusive:
            for session in self.busy:
                if not spoiled(session, now) and session not in self.probing:
                    return session
        return None

    def first_waiter(self) -> Waiter | None:
        """The first in line who has not given up. Those who have are dropped from the line."""
        while self.waiters:
            waiter = next(iter(self.waiters))
            if not waiter.done():
                return waiter
            del self.waiters[waiter]
        return None

    def wanted(self) -> int:
        """How many more sessions those in line need than are on their way."""
        if self.first_waiter() is None:
            return 0
        waiting = len(self.waiters) if self.terms.exclusive else 1
        return waiting - self.opening - len(self.probing)

    def missing_spares(self) -> int:
        """How many single-use sessions are missing that should stand ready, nobody having asked for them yet."""
        if self.restock is None or self.waiters:
            return 0
        return self.terms.spares - len(self.idle) - self.opening


def spoiled(session: PooledSession, now: float) -> bool:
    """Whether a session is to be lent no more: retired, too old, or its wire is gone."""
    return session.retired or now > session.close_at or session.session.closed is True
