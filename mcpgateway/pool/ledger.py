"""The ledger of all sessions: who holds which, who may open one, which are to be closed. It decides; it never waits.

What always holds: a session is on one shelf, the one of its key; an exclusive session has at most one lease; every session
and every opening has exactly one reservation, until it is gone; a shelf with nothing on it is not kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from mcpgateway.pool.key import PoolKey, Terms, place_of
from mcpgateway.pool.limits import Limits, Reservations
from mcpgateway.pool.session import Lease, PooledSession
from mcpgateway.pool.shelf import Shelf, spoiled
from mcpgateway.pool.stats import PoolStats


class Ledger:
    """Every method returns at once; sessions it returns as 'to close' are off the shelves already and keep their
    reservation until `gone` is called for them."""

    def __init__(self, limits: Limits, stats: PoolStats) -> None:
        self.reservations = Reservations(limits)
        self.stats = stats
        self.shelves: dict[PoolKey, Shelf] = {}
        self.closing: dict[PooledSession, Shelf | None] = {}
        """Sessions that are being closed, each with the shelf that it makes room for, if it was evicted."""
        self._generations: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Ledger {len(self.shelves)} keys, {self.idle_count} idle, {self.reservations!r}>"

    def shelf(self, key: PoolKey, terms: Terms) -> Shelf:
        """The shelf of `key`, made if there is none."""
        shelf = self.shelves.get(key)
        if shelf is None:
            shelf = self.shelves[key] = Shelf(key, terms)
        return shelf

    # Lending.

    def warm(self, shelf: Shelf, now: float) -> Lease | None:
        """A lease of a session that can be used as it is, or None. This is the ordinary call's whole way through the pool."""
        idle = shelf.idle
        if idle:
            session = idle[-1]
            # Age is checked on taking as well as by the reaper, which comes round only now and then.
            if now - session.idle_since > shelf.terms.probe_after_seconds or spoiled(session, now):
                return None
            idle.pop()
            shelf.busy.add(session)
        else:
            shared = shelf.sharable(now)
            if shared is None:
                return None
            session = shared
        session.leases += 1
        session.uses += 1
        return Lease(session, now)

    def serve(self, shelf: Shelf, now: float) -> None:
        """Lend what is warm to those in line, first come first served."""
        while (waiter := shelf.first_waiter()) is not None:
            lease = self.warm(shelf, now)
            if lease is None:
                return
            del shelf.waiters[waiter]
            waiter.grant(lease)

    def give_back(self, lease: Lease, now: float, keep: bool = True) -> PooledSession | None:
        """End a lease. The session to close, if it was the last lease of one that is not to be kept."""
        if lease.released:
            return None
        lease.released = True
        session = lease.pooled
        session.leases -= 1
        if not keep:
            session.retired = True
        if session.leases or session.closed:
            return None
        shelf = session.shelf
        if shelf.terms.single_use or spoiled(session, now):
            return self._take_off(session)
        session.idle_since = now
        shelf.busy.discard(session)
        shelf.idle.append(session)
        if shelf.waiters:
            self.serve(shelf, now)
        return None

    # Probing.

    def to_probe(self, shelf: Shelf, now: float) -> Lease | None:
        """A lease of the idle session that must show that it is alive before it is used, or None."""
        if not shelf.idle or now - shelf.idle[-1].idle_since <= shelf.terms.probe_after_seconds:
            return None
        session = shelf.idle.pop()
        shelf.busy.add(session)
        shelf.probing.add(session)
        session.leases += 1
        return Lease(session, now)

    def probed(self, lease: Lease, now: float) -> PooledSession | None:
        """The probed session is alive: it goes to the first in line. It is returned if it is to be closed all the same."""
        lease.pooled.shelf.probing.discard(lease.pooled)
        return self.give_back(lease, now)

    def found_dead(self, lease: Lease, now: float) -> list[PooledSession]:
        """The session is of no use any more, and neither are its siblings of its age. Those to close now."""
        idle = self._siblings_too_old(lease.pooled)
        dead = self.give_back(lease, now, keep=False)
        return idle if dead is None else [*idle, dead]

    def _siblings_too_old(self, session: PooledSession) -> list[PooledSession]:
        """Retire what was opened before the dead session, or idled for as long: what killed it killed them."""
        return self.retire_on(
            session.shelf,
            lambda other: other.opened_at <= session.opened_at or (not other.leases and other.idle_since <= session.idle_since),
        )

    # Opening.

    def reserve(self, shelf: Shelf) -> str | None:
        """Take the place of a session that is about to be opened. The scope that is full, or None where it succeeded."""
        if shelf.terms.exclusive and shelf.size >= shelf.terms.max_sessions:
            return "key"
        full = self.reservations.full(shelf.key)
        if full is None:
            self.reservations.take(shelf.key)
            shelf.opening += 1
        return full

    def generation(self, shelf: Shelf) -> int:
        """What a session that is opened now belongs to. It grows whenever those opened before are to be lent no more."""
        return self._generations[place_of(shelf.key)] + shelf.ends

    def opened(self, shelf: Shelf, session: PooledSession, generation: int, close_at: float, now: float) -> None:
        """The opening succeeded: the session takes over the reservation and goes to the first in line."""
        session.shelf = shelf
        session.key = shelf.key
        session.generation = generation
        session.opened_at = session.idle_since = now
        session.close_at = close_at
        shelf.opening -= 1
        self.stats.opened += 1
        if generation == self.generation(shelf):
            shelf.idle.append(session)
            self.serve(shelf, now)
        else:
            self._lend_once(shelf, session)

    def _lend_once(self, shelf: Shelf, session: PooledSession) -> None:
        """The session was drained before it was open: it is for those alone who stood in line before that."""
        session.retired = True
        first = [waiter for waiter in shelf.waiters if waiter.generation == session.generation and not waiter.done()]
        if session.session.closed is True:
            first = []
        for waiter in first[:1] if shelf.terms.exclusive else first:
            del shelf.waiters[waiter]
            session.leases += 1
            session.uses += 1
            waiter.grant(Lease(session, session.opened_at))
        if session.leases:
            shelf.busy.add(session)
        else:
            shelf.idle.append(session)

    def not_opened(self, shelf: Shelf) -> None:
        """The opening failed: its place is free again."""
        shelf.opening -= 1
        self.stats.failed += 1
        self.reservations.give_back(shelf.key)
        self.forget_if_empty(shelf)

    # Ending.

    def spoiled(self, shelf: Shelf, now: float) -> list[PooledSession]:
        """Idle sessions of the shelf that are to be lent no more, to close."""
        return [self._take_off(session) for session in list(shelf.idle) if spoiled(session, now)]

    def due(self, now: float) -> list[PooledSession]:
        """Idle sessions that are too old or were idle for too long, to close."""
        return [self._take_off(session) for session in list(self._idle()) if self._is_due(session, now)]

    def _is_due(self, session: PooledSession, now: float) -> bool:
        return spoiled(session, now) or now - session.idle_since >= session.shelf.terms.max_idle_seconds

    def end(self, key: PoolKey) -> list[PooledSession]:
        """Lend no session of `key` that exists or is being opened now. The idle ones are returned, to close."""
        shelf = self.shelves.get(key)
        if shelf is None:
            return []
        shelf.ends += 1
        shelf.restock = None
        return self.retire_on(shelf, lambda session: True)

    def drain(self, upstream: str) -> list[PooledSession]:
        """As `end`, for every session of `upstream`."""
        self._generations[upstream] += 1
        shelves = [shelf for shelf in self.shelves.values() if place_of(shelf.key) == upstream]
        for shelf in shelves:
            shelf.restock = None
        return [session for shelf in shelves for session in self.retire_on(shelf, lambda session: True)]

    def retire(self, which: Callable[[PooledSession], bool]) -> list[PooledSession]:
        """Lend the matching sessions no more. The idle ones are returned, to close; leased ones close as they come home."""
        return [session for shelf in list(self.shelves.values()) for session in self.retire_on(shelf, which)]

    def retire_on(self, shelf: Shelf, which: Callable[[PooledSession], bool]) -> list[PooledSession]:
        """`retire` for the sessions of one shelf."""
        for session in shelf.busy:
            session.retired |= which(session)
        return [self._take_off(session) for session in list(shelf.idle) if which(session)]

    def abandon_leased(self) -> list[PooledSession]:
        """Every session on lease, to close under its holders. Only for the end of the pool."""
        return [self._take_off(session) for shelf in list(self.shelves.values()) for session in list(shelf.busy)]

    def evict_for(self, shelf: Shelf, scope: str) -> PooledSession | None:
        """The least recently used idle session whose end makes room in `scope`, to close. Work in flight is never evicted.

        All are looked at, of ten thousand for a millisecond or two, though only where a handshake follows. To keep them in
        order would cost something in every call.
        """
        idle = (session for session in self._idle() if _counts_in(scope, session.shelf.key, shelf.key))
        session = min(idle, key=lambda session: session.idle_since, default=None)
        if session is not None:
            self.stats.evicted += 1
            self._take_off(session)
            self.closing[session] = shelf
            shelf.evicting += 1
        return session

    def gone(self, session: PooledSession) -> Shelf | None:
        """A session that was to be closed is closed: its place is free. The shelf that it made room for, if it was evicted."""
        if session not in self.closing:
            return None
        room_for = self.closing.pop(session)
        if room_for is not None:
            room_for.evicting -= 1
        shelf = session.shelf
        shelf.closing -= 1
        self.stats.closed += 1
        self.reservations.give_back(shelf.key)
        self.forget_if_empty(shelf)
        return room_for

    def _take_off(self, session: PooledSession) -> PooledSession:
        shelf = session.shelf
        if session in shelf.idle:
            shelf.idle.remove(session)
        shelf.busy.discard(session)
        shelf.probing.discard(session)
        session.retired = True
        session.closed = True
        self.closing[session] = None
        shelf.closing += 1
        return session

    def forget_if_empty(self, shelf: Shelf) -> None:
        """Drop the shelf if nothing is on it."""
        # Somebody may still hold a shelf that was dropped before, while its key has a new one.
        if shelf.empty and self.shelves.get(shelf.key) is shelf:
            shelf.dropped = True
            del self.shelves[shelf.key]

    @property
    def idle_count(self) -> int:
        """Sessions that nobody holds."""
        return sum(len(shelf.idle) for shelf in self.shelves.values())

    def _idle(self) -> Iterator[PooledSession]:
        return (session for shelf in self.shelves.values() for session in shelf.idle)


def _counts_in(scope: str, key: PoolKey, other: PoolKey) -> bool:
    """Whether two keys take places of the same limit."""
    if scope == "upstream":
        return place_of(key) == place_of(other)
    return scope == "total" or key.user == other.user
