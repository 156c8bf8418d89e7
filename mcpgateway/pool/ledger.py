"""The ledger of all sessions: who holds which, who may open one, which are to be closed. It decides; it never waits.

What always holds: a session is on one shelf, the one of its key; an exclusive session has at most one lease; every session
and every opening has exactly one reservation; a shelf with nothing on it is not kept.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable

from mcpgateway.pool.key import PoolKey, Terms
from mcpgateway.pool.limits import Limits, Reservations, place_of
from mcpgateway.pool.session import Lease, PooledSession
from mcpgateway.pool.shelf import Shelf
from mcpgateway.pool.stats import PoolStats


class Ledger:
    """Every method returns at once; sessions it returns as 'to close' are off the shelves already and keep their
    reservation until `gone` is called for them."""

    def __init__(self, limits: Limits, stats: PoolStats) -> None:
        self.reservations = Reservations(limits)
        self.stats = stats
        self.shelves: dict[PoolKey, Shelf] = {}
        self.closing: set[PooledSession] = set()
        self._idle: OrderedDict[PooledSession, None] = OrderedDict()
        self._generations: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Ledger {len(self.shelves)} keys, {len(self._idle)} idle, {self.reservations!r}>"

    def shelf(self, key: PoolKey, terms: Terms) -> Shelf:
        """The shelf of `key`, made if there is none."""
        shelf = self.shelves.get(key)
        if shelf is None:
            shelf = self.shelves[key] = Shelf(key, terms)
        return shelf

    def warm(self, key: PoolKey, now: float) -> Lease | None:
        """A lease of a session that can be used as it is, or None. This is the ordinary call's whole way through the pool."""
        shelf = self.shelves.get(key)
        if shelf is None:
            return None
        idle = shelf.idle
        if idle:
            session = idle[-1]
            # Age is checked on taking as well as by the reaper, which comes round only now and then.
            if now - session.idle_since > shelf.terms.probe_after_seconds or spoiled(session, now):
                return None
            idle.pop()
            del self._idle[session]
            shelf.busy.add(session)
        else:
            shared = shelf.sharable()
            if shared is None:
                return None
            session = shared
        session.leases += 1
        session.uses += 1
        return Lease(session, now)

    def spoiled(self, key: PoolKey, now: float) -> list[PooledSession]:
        """Idle sessions of `key` that are too old to lend, to close."""
        shelf = self.shelves.get(key)
        if shelf is None:
            return []
        return [self._take_off(session) for session in list(shelf.idle) if spoiled(session, now)]

    def to_probe(self, key: PoolKey, now: float) -> Lease | None:
        """A lease of the idle session that must show that it is alive before it is used, or None."""
        shelf = self.shelves.get(key)
        if shelf is None or not shelf.idle or now - shelf.idle[-1].idle_since <= shelf.terms.probe_after_seconds:
            return None
        session = shelf.idle.pop()
        del self._idle[session]
        shelf.busy.add(session)
        session.leases += 1
        return Lease(session, now)

    def give_back(self, lease: Lease, now: float, keep: bool = True) -> PooledSession | None:
        """End a lease. The session to close, if it was the last lease of one that is not to be kept."""
        if lease.released:
            return None
        lease.released = True
        session = lease.pooled
        session.leases -= 1
        if not keep:
            session.retired = True
        if session.leases:
            return None
        if session.closed or session in self.closing:
            return None
        shelf = self.shelves[self._key(session)]
        if shelf.terms.single_use or spoiled(session, now):
            return self._take_off(session)
        session.idle_since = now
        self._shelve(shelf, session)
        return None

    def _shelve(self, shelf: Shelf, session: PooledSession) -> None:
        """Put a session back: to the first in line at once, if there is one, else among the idle."""
        shelf.busy.discard(session)
        shelf.idle.append(session)
        self._idle[session] = None
        self.serve(shelf, session.idle_since)

    def serve(self, shelf: Shelf, now: float) -> None:
        """Lend what is warm to those in line, first come first served."""
        while (waiter := shelf.first_waiter()) is not None:
            lease = self.warm(shelf.key, now)
            if lease is None:
                return
            shelf.waiters.popleft()
            waiter.grant(lease)

    def reserve(self, shelf: Shelf) -> str | None:
        """Take the place of a session that is about to be opened. The scope that is full, or None where it succeeded."""
        if shelf.size >= shelf.terms.max_sessions and shelf.terms.exclusive:
            return "key"
        full = self.reservations.full(shelf.key)
        if full is None:
            self.reservations.take(shelf.key)
            shelf.opening += 1
        return full

    def opened(self, shelf: Shelf, session: PooledSession, generation: int, close_at: float, now: float) -> None:
        """The opening succeeded: the session takes over the reservation and goes to the first in line."""
        session.key = shelf.key
        session.generation = generation
        session.opened_at = session.idle_since = now
        session.close_at = close_at
        session.retired = generation != self.generation(shelf.key)
        shelf.opening -= 1
        self.stats.opened += 1
        self._shelve(shelf, session)

    def not_opened(self, shelf: Shelf) -> None:
        """The opening failed: its place is free again."""
        shelf.opening -= 1
        self.stats.failed += 1
        self.reservations.give_back(shelf.key)
        self.forget_if_empty(shelf)

    def generation(self, key: PoolKey) -> int:
        """The generation that a session opened now belongs to."""
        return self._generations[place_of(key)]

    def drain(self, upstream: str) -> list[PooledSession]:
        """End the reuse of every session of `upstream`; those on lease finish first. Idle ones are returned, to close."""
        self._generations[upstream] += 1
        return self.retire(lambda session: place_of(self._key(session)) == upstream)

    def retire(self, which: Callable[[PooledSession], bool]) -> list[PooledSession]:
        """Lend the matching sessions no more. The idle ones are returned, to close; leased ones close as they come home."""
        idle = []
        for shelf in list(self.shelves.values()):
            idle += self.retire_on(shelf, which)
        return idle

    def retire_on(self, shelf: Shelf, which: Callable[[PooledSession], bool]) -> list[PooledSession]:
        """`retire` for the sessions of one shelf."""
        for session in shelf.busy:
            session.retired |= which(session)
        return [self._take_off(session) for session in list(shelf.idle) if which(session)]

    def abandon_leased(self) -> list[PooledSession]:
        """Every session on lease, to close under its holders. Only for the end of the pool."""
        return [self._take_off(session) for shelf in list(self.shelves.values()) for session in list(shelf.busy)]

    def lost_with_siblings(self, session: PooledSession) -> list[PooledSession]:
        """The session is dead, and with it its siblings that are as old, or idle for as long: what killed it killed them."""
        shelf = self.shelves.get(self._key(session))
        if shelf is None:
            return []
        return self.retire_on(
            shelf,
            lambda other: other.opened_at <= session.opened_at or (not other.leases and other.idle_since <= session.idle_since),
        )

    def evict_for(self, key: PoolKey, scope: str) -> PooledSession | None:
        """The least recently used idle session whose end makes room in `scope`, to close. Work in flight is never evicted."""
        for session in self._idle:
            if self._counts_in(self._key(session), key, scope):
                self.stats.evicted += 1
                return self._take_off(session)
        return None

    def room_is_coming(self, key: PoolKey, scope: str) -> bool:
        """Whether a session that is being closed will make room in `scope`, so that none needs to be evicted."""
        return any(self._counts_in(self._key(session), key, scope) for session in self.closing)

    @staticmethod
    def _counts_in(key: PoolKey, other: PoolKey, scope: str) -> bool:
        if scope == "upstream":
            return place_of(key) == place_of(other)
        return scope == "total" or key.user == other.user

    def due(self, now: float) -> list[PooledSession]:
        """Idle sessions that are too old or were idle for too long, to close."""
        return [self._take_off(session) for session in list(self._idle) if self._is_due(session, now)]

    def _is_due(self, session: PooledSession, now: float) -> bool:
        terms = self.shelves[self._key(session)].terms
        return spoiled(session, now) or now - session.idle_since >= terms.max_idle_seconds

    def gone(self, session: PooledSession) -> None:
        """A session that was to be closed is closed: its place is free."""
        if session in self.closing:
            self.closing.discard(session)
            self.stats.closed += 1
            self.reservations.give_back(self._key(session))

    def _take_off(self, session: PooledSession) -> PooledSession:
        shelf = self.shelves[self._key(session)]
        if session in self._idle:
            shelf.idle.remove(session)
            del self._idle[session]
        shelf.busy.discard(session)
        session.retired = True
        session.closed = True
        self.closing.add(session)
        self.forget_if_empty(shelf)
        return session

    def forget_if_empty(self, shelf: Shelf) -> None:
        if shelf.empty:
            self.shelves.pop(shelf.key, None)

    @staticmethod
    def _key(session: PooledSession) -> PoolKey:
        if session.key is None:
            raise ValueError(f"{session!r} is not of this pool")
        return session.key

    def sessions(self) -> Iterable[PooledSession]:
        """Every session on a shelf."""
        for shelf in self.shelves.values():
            yield from shelf.idle
            yield from shelf.busy

    @property
    def idle_count(self) -> int:
        return len(self._idle)


def spoiled(session: PooledSession, now: float) -> bool:
    """Whether a session is to be lent no more: retired, too old, or its wire is gone."""
    return session.retired or now >= session.close_at or session.session.closed is True
